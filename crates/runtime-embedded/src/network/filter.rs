//! The host's firewall: one table for all sandboxes, set up by `nft`, and one
//! element per sandbox, written straight to the kernel because a run of `nft`
//! would take longer than making the whole sandbox.

mod elements;

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, mkdir, open},
    io::Errno,
};

use elements::probe;
pub(super) use elements::{Elements, Source};

use super::{
    config::NetworkConfig,
    error::NetworkError,
    link,
    plan::{TABLE, ruleset},
    program,
};

/// How long another server may hold the lock: it runs `nft` under it.
const LOCK_DEADLINE: Duration = Duration::from_secs(10);
/// How often the lock is tried meanwhile; the kernel tells nobody when it is freed.
const LOCK_POLL: Duration = Duration::from_millis(5);
/// How much of what `nft` says goes into an error.
const DETAIL_CHARS_MAX: usize = 400;

/// Whether this host can filter, and what to do if not.
pub(super) fn capability() -> Result<PathBuf, String> {
    let program = program::find("nft").ok_or(
        "the program `nft` is not installed; install nftables, e.g. `apt-get install nftables`",
    )?;
    probe().map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "the firewall can only be changed by root (CAP_NET_ADMIN)".to_owned()
        }
        _ => format!("the kernel has no nf_tables firewall: {error}"),
    })?;
    Ok(program)
}

/// Makes the table, or brings its rules up to date; running sandboxes notice nothing.
pub(super) fn set_up(config: &NetworkConfig) -> Result<(), NetworkError> {
    let _lock = lock(&config.lock_dir)?;
    transaction(&ruleset(config), "take the rules of sandboxes")
}

/// Makes another change of the host's firewall, in one transaction.
pub(super) fn change(
    config: &NetworkConfig,
    text: &str,
    action: &'static str,
) -> Result<(), NetworkError> {
    let _lock = lock(&config.lock_dir)?;
    transaction(text, action)
}

/// Deletes the table unless a sandbox still uses it.
pub(super) fn remove(config: &NetworkConfig) -> Result<(), NetworkError> {
    let _lock = lock(&config.lock_dir)?;
    if !Elements::open()?.list()?.is_empty() || !link::list()?.is_empty() {
        return Ok(());
    }
    // Added first, because deleting what does not exist is an error.
    transaction(
        &format!("add table inet {TABLE}\ndelete table inet {TABLE}\n"),
        "delete the rules of sandboxes",
    )
}

fn transaction(text: &str, action: &'static str) -> Result<(), NetworkError> {
    let program = capability().map_err(|reason| NetworkError::Unavailable { reason })?;
    let output = program::run(&program, &["-f", "-"], text).map_err(|source| {
        NetworkError::FilterProgram {
            path: program.clone(),
            source,
        }
    })?;
    if output.success {
        return Ok(());
    }
    let words = output
        .problem
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    Err(NetworkError::FilterRefused {
        action,
        detail: words.chars().take(DETAIL_CHARS_MAX).collect(),
    })
}

/// The host's lock for changes of the table; released when dropped.
#[derive(Debug)]
struct Lock {
    _descriptor: rustix::fd::OwnedFd,
}

fn lock(folder: &Path) -> Result<Lock, NetworkError> {
    let path = folder.join("network.lock");
    let failed = |source: Errno| NetworkError::Lock {
        path: path.clone(),
        source: source.into(),
    };
    match mkdir(folder, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(failed(error)),
    }
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let descriptor = open(&path, flags, Mode::from_raw_mode(0o600)).map_err(failed)?;
    let deadline = Instant::now() + LOCK_DEADLINE;
    loop {
        match flock(&descriptor, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                return Ok(Lock {
                    _descriptor: descriptor,
                });
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if Instant::now() < deadline => link::pause(LOCK_POLL),
            Err(Errno::AGAIN) => return Err(failed(Errno::TIMEDOUT)),
            Err(error) => return Err(failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_is_exclusive_and_ends_with_its_holder() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("run");
        let held = lock(&config).unwrap();
        let waiting = std::thread::spawn({
            let config = config.clone();
            move || {
                let started = Instant::now();
                lock(&config).unwrap();
                started.elapsed()
            }
        });
        link::pause(Duration::from_millis(200));
        drop(held);
        assert!(waiting.join().unwrap() >= Duration::from_millis(100));
    }
}
