//! What this host can and cannot do for sandboxes, and what should not be there.

mod control_group;
mod disk;
mod host;
mod leak;
mod limit;
mod user_namespace;

use std::fs;

use sandbox::check::{Check, Status};

use crate::{
    Config,
    layout::Layout,
    network,
    seccomp::Filter,
    spawner::{Probe, probe},
};

use host::Host;
pub(crate) use leak::{KINDS as LEAK_KINDS, leaks_in};
pub use leak::{Leak, leaks};

/// The first kernel on which overlayfs takes id-mapped layers.
const KERNEL_MIN: (u32, u32) = (5, 19);
/// The kinds of namespaces that a sandbox has of its own.
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// Looks at everything that sandboxes need. Tries out what can only be known by
/// trying, in a process and mount namespace of its own, and leaves nothing.
#[must_use]
pub fn checks(config: &Config) -> Vec<Check> {
    let (layout, host) = (Layout::of(config), Host::this());
    let mut checks = vec![privileges(), kernel(), namespaces(&host), filter(&host)];
    checks.extend(user_namespace::checks(&host));
    checks.extend(control_group::checks(&layout));
    checks.push(file_systems(config, &layout));
    checks.extend(disk::checks(&config.state_dir));
    checks.extend(limit::checks(&host));
    checks.extend(network_checks());
    checks.push(clock(sys::clock::is_synchronized()));
    checks.extend(certificates(config));
    checks.push(left_overs(config));
    checks
}

fn privileges() -> Check {
    const NAME: &str = "privileges";
    if rustix::process::geteuid().is_root() {
        Check::new(NAME, Status::Pass, "running as root")
    } else {
        Check::new(NAME, Status::Fail, "not running as root")
            .fix("start the server as root, e.g. by sudo; only its spawner keeps the privileges")
    }
}

fn kernel() -> Check {
    const NAME: &str = "kernel";
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let (major, minor) = KERNEL_MIN;
    match parse_release(&release) {
        Some(version) if version >= KERNEL_MIN => Check::new(NAME, Status::Pass, release),
        Some(_) => Check::new(NAME, Status::Fail, format!("{release} is too old"))
            .fix(format!("use Linux {major}.{minor} or newer")),
        None => Check::new(NAME, Status::Warn, format!("cannot understand {release:?}")),
    }
}

/// The first two numbers of a kernel's release, e.g. of `6.1.0-13-amd64`.
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn namespaces(host: &Host) -> Check {
    const NAME: &str = "namespaces";
    let missing: Vec<&str> = NAMESPACES
        .into_iter()
        .filter(|kind| !host.path(&format!("proc/self/ns/{kind}")).exists())
        .collect();
    if missing.is_empty() {
        return Check::pass(NAME, NAMESPACES.join(", "));
    }
    Check::fail(
        NAME,
        format!("the kernel has none for {}", missing.join(", ")),
    )
    .fix("use a distribution's own kernel, or one with CONFIG_NAMESPACES and all below it")
}

fn filter(host: &Host) -> Check {
    const NAME: &str = "system call filter";
    let actions = host
        .text("proc/sys/kernel/seccomp/actions_avail")
        .unwrap_or_default();
    if !actions.split_whitespace().any(|action| action == "errno") {
        return Check::new(NAME, Status::Fail, "the kernel has no seccomp filters")
            .fix("use a kernel with CONFIG_SECCOMP_FILTER");
    }
    match Filter::compile() {
        Ok(_) => Check::new(NAME, Status::Pass, "seccomp filters work"),
        Err(error) => Check::new(NAME, Status::Fail, error.to_string())
            .fix("use a machine with the architecture x86_64 or aarch64"),
    }
}

/// Mounts a sandbox's file system for real.
fn file_systems(config: &Config, layout: &Layout) -> Check {
    const NAME: &str = "image layers";
    let folder = config.state_dir.display();
    match probe(layout) {
        Ok(Probe::Works) => Check::new(
            NAME,
            Status::Pass,
            format!("id-mapped overlayfs works in {folder}"),
        ),
        Ok(Probe::NotTried(reason)) => Check::new(NAME, Status::Warn, reason),
        Err(error) => Check::new(NAME, Status::Fail, error.to_string()),
    }
}

fn network_checks() -> Vec<Check> {
    const NAME: &str = "network";
    match network::capability() {
        Err(reason) => vec![
            Check::new(NAME, Status::Warn, reason)
                .fix("until then create sandboxes with the network mode \"none\""),
        ],
        Ok(()) => {
            let findings = network::findings();
            if findings.is_empty() {
                return vec![Check::new(NAME, Status::Pass, "mode \"open\" works")];
            }
            findings
                .into_iter()
                .map(|finding| Check::new(NAME, Status::Warn, finding))
                .collect()
        }
    }
}

/// Programs in sandboxes have the host's clock, as do the ends of links.
fn clock(synchronized: std::io::Result<bool>) -> Check {
    const NAME: &str = "clock";
    match synchronized {
        Ok(true) => Check::pass(NAME, "kept right"),
        Ok(false) => Check::warn(NAME, "nothing keeps it right: certificates and links may be refused")
            .fix("`timedatectl set-ntp true`, or install chrony; in a virtual machine the hypervisor may do it without telling"),
        Err(error) => Check::warn(NAME, format!("the kernel does not tell: {error}")),
    }
}

fn certificates(config: &Config) -> Option<Check> {
    const NAME: &str = "certificates";
    let path = config.ca_certificates.as_ref()?;
    let shown = path.display();
    Some(match fs::read(path) {
        Ok(bundle) if bundle.windows(11).any(|part| part == b"-----BEGIN ") => Check::new(
            NAME,
            Status::Pass,
            format!("{shown} replaces those of images"),
        ),
        Ok(_) => Check::new(
            NAME,
            Status::Fail,
            format!("{shown} has no certificate in PEM form"),
        )
        .fix("configure a bundle such as /etc/ssl/certs/ca-certificates.crt"),
        Err(error) => Check::new(NAME, Status::Fail, format!("cannot read {shown}: {error}"))
            .fix("correct the configured path"),
    })
}

fn left_overs(config: &Config) -> Check {
    const NAME: &str = "left-overs";
    match leaks(config).len() {
        0 => Check::new(
            NAME,
            Status::Pass,
            "nothing on this host belongs to no sandbox",
        ),
        count => Check::new(
            NAME,
            Status::Warn,
            format!("{count} things on this host belong to no known sandbox"),
        )
        .fix("`sandboxai doctor --leaks` lists them; the next start of the server removes them"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_a_kind_of_namespace_is_told() {
        let files: Vec<String> = NAMESPACES[..6]
            .iter()
            .map(|kind| format!("proc/self/ns/{kind}"))
            .collect();
        let files: Vec<(&str, &str)> = files.iter().map(|file| (file.as_str(), "")).collect();
        let (_folder, host) = host::mock::host(&files);
        let check = namespaces(&host);
        assert_eq!(check.status, Status::Fail);
        assert_eq!(check.finding, "the kernel has none for uts");
    }

    #[test]
    fn a_clock_that_nobody_keeps_is_told() {
        assert_eq!(clock(Ok(true)).status, Status::Pass);
        assert!(clock(Ok(false)).fix.is_some());
    }

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(parse_release("6.1.0-13-amd64"), Some((6, 1)));
        assert!(parse_release("5.4.0").unwrap() < KERNEL_MIN);
        assert!(parse_release("10.0-rc1").unwrap() > KERNEL_MIN);
        assert_eq!(parse_release("linux"), None);
    }
}
