//! What every request may need.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicUsize},
};

use crate::{account, collector::Collector, environment::Environment, spawn::Spawner};

/// The agent's surroundings, shared by all threads.
#[derive(Debug)]
pub(crate) struct Context {
    /// Starts programs.
    pub(crate) spawner: Spawner,
    /// Reads pipes that nobody waits for.
    pub(crate) collector: Collector,
    /// Bytes kept of the output of all background processes.
    pub(crate) kept: Arc<AtomicUsize>,
    /// Counts what the kernel killed for lack of memory.
    pub(crate) out_of_memory: OutOfMemory,
    /// Environment of all programs.
    pub(crate) environment: Environment,
    /// Working directory of all commands; absolute.
    pub(crate) workdir: PathBuf,
}

impl Context {
    /// The environment of a command with variables of its own.
    pub(crate) fn env_with(&self, more: &BTreeMap<String, String>) -> Vec<(OsString, OsString)> {
        let mut env = self.environment.all();
        env.extend(more.iter().map(|(name, value)| (name.into(), value.into())));
        env.into_iter().collect()
    }

    /// The home directory of the user that programs run as.
    pub(crate) fn home(&self) -> String {
        let home = self.environment.all().remove(OsStr::new("HOME"));
        let home = home.map(|home| home.to_string_lossy().into_owned());
        home.filter(|home| home.starts_with('/'))
            .or_else(|| {
                let uid = rustix::process::geteuid().as_raw();
                Some(account::find_user(&uid.to_string())?.home)
            })
            .unwrap_or_else(|| "/".to_owned())
    }

    /// An absolute path from one that may be relative to the working directory.
    pub(crate) fn absolute(&self, path: impl AsRef<Path>) -> PathBuf {
        self.workdir.join(path)
    }
}

/// The kernel's count of processes killed for lack of memory in this sandbox.
#[derive(Debug)]
pub(crate) struct OutOfMemory {
    /// `memory.oom_control` (cgroup v1) or `memory.events` (v2), when given.
    file: Option<OwnedFd>,
}

/// Both files are a few short lines.
const COUNTER_BYTES_MAX: usize = 512;

impl OutOfMemory {
    /// From the counter's file, if there is one.
    pub(crate) fn new(file: Option<OwnedFd>) -> Self {
        Self { file }
    }

    /// How many were killed so far; 0 when it is not known.
    pub(crate) fn count(&self) -> u64 {
        let Some(file) = &self.file else { return 0 };
        let mut text = [0; COUNTER_BYTES_MAX];
        let length = rustix::io::pread(file, &mut text, 0).unwrap_or(0);
        parse(&text[..length])
    }
}

/// The value of the line `oom_kill N`.
fn parse(text: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(text);
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_the_counter_are_read() {
        let v1 = b"oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        let v2 = b"low 0\nhigh 1\nmax 2\noom 4\noom_kill 5\noom_group_kill 6\n";
        assert_eq!((parse(v1), parse(v2), parse(b"")), (3, 5, 0));
    }
}
