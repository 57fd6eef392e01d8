//! Whether the kernel lets the spawner make user namespaces.

use sandbox::check::Check;

use super::host::{Host, set};

/// One is taken by each sandbox, and more by what runs inside.
const NAMESPACES_MIN: u64 = 1_000;
/// What most distributions have.
const NAMESPACES_USUAL: u64 = 60_000;
/// `CAP_SYS_ADMIN`, as a bit of `CapEff`.
const SYS_ADMIN: u64 = 1 << 21;
/// Ubuntu's restriction, since 23.10.
const APPARMOR_SETTING: &str = "kernel.apparmor_restrict_unprivileged_userns";

pub(super) fn checks(host: &Host) -> Vec<Check> {
    vec![number(host), apparmor(host)]
}

fn number(host: &Host) -> Check {
    const NAME: &str = "user namespaces";
    const SETTING: &str = "user.max_user_namespaces";
    let max = host.setting(SETTING);
    match max {
        None => Check::fail(NAME, "the kernel has none").fix("use a kernel with CONFIG_USER_NS"),
        Some(0) => Check::fail(NAME, format!("{SETTING} is 0")).fix(set(SETTING, NAMESPACES_USUAL)),
        Some(max) if max < NAMESPACES_MIN => Check::warn(
            NAME,
            format!("{SETTING} is {max}, and every sandbox takes one"),
        )
        .fix(set(SETTING, NAMESPACES_USUAL)),
        Some(max) => Check::pass(NAME, format!("up to {max} per user")),
    }
}

/// AppArmor refuses user namespaces in two ways: by a profile that confines this
/// program, and to everybody without `CAP_SYS_ADMIN` (Ubuntu).
fn apparmor(host: &Host) -> Check {
    const NAME: &str = "AppArmor";
    if host
        .text("sys/module/apparmor/parameters/enabled")
        .is_none_or(|text| text.trim() != "Y")
    {
        return Check::pass(NAME, "not in use");
    }
    // The second is of kernels where other modules may confine as well.
    let label = host
        .text("proc/self/attr/apparmor/current")
        .or_else(|| host.text("proc/self/attr/current"))
        .unwrap_or_default();
    let label = label.trim_matches(['\0', '\n', ' ']);
    if let Some(profile) = label.strip_suffix(" (enforce)") {
        return Check::warn(NAME, format!("the profile {profile} confines this program")).fix(
            "run the server unconfined: in a container by `--security-opt apparmor=unconfined`, under systemd without `AppArmorProfile=`",
        );
    }
    if host.setting(APPARMOR_SETTING) != Some(1)
        && host.setting("kernel.unprivileged_userns_clone") != Some(0)
    {
        return Check::pass(NAME, "does not restrict user namespaces");
    }
    let may = host.text("proc/self/status").is_some_and(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
            .is_some_and(|bits| bits & SYS_ADMIN != 0)
    });
    if may {
        return Check::pass(
            NAME,
            "user namespaces are restricted to root, which the spawner is",
        );
    }
    Check::warn(NAME, format!("{APPARMOR_SETTING} is 1 and this is not root: user namespaces have no rights"))
        .fix(format!(
            "start the server as root; or allow it by a profile: `printf 'abi <abi/4.0>,\\ninclude <tunables/global>\\nprofile sandboxai /usr/local/bin/sandboxai flags=(unconfined) {{ userns, }}\\n' > /etc/apparmor.d/sandboxai && apparmor_parser -r /etc/apparmor.d/sandboxai`; or lift it for all: {}",
            set(APPARMOR_SETTING, 0)
        ))
}

#[cfg(test)]
mod tests {
    use sandbox::check::Status;

    use super::{super::host::mock, *};

    const ENABLED: (&str, &str) = ("sys/module/apparmor/parameters/enabled", "Y\n");
    const RESTRICTED: (&str, &str) = (
        "proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1\n",
    );
    const LABEL: &str = "proc/self/attr/current";
    const STATUS: &str = "proc/self/status";

    fn apparmor_of(files: &[(&str, &str)]) -> Check {
        let (_folder, host) = mock::host(files);
        apparmor(&host)
    }

    #[test]
    fn the_number_of_namespaces_is_bounded_by_the_kernel() {
        const FILE: &str = "proc/sys/user/max_user_namespaces";
        for (text, status) in [
            ("0\n", Status::Fail),
            ("31\n", Status::Warn),
            ("96000\n", Status::Pass),
        ] {
            let (_folder, host) = mock::host(&[(FILE, text)]);
            assert_eq!(number(&host).status, status, "{text}");
        }
        let (_folder, none) = mock::host(&[]);
        assert_eq!(number(&none).finding, "the kernel has none");
    }

    #[test]
    fn ubuntus_restriction_does_not_touch_root() {
        let root = (STATUS, "Name:\tx\nCapEff:\t000001ffffffffff\n");
        let check = apparmor_of(&[ENABLED, RESTRICTED, (LABEL, "unconfined\n"), root]);
        assert_eq!(check.status, Status::Pass);
        assert!(check.finding.contains("restricted to root"));
    }

    #[test]
    fn ubuntus_restriction_is_named_with_its_fix() {
        let user = (STATUS, "CapEff:\t0000000000000000\n");
        let check = apparmor_of(&[ENABLED, RESTRICTED, (LABEL, "unconfined\n"), user]);
        assert_eq!(check.status, Status::Warn);
        let fix = check.fix.unwrap();
        for part in [
            "profile sandboxai /usr/local/bin/sandboxai flags=(unconfined) { userns, }",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ] {
            assert!(fix.contains(part), "{fix}");
        }
    }

    #[test]
    fn a_profile_around_the_program_is_named() {
        let check = apparmor_of(&[ENABLED, (LABEL, "docker-default (enforce)\n")]);
        assert_eq!(check.status, Status::Warn);
        assert!(check.finding.contains("docker-default"));
        let complaining = apparmor_of(&[ENABLED, (LABEL, "sandboxai (complain)\n")]);
        assert_eq!(complaining.status, Status::Pass);
        assert_eq!(apparmor_of(&[]).finding, "not in use");
    }
}
