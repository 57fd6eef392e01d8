//! What this host can and cannot do for sandboxes, and what should not be there.

mod leak;

use std::{fs, path::Path};

use crate::{
    Config, cgroup,
    layout::Layout,
    network,
    seccomp::Filter,
    spawner::{Probe, probe},
};

pub use leak::{Leak, leaks};

/// The first kernel on which overlayfs takes id-mapped layers.
const KERNEL_MIN: (u32, u32) = (5, 19);
/// Less free space than this makes sandboxes fail soon.
const SPACE_BYTES_MIN: u64 = 1 << 30;

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// All is well.
    Pass,
    /// Sandboxes work, with less.
    Warn,
    /// Sandboxes do not work.
    Fail,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at, in a few words.
    pub name: String,
    /// How it is.
    pub status: Status,
    /// What was found.
    pub finding: String,
    /// What the operator can do about it.
    pub fix: Option<String>,
}

impl Check {
    fn new(name: &str, status: Status, finding: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            status,
            finding: finding.into(),
            fix: None,
        }
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

/// Looks at everything that sandboxes need. Tries out what can only be known by
/// trying, in a process and mount namespace of its own, and leaves nothing.
#[must_use]
pub fn checks(config: &Config) -> Vec<Check> {
    let layout = Layout::of(config);
    let mut checks = vec![privileges(), kernel(), user_namespaces(), filter()];
    checks.extend(control_groups(&layout));
    checks.push(file_systems(config, &layout));
    checks.extend(network_checks());
    checks.push(space(&config.state_dir));
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

fn user_namespaces() -> Check {
    const NAME: &str = "user namespaces";
    let number = |path: &str| -> Option<u64> { fs::read_to_string(path).ok()?.trim().parse().ok() };
    match number("/proc/sys/user/max_user_namespaces") {
        None => Check::new(NAME, Status::Fail, "the kernel has none")
            .fix("use a kernel with CONFIG_USER_NS"),
        Some(0) => Check::new(NAME, Status::Fail, "user.max_user_namespaces is 0")
            .fix("sysctl -w user.max_user_namespaces=60000"),
        Some(max) => {
            let restricted = number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
                == Some(1)
                || number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0);
            let note = if restricted {
                "; refused to ordinary users, which does not touch the spawner"
            } else {
                ""
            };
            Check::new(NAME, Status::Pass, format!("up to {max} per user{note}"))
        }
    }
}

fn filter() -> Check {
    const NAME: &str = "system call filter";
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
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

fn control_groups(layout: &Layout) -> Vec<Check> {
    const NAME: &str = "control groups";
    let cgroups = match cgroup::discover(&layout.cgroup_root()) {
        Ok(cgroups) => cgroups,
        Err(error) => {
            return vec![
                Check::new(NAME, Status::Fail, error.to_string())
                    .fix("mount -t cgroup2 none /sys/fs/cgroup"),
            ];
        }
    };
    let or_warn = |name: &str, works: Result<(), String>, good: String, fix: &str| match works {
        Ok(()) => Check::new(name, Status::Pass, good),
        Err(reason) => Check::new(name, Status::Warn, reason).fix(fix),
    };
    vec![
        or_warn(
            "limits",
            cgroups.limits(),
            cgroups.describe(),
            "enable the controllers at boot, e.g. cgroup_enable=memory on the kernel's command line",
        ),
        or_warn(
            "pause",
            cgroups.pause(),
            "sandboxes can be frozen".to_owned(),
            "mount the freezer controller",
        ),
    ]
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

fn space(state_dir: &Path) -> Check {
    const NAME: &str = "disk space";
    // The folder appears with the first start; until then its parent counts.
    let existing = state_dir.ancestors().find(|path| path.exists());
    let free = existing.and_then(|path| rustix::fs::statvfs(path).ok());
    match free.map(|info| info.f_bavail * info.f_frsize) {
        Some(bytes) if bytes >= SPACE_BYTES_MIN => Check::new(
            NAME,
            Status::Pass,
            format!("{} GiB free in {}", bytes >> 30, state_dir.display()),
        ),
        Some(bytes) => Check::new(
            NAME,
            Status::Warn,
            format!("only {} MiB free in {}", bytes >> 20, state_dir.display()),
        )
        .fix("remove images by `sandboxai image rm`, or configure another state folder"),
        None => Check::new(
            NAME,
            Status::Warn,
            format!("cannot look at {}", state_dir.display()),
        ),
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
    fn releases_are_compared_by_number() {
        assert_eq!(parse_release("6.1.0-13-amd64"), Some((6, 1)));
        assert!(parse_release("5.4.0").unwrap() < KERNEL_MIN);
        assert!(parse_release("10.0-rc1").unwrap() > KERNEL_MIN);
        assert_eq!(parse_release("linux"), None);
    }
}
