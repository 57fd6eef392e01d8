//! Finds what is left of the sessions that shells led.
//!
//! A shell leads a session of the kernel's, and all that it starts belongs to
//! it, whatever process group it is in, unless it makes a session of its own.

use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, test_kill_process};

/// How often all processes are looked through: some may fork meanwhile.
const ROUNDS_MAX: u32 = 16;

/// Kills what belongs to the sessions of these leaders: shells that are or were
/// ours just now, and shells that ended long ago.
pub(super) fn kill(leaders: &[Pid], past: impl Iterator<Item = Pid>) {
    // While something is left of a session, no new process gets its leader's
    // number. So one that has it is another one's, and nothing is left.
    let past = past.filter(|leader| test_kill_process(*leader).is_err());
    let sessions: Vec<i32> = past
        .chain(leaders.iter().copied())
        .map(|pid| pid.as_raw_nonzero().get())
        .collect();
    for _ in 0..ROUNDS_MAX {
        if !kill_once(&sessions) {
            return;
        }
    }
}

/// Whether there was something to kill.
fn kill_once(sessions: &[i32]) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return false;
    };
    let mut found = false;
    for entry in processes.flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else {
            continue;
        };
        let belongs = || is_alive_in(&entry.path(), sessions);
        if !belongs() {
            continue;
        }
        // Looked at again once its number cannot be given to another one.
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        if belongs() {
            found |= pidfd_send_signal(&process, Signal::KILL).is_ok();
        }
    }
    found
}

fn is_alive_in(process: &Path, sessions: &[i32]) -> bool {
    let stat = std::fs::read(process.join("stat")).unwrap_or_default();
    parse(&stat).is_some_and(|(is_alive, session)| is_alive && sessions.contains(&session))
}

/// State and session from a line of `PID (NAME) STATE PARENT GROUP SESSION …`.
fn parse(stat: &[u8]) -> Option<(bool, i32)> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().take(4).collect();
    let [state, _, _, session] = fields[..] else {
        return None;
    };
    Some((!matches!(state, "Z" | "X"), session.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read_whatever_the_name() {
        let parse = |line: &str| parse(line.as_bytes());
        assert_eq!(parse("7 (sh) S 1 7 9 0 -1"), Some((true, 9)));
        assert_eq!(parse("7 (a) Z 1 (b) Z 1 7 8 0"), Some((false, 8)));
        assert_eq!(parse("7 (sh) S 1"), None);
        assert_eq!(parse(""), None);
    }
}
