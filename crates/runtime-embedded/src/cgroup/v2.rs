//! The unified interface, where one tree has all controllers.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use sandbox::{Limits, Usage};

use super::{AGENT, AgentFiles, CPU_PERIOD_US, Cgroups, Entrance, USER};
use crate::{
    error::{At as _, Error, Step},
    plan::CgroupPlan,
};

/// The controllers that limits need.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// Control groups of the second interface.
#[derive(Debug)]
pub(super) struct Unified {
    mount: PathBuf,
    root: PathBuf,
}

impl Unified {
    pub(super) fn new(mount: &Path, root: &str) -> Self {
        Self {
            mount: mount.to_owned(),
            root: mount.join(root),
        }
    }

    fn group(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    /// Hands the controllers on to the groups below `folder`.
    fn delegate(folder: &Path) -> Result<(), Error> {
        super::write(
            Step::MakeCgroup,
            &folder.join("cgroup.subtree_control"),
            "+cpu +memory +pids",
        )
    }
}

impl Cgroups for Unified {
    fn prepare(&self) -> Result<(), Error> {
        super::make(&self.root)?;
        Self::delegate(&self.mount)?;
        Self::delegate(&self.root)
    }

    fn create(&self, id: &str, plan: &CgroupPlan) -> Result<(), Error> {
        let set = |path: PathBuf, value: String| super::write(Step::MakeCgroup, &path, value);
        let group = self.group(id);
        let (user, agent) = (group.join(USER), group.join(AGENT));
        super::make(&group)?;
        Self::delegate(&group)?;
        super::make(&user)?;
        super::make(&agent)?;
        set(user.join("memory.max"), plan.user.memory_bytes.to_string())?;
        set(
            agent.join("memory.max"),
            plan.agent_memory_bytes.to_string(),
        )?;
        let swap = user.join("memory.swap.max");
        // Absent on kernels built without swap.
        if swap.exists() {
            set(swap, "0".to_owned())?;
        }
        let quota = super::cpu_quota_us(plan.user.cpu_millis);
        set(user.join("cpu.max"), format!("{quota} {CPU_PERIOD_US}"))?;
        set(user.join("pids.max"), plan.user.pids.to_string())?;
        set(agent.join("pids.max"), plan.agent_pids.to_string())
    }

    fn resize(&self, id: &str, limits: Limits) -> sandbox::Result<()> {
        let user = self.group(id).join(USER);
        let set = |file: &str, value: String| {
            let path = user.join(file);
            super::write(Step::Resize, &path, value)
        };
        // A limit below what is in use makes the kernel kill; what it could free
        // instead does not count.
        let stat = user.join("memory.stat");
        let bytes = |key| super::read_key(&stat, key).unwrap_or(0);
        let held = bytes("anon") + bytes("shmem") + bytes("slab_unreclaimable");
        if held > limits.memory_bytes {
            return Err(super::in_use(limits));
        }
        set("memory.max", limits.memory_bytes.to_string())?;
        let quota = super::cpu_quota_us(limits.cpu_millis);
        set("cpu.max", format!("{quota} {CPU_PERIOD_US}"))?;
        Ok(set("pids.max", limits.pids.to_string())?)
    }

    fn entrance(&self, id: &str) -> Result<Entrance, Error> {
        let group = self.group(id);
        let agent = super::open_to_join(&group.join(AGENT).join("cgroup.procs"))?;
        Ok(Entrance {
            birth: Some(super::open_for_birth(&group.join(USER))?),
            user: Vec::new(),
            agent: vec![agent],
        })
    }

    fn open_for_agent(&self, id: &str) -> Result<AgentFiles, Error> {
        let user = self.group(id).join(USER);
        Ok(AgentFiles {
            join: vec![super::open_to_join(&user.join("cgroup.procs"))?],
            oom: fs::File::open(user.join("memory.events"))
                .ok()
                .map(OwnedFd::from),
        })
    }

    fn freeze(&self, id: &str) -> Result<(), Error> {
        freeze(&self.group(id))
    }

    fn is_frozen(&self, id: &str) -> Result<bool, Error> {
        is_frozen(&self.group(id))
    }

    fn thaw(&self, id: &str) -> Result<(), Error> {
        thaw(&self.group(id))
    }

    fn kill(&self, id: &str) -> Result<(), Error> {
        kill(&self.group(id))
    }

    fn remove(&self, id: &str) -> Result<(), Error> {
        let group = self.group(id);
        super::remove(&group.join(USER))?;
        super::remove(&group.join(AGENT))?;
        super::remove(&group)
    }

    fn usage(&self, id: &str) -> Result<Option<Usage>, Error> {
        let group = self.group(id);
        if !group.exists() {
            return Ok(None);
        }
        let read = |path: PathBuf| super::read_number(&path).at(Step::ReadUsage, path.display());
        let key =
            |path: PathBuf, key| super::read_key(&path, key).at(Step::ReadUsage, path.display());
        Ok(Some(Usage {
            memory_bytes: read(group.join("memory.current"))?,
            cpu_us: key(group.join("cpu.stat"), "usage_usec")?,
            pids: u32::try_from(read(group.join("pids.current"))?).unwrap_or(u32::MAX),
            oom_kills: key(group.join(USER).join("memory.events"), "oom_kill")?,
        }))
    }

    fn agent_oom_kills(&self, id: &str) -> u64 {
        super::read_key(
            &self.group(id).join(AGENT).join("memory.events"),
            "oom_kill",
        )
        .unwrap_or(0)
    }

    fn list(&self) -> Result<Vec<String>, Error> {
        super::list(&self.root)
    }

    fn limits(&self) -> Result<(), String> {
        let path = self.mount.join("cgroup.controllers");
        let present = fs::read_to_string(&path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let missing: Vec<&str> = CONTROLLERS
            .into_iter()
            .filter(|name| !present.split_whitespace().any(|word| word == *name))
            .collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("controllers {} are missing", missing.join(", ")))
        }
    }

    fn pause(&self) -> Result<(), String> {
        Ok(())
    }

    fn describe(&self) -> String {
        format!("cgroup v2 at {}", self.mount.display())
    }
}

/// Freezes a group of the unified tree and waits until it is.
pub(super) fn freeze(group: &Path) -> Result<(), Error> {
    super::write(Step::Freeze, &group.join("cgroup.freeze"), "1")?;
    super::wait_for(Step::Freeze, &group.join("cgroup.events"), |text| {
        text.lines().any(|line| line == "frozen 1")
    })
}

/// Whether a group of the unified tree is frozen or about to be.
pub(super) fn is_frozen(group: &Path) -> Result<bool, Error> {
    let path = group.join("cgroup.freeze");
    let text = fs::read_to_string(&path).at(Step::Freeze, path.display())?;
    Ok(text.trim() == "1")
}

/// Thaws a group of the unified tree.
pub(super) fn thaw(group: &Path) -> Result<(), Error> {
    super::write(Step::Freeze, &group.join("cgroup.freeze"), "0")
}

/// Kills everything in a group of the unified tree; frozen processes die too.
pub(super) fn kill(group: &Path) -> Result<(), Error> {
    match fs::write(group.join("cgroup.kill"), "1") {
        // No group: nothing to kill.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !group.exists() => Ok(()),
        result => result.at(Step::Kill, group.join("cgroup.kill").display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: CgroupPlan = CgroupPlan {
        user: Limits {
            memory_bytes: 512 << 20,
            cpu_millis: 1500,
            pids: 256,
        },
        agent_memory_bytes: 32 << 20,
        agent_pids: 64,
    };

    #[test]
    fn limits_are_written_where_the_kernel_expects_them() {
        let mount = tempfile::tempdir().unwrap();
        let cgroups = Unified::new(mount.path(), "sandboxai");
        cgroups.prepare().unwrap();
        cgroups.create("one", &PLAN).unwrap();
        let read =
            |path: &str| fs::read_to_string(mount.path().join("sandboxai/one").join(path)).unwrap();
        assert_eq!(read("cgroup.subtree_control"), "+cpu +memory +pids");
        assert_eq!(read("user/memory.max"), "536870912");
        assert_eq!(read("user/cpu.max"), "150000 100000");
        assert_eq!(read("user/pids.max"), "256");

        let stat = mount.path().join("sandboxai/one/user/memory.stat");
        fs::write(stat, "anon 1000000\nfile 900000000\nshmem 0\n").unwrap();
        let smaller = Limits {
            memory_bytes: 2_000_000,
            cpu_millis: 500,
            pids: 9,
        };
        cgroups.resize("one", smaller).unwrap();
        assert_eq!(read("user/memory.max"), "2000000");
        assert_eq!(read("user/cpu.max"), "50000 100000");
        assert_eq!(read("user/pids.max"), "9");
        let too_small = Limits {
            memory_bytes: 999_999,
            ..smaller
        };
        let error = cgroups.resize("one", too_small).unwrap_err();
        assert_eq!(error.kind, sandbox::Kind::Conflict);
        assert_eq!(read("user/memory.max"), "2000000");
        assert_eq!(read("agent/memory.max"), "33554432");
        assert_eq!(read("agent/pids.max"), "64");
        assert_eq!(cgroups.list().unwrap(), ["one"]);
    }

    #[test]
    fn the_swap_limit_is_set_where_there_is_one() {
        let mount = tempfile::tempdir().unwrap();
        let cgroups = Unified::new(mount.path(), "sandboxai");
        cgroups.prepare().unwrap();
        let user = mount.path().join("sandboxai/one/user");
        fs::create_dir_all(&user).unwrap();
        fs::write(user.join("memory.swap.max"), "max").unwrap();
        cgroups.create("one", &PLAN).unwrap();
        assert_eq!(
            fs::read_to_string(user.join("memory.swap.max")).unwrap(),
            "0"
        );
    }

    #[test]
    fn usage_counts_the_whole_sandbox() {
        let mount = tempfile::tempdir().unwrap();
        let cgroups = Unified::new(mount.path(), "sandboxai");
        assert_eq!(cgroups.usage("one").unwrap(), None);
        let group = mount.path().join("sandboxai/one");
        fs::create_dir_all(group.join("user")).unwrap();
        for (path, text) in [
            ("memory.current", "4096\n"),
            ("cpu.stat", "usage_usec 77\nuser_usec 50\n"),
            ("pids.current", "3\n"),
            ("user/memory.events", "low 0\nmax 9\noom 2\noom_kill 1\n"),
        ] {
            fs::write(group.join(path), text).unwrap();
        }
        let usage = cgroups.usage("one").unwrap().unwrap();
        assert_eq!(
            usage,
            Usage {
                memory_bytes: 4096,
                cpu_us: 77,
                pids: 3,
                oom_kills: 1
            }
        );
    }

    #[test]
    fn removing_and_killing_what_is_not_there_succeeds() {
        let mount = tempfile::tempdir().unwrap();
        let cgroups = Unified::new(mount.path(), "sandboxai");
        cgroups.remove("one").unwrap();
        cgroups.kill("one").unwrap();
        for path in ["sandboxai/two/user", "sandboxai/two/agent"] {
            fs::create_dir_all(mount.path().join(path)).unwrap();
        }
        cgroups.remove("two").unwrap();
        assert!(!mount.path().join("sandboxai/two").exists());
    }

    #[test]
    fn a_missing_controller_is_named() {
        let mount = tempfile::tempdir().unwrap();
        fs::write(
            mount.path().join("cgroup.controllers"),
            "cpuset cpu io pids\n",
        )
        .unwrap();
        let message = Unified::new(mount.path(), "sandboxai")
            .limits()
            .unwrap_err();
        assert_eq!(message, "controllers memory are missing");
    }
}
