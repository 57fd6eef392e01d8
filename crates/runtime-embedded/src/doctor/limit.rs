//! Limits of the kernel that all sandboxes share.

use std::fs;

use sandbox::check::Check;

use super::host::{Host, set};

/// A connection takes two, an open stream one more.
const OPEN_FILES_MIN: u64 = 65_536;
/// A browser alone takes hundreds of processes and threads.
const PROCESSES_MIN: u64 = 65_536;
const PROCESSES_USUAL: u64 = 4_194_304;
/// Every program that watches files takes an instance; all sandboxes together
/// have those of root, who makes their namespaces.
const WATCHERS_MIN: u64 = 1_024;
const WATCHERS_USUAL: u64 = 8_192;
const WATCHES_MIN: u64 = 65_536;
const WATCHES_USUAL: u64 = 524_288;
/// Less than this in use by nobody makes the next sandboxes fail.
const MEMORY_KIB_MIN: u64 = 512 << 10;
/// `vm.overcommit_memory`: no more may be promised than there is.
const OVERCOMMIT_NEVER: u64 = 2;

pub(super) fn checks(host: &Host) -> Vec<Check> {
    let mut checks = vec![open_files(host), processes(host), watches(host)];
    checks.extend(memory(host));
    checks
}

/// Of the servers that run; else of this program, which a server started from
/// here would have.
fn open_files(host: &Host) -> Check {
    const NAME: &str = "open files";
    let servers = servers(host);
    let (whose, limit) = match servers.iter().min_by_key(|(_, limit)| *limit) {
        Some((pid, limit)) => (format!("the server {pid} may have"), Some(*limit)),
        None => (
            "a server started from here may have".to_owned(),
            host.text("proc/self/limits")
                .and_then(|text| soft_limit(&text)),
        ),
    };
    match limit {
        None => Check::warn(NAME, "the kernel does not tell the limit"),
        Some(limit) if limit < OPEN_FILES_MIN => {
            Check::warn(NAME, format!("{whose} only {limit}")).fix(format!(
                "LimitNOFILE=1048576 in the service's unit, as in deploy/systemd; by hand `ulimit -n {OPEN_FILES_MIN}` before"
            ))
        }
        Some(u64::MAX) => Check::pass(NAME, format!("{whose} any number")),
        Some(limit) => Check::pass(NAME, format!("{whose} {limit}")),
    }
}

/// Process ids of servers, with how many files each may have open.
fn servers(host: &Host) -> Vec<(u32, u64)> {
    let entries = fs::read_dir(host.path("proc"))
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let command = host.text(&format!("proc/{pid}/cmdline"))?;
            let mut words = command.split('\0');
            let program = words.next()?.rsplit('/').next()?;
            if program != "sandboxai" || !words.any(|word| word == "serve") {
                return None;
            }
            Some((pid, soft_limit(&host.text(&format!("proc/{pid}/limits"))?)?))
        })
        .collect()
}

/// The first number of the line about open files in `/proc/PID/limits`.
fn soft_limit(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn processes(host: &Host) -> Check {
    const NAME: &str = "processes";
    for setting in ["kernel.pid_max", "kernel.threads-max"] {
        if let Some(max) = host.setting(setting).filter(|max| *max < PROCESSES_MIN) {
            let finding = format!("{setting} is {max}, for all sandboxes and the host together");
            return Check::warn(NAME, finding).fix(set(setting, PROCESSES_USUAL));
        }
    }
    match host.setting("kernel.pid_max") {
        Some(max) => Check::pass(NAME, format!("up to {max} on this host")),
        None => Check::warn(NAME, "the kernel does not tell kernel.pid_max"),
    }
}

fn watches(host: &Host) -> Check {
    const NAME: &str = "watched files";
    const INSTANCES: &str = "fs.inotify.max_user_instances";
    const WATCHES: &str = "fs.inotify.max_user_watches";
    for (setting, min, usual) in [
        (INSTANCES, WATCHERS_MIN, WATCHERS_USUAL),
        (WATCHES, WATCHES_MIN, WATCHES_USUAL),
    ] {
        if let Some(max) = host.setting(setting).filter(|max| *max < min) {
            let finding = format!(
                "{setting} is {max}, for all sandboxes together: development servers that reload fail first"
            );
            return Check::warn(NAME, finding).fix(set(setting, usual));
        }
    }
    match (host.setting(INSTANCES), host.setting(WATCHES)) {
        (Some(instances), Some(watches)) => {
            Check::pass(NAME, format!("{watches} by {instances} programs"))
        }
        _ => Check::warn(NAME, "the kernel has no inotify")
            .fix("use a kernel with CONFIG_INOTIFY_USER"),
    }
}

fn memory(host: &Host) -> Vec<Check> {
    const NAME: &str = "memory";
    let table = host.text("proc/meminfo").unwrap_or_default();
    let kib = |name: &str| -> Option<u64> {
        let line = table.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':')
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    };
    let gib = |kib: u64| {
        let tenths = kib * 10 / (1 << 20);
        format!("{}.{} GiB", tenths / 10, tenths % 10)
    };
    let mut checks = Vec::new();
    match (kib("MemTotal"), kib("MemAvailable")) {
        (Some(total), Some(available)) => {
            let swap = match kib("SwapTotal") {
                None | Some(0) => "no swap; sandboxes never have any".to_owned(),
                Some(swap) => format!("{} swap, not for sandboxes", gib(swap)),
            };
            let found = format!("{} of {} available; {swap}", gib(available), gib(total));
            checks.push(if available < MEMORY_KIB_MIN {
                Check::warn(NAME, found)
                    .fix("stop sandboxes (`sandboxai stop`), lower `sandbox.memory` or `limits.sandboxes`, or add memory")
            } else {
                Check::pass(NAME, found)
            });
        }
        _ => checks.push(Check::warn(NAME, "the kernel does not tell")),
    }
    const OVERCOMMIT: &str = "vm.overcommit_memory";
    if host.setting(OVERCOMMIT) == Some(OVERCOMMIT_NEVER) {
        let finding = format!(
            "{OVERCOMMIT} is 2: programs that ask for much and use little, as browsers do, are refused"
        );
        checks.push(Check::warn("memory promised", finding).fix(set(OVERCOMMIT, 0)));
    }
    checks
}

#[cfg(test)]
mod tests {
    use sandbox::check::Status;

    use super::{super::host::mock, *};

    const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units     \nMax cpu time              unlimited            unlimited            seconds   \nMax open files            1024                 1048576              files     \n";

    #[test]
    fn the_limit_of_a_running_server_counts() {
        let (_folder, host) = mock::host(&[("proc/self/limits", LIMITS)]);
        let check = open_files(&host);
        assert_eq!(
            check.finding,
            "a server started from here may have only 1024"
        );
        let raised = LIMITS.replacen("1024 ", "1048576 ", 1);
        let (_folder, host) = mock::host(&[
            ("proc/self/limits", LIMITS),
            ("proc/77/cmdline", "/usr/local/bin/sandboxai\0serve\0"),
            ("proc/77/limits", &raised),
            ("proc/78/cmdline", "/usr/local/bin/sandboxai\0doctor\0"),
            ("proc/78/limits", LIMITS),
        ]);
        let check = open_files(&host);
        assert_eq!(check.finding, "the server 77 may have 1048576");
        assert_eq!(check.status, Status::Pass);
    }

    #[test]
    fn small_limits_are_named_with_the_setting() {
        let (_folder, host) = mock::host(&[
            ("proc/sys/kernel/pid_max", "32768\n"),
            ("proc/sys/kernel/threads-max", "190000\n"),
            ("proc/sys/fs/inotify/max_user_instances", "128\n"),
            ("proc/sys/fs/inotify/max_user_watches", "8192\n"),
            ("proc/sys/vm/overcommit_memory", "2\n"),
            (
                "proc/meminfo",
                "MemTotal: 2048000 kB\nMemAvailable: 100000 kB\nSwapTotal: 1048576 kB\n",
            ),
        ]);
        let found = checks(&host);
        for check in &found {
            assert_eq!(check.status, Status::Warn, "{check:?}");
        }
        let fixes: String = found.into_iter().filter_map(|check| check.fix).collect();
        for setting in [
            "kernel.pid_max=4194304",
            "fs.inotify.max_user_instances=8192",
            "vm.overcommit_memory=0",
        ] {
            assert!(fixes.contains(&format!("sysctl -w {setting}")), "{fixes}");
        }
    }

    #[test]
    fn usual_limits_pass() {
        let limits = LIMITS.replacen("1024 ", "unlimited ", 1);
        let (_folder, host) = mock::host(&[
            ("proc/self/limits", &limits),
            ("proc/sys/kernel/pid_max", "4194304\n"),
            ("proc/sys/kernel/threads-max", "190000\n"),
            ("proc/sys/fs/inotify/max_user_instances", "8192\n"),
            ("proc/sys/fs/inotify/max_user_watches", "524288\n"),
            ("proc/sys/vm/overcommit_memory", "0\n"),
            (
                "proc/meminfo",
                "MemTotal:       24000000 kB\nMemAvailable:   22000000 kB\nSwapTotal: 0 kB\n",
            ),
        ]);
        for check in checks(&host) {
            assert_eq!(check.status, Status::Pass, "{check:?}");
        }
    }
}
