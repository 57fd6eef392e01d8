//! What the engine's process may do, which the engine does not tell.

use std::{fs, os::unix::net::UnixStream};

use rustix::net::sockopt::socket_peercred;

/// `CAP_SYS_RESOURCE`, as a bit of `CapEff`: may raise limits over its own.
const SYS_RESOURCE: u64 = 1 << 24;
/// What no process may exceed.
const FILES_MAX: &str = "/proc/sys/fs/nr_open";

/// How many open files the engine that listens at `host` can give a container.
pub(super) fn open_files_max(host: &str) -> Option<i64> {
    let socket = UnixStream::connect(host.strip_prefix("unix://")?).ok()?;
    // Whoever made the socket: the engine, or systemd, which may do all.
    let pid = socket_peercred(&socket).ok()?.pid.as_raw_nonzero();
    let of = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
    let all = fs::read_to_string(FILES_MAX).ok()?.trim().parse().ok()?;
    judge(&of("status")?, &of("limits")?, all)
}

fn judge(status: &str, limits: &str, all: i64) -> Option<i64> {
    let rights = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    if u64::from_str_radix(rights.trim(), 16).ok()? & SYS_RESOURCE != 0 {
        return Some(all);
    }
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(all),
        hard => hard.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_with_the_right_a_limit_is_no_limit() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 20000                files     \n";
        let max = |rights: &str| {
            judge(
                &format!("Name:\tdockerd\nCapEff:\t{rights}\n"),
                limits,
                1 << 20,
            )
        };
        assert_eq!(max("000001ffffffffff"), Some(1 << 20));
        assert_eq!(max("00000000a80425fb"), Some(20_000));
        assert_eq!(judge("", limits, 1), None);
    }
}
