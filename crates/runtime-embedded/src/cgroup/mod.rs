//! Control groups: what a sandbox may use, what it has used, freezing and killing.
//!
//! Every sandbox has two groups below `<root>/<id>`: `user` for its workload
//! and `agent` for its first process, so that a workload that has used up its
//! memory or its processes cannot starve the agent. The kernel offers two
//! interfaces, in which hosts differ by controller: [`v1::Legacy`] also serves
//! hybrid hosts, [`v2::Unified`] is what current distributions have. Both are
//! found in the mount table, never assumed.

mod mountinfo;
mod v1;
mod v2;

use std::{
    fmt, fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sandbox::{Limits, Usage};

use crate::{
    error::{At as _, Error, Step},
    plan::CgroupPlan,
    wait::pause,
};

/// The kernel's table of what is mounted.
const TABLE: &str = "/proc/self/mountinfo";
/// The workload's group in that of a sandbox.
const USER: &str = "user";
/// The agent's group in that of a sandbox.
const AGENT: &str = "agent";
/// Length of the period that cpu time is limited by.
const CPU_PERIOD_US: u64 = 100_000;
/// How long a group may take to become empty after its processes were killed.
const EMPTY_DEADLINE: Duration = Duration::from_secs(5);
/// First and longest wait between two tries.
const RETRY_FIRST: Duration = Duration::from_micros(200);
const RETRY_LONGEST: Duration = Duration::from_millis(20);

/// How the first process comes into its groups.
///
/// Moving another process makes the kernel wait until no processor is in the middle of
/// a fork or exit, which takes ten milliseconds on a busy host. Being born in
/// a group and moving oneself by its `tasks` file do not.
#[derive(Debug)]
pub(crate) struct Entrance {
    /// The group in which it is born.
    pub(crate) birth: Option<OwnedFd>,
    /// Where it writes `0` to be in all of the workload's groups.
    pub(crate) user: Vec<OwnedFd>,
    /// Where it writes `0` to be in the agent's groups instead.
    pub(crate) agent: Vec<OwnedFd>,
}

/// What the agent is given of its sandbox's groups.
#[derive(Debug, Default)]
pub(crate) struct AgentFiles {
    /// Where a process with one thread writes `0` to join the workload's groups.
    pub(crate) join: Vec<OwnedFd>,
    /// Where `oom_kill` is counted.
    pub(crate) oom: Option<OwnedFd>,
}

/// The control groups of this host.
pub(crate) trait Cgroups: fmt::Debug + Send + Sync {
    /// Prepares the group that holds all sandboxes.
    fn prepare(&self) -> Result<(), Error>;
    /// Makes the groups of sandbox `id` and sets their limits.
    fn create(&self, id: &str, plan: &CgroupPlan) -> Result<(), Error>;
    /// How the first process comes into its groups.
    fn entrance(&self, id: &str) -> Result<Entrance, Error>;
    /// What the agent is given.
    fn open_for_agent(&self, id: &str) -> Result<AgentFiles, Error>;
    /// Sets new limits of the workload.
    ///
    /// # Errors
    /// `Conflict` when more memory is in use than may be then; or the failed step.
    fn resize(&self, id: &str, limits: Limits) -> sandbox::Result<()>;
    /// Stops every process of the sandbox where it is.
    fn freeze(&self, id: &str) -> Result<(), Error>;
    /// Whether they were told to stop.
    fn is_frozen(&self, id: &str) -> Result<bool, Error>;
    /// Lets them run on.
    fn thaw(&self, id: &str) -> Result<(), Error>;
    /// Kills every process of the sandbox, frozen ones included.
    fn kill(&self, id: &str) -> Result<(), Error>;
    /// Removes the groups; succeeds when there are none.
    fn remove(&self, id: &str) -> Result<(), Error>;
    /// What the sandbox uses; `None` when it has no groups.
    fn usage(&self, id: &str) -> Result<Option<Usage>, Error>;
    /// How often the agent's group ran out of memory.
    fn agent_oom_kills(&self, id: &str) -> u64;
    /// Names of all groups of sandboxes on this host.
    fn list(&self) -> Result<Vec<String>, Error>;
    /// Whether memory, cpu and processes are limited, or why not.
    fn limits(&self) -> Result<(), String>;
    /// Whether sandboxes can be frozen, or why not.
    fn pause(&self) -> Result<(), String>;
    /// One line for people: which interface, which controllers.
    fn describe(&self) -> String;
}

/// The control groups of this host, as its mount table tells. `root` names the
/// group that all sandboxes are in.
///
/// # Errors
/// When the table cannot be read or has no control groups.
pub(crate) fn discover(root: &str) -> Result<Box<dyn Cgroups>, Error> {
    let table = fs::read_to_string(TABLE).at(Step::FindCgroups, TABLE)?;
    let found = mountinfo::parse(&table);
    if found.legacy.is_empty() {
        let mount = found
            .unified
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
            .at(Step::FindCgroups, "a mounted control group file system")?;
        return Ok(Box::new(v2::Unified::new(&mount, root)));
    }
    Ok(Box::new(v1::Legacy::new(found, root)))
}

/// Where the second interface is, on a host that has no other.
pub(crate) fn unified_only() -> Option<PathBuf> {
    let found = mountinfo::parse(&fs::read_to_string(TABLE).ok()?);
    found.unified.filter(|_| found.legacy.is_empty())
}

/// Writes one value into a file of a control group.
fn write(step: Step, path: &Path, value: impl AsRef<[u8]>) -> Result<(), Error> {
    fs::write(path, value).at(step, path.display())
}

/// Opens a file of a group for writing, with the rights of the opener.
fn open_to_join(path: &Path) -> Result<OwnedFd, Error> {
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .map(OwnedFd::from)
        .at(Step::JoinCgroup, path.display())
}

/// Opens a group of the second interface, to be born in.
fn open_for_birth(path: &Path) -> Result<OwnedFd, Error> {
    crate::layout::open_folder(path)
        .map(OwnedFd::from)
        .at(Step::JoinCgroup, path.display())
}

/// Makes a folder; one that exists is a success.
fn make(path: &Path) -> Result<(), Error> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result.at(Step::MakeCgroup, path.display()),
    }
}

/// Removes one group, waiting until the kernel is done with its last process.
fn remove(path: &Path) -> Result<(), Error> {
    let end = Instant::now() + EMPTY_DEADLINE;
    let mut wait = RETRY_FIRST;
    loop {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < end => {
                pause(wait);
                wait = (wait * 2).min(RETRY_LONGEST);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => return result.at(Step::RemoveCgroup, path.display()),
        }
    }
}

/// The number in a file that holds one.
fn read_number(path: &Path) -> io::Result<u64> {
    fs::read_to_string(path)?
        .trim()
        .parse()
        .map_err(|_not_a_number| io::ErrorKind::InvalidData.into())
}

/// The number behind `key` in a file with one `key number` on each line.
fn read_key(path: &Path, key: &str) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    text.lines()
        .find_map(|line| {
            line.strip_prefix(key)?
                .strip_prefix(' ')?
                .trim()
                .parse()
                .ok()
        })
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Names of the groups in `folder`; none when it does not exist.
fn list(folder: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.at(Step::ListSandboxes, folder.display())?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.at(Step::ListSandboxes, folder.display())?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// The error of a memory limit below what is in use.
fn in_use(limits: Limits) -> sandbox::Error {
    sandbox::Error::conflict(format!(
        "field `memory_bytes`: the sandbox uses more than {} bytes; end some of its processes first, or give it more",
        limits.memory_bytes
    ))
}

/// Cpu time per period, in microseconds; the kernel refuses less than a millisecond.
fn cpu_quota_us(cpu_millis: u32) -> u64 {
    (u64::from(cpu_millis) * CPU_PERIOD_US / 1000).max(1000)
}

/// Waits until the process group file says what `done` looks for.
fn wait_for(step: Step, path: &Path, done: impl Fn(&str) -> bool) -> Result<(), Error> {
    let end = Instant::now() + EMPTY_DEADLINE;
    let mut wait = RETRY_FIRST;
    loop {
        if done(&fs::read_to_string(path).at(step, path.display())?) {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(io::Error::from(io::ErrorKind::TimedOut)).at(step, path.display());
        }
        pause(wait);
        wait = (wait * 2).min(RETRY_LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_per_period_and_never_below_the_kernels_least() {
        assert_eq!(cpu_quota_us(1500), 150_000);
        assert_eq!(cpu_quota_us(1), 1000);
    }

    #[test]
    fn keys_are_whole_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory.events");
        fs::write(&path, "oom 7\noom_kill 3\noom_kill_disable 0\n").unwrap();
        assert_eq!(read_key(&path, "oom_kill").unwrap(), 3);
        assert!(read_key(&path, "oom_kil").is_err());
    }
}
