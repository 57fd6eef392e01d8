//! The first interface, where every controller has a tree of its own, and
//! hybrid hosts, which have the unified tree beside it.

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::process::{Pid, Signal, kill_process};
use sandbox::{Limits, Usage};

use super::{
    AGENT, AgentFiles, CPU_PERIOD_US, Cgroups, Entrance, USER,
    mountinfo::{Controller, Found},
    v2,
};
use crate::{
    error::{At as _, Error, Step},
    plan::CgroupPlan,
};

/// How often the killed are looked for before the group counts as unkillable.
const KILL_ROUNDS: usize = 50;
/// Lists the threads of a group; a thread that writes `0` moves itself alone.
const TASKS: &str = "tasks";
/// Character devices that sandboxes may use: the nodes of `/dev`, which their first
/// process makes (`m`) while it is still the host's root, and terminals.
const DEVICES: [&str; 8] = [
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rw",
    "c 136:* rw",
];

/// Control groups of the first interface.
///
/// Memory, cpu and processes are limited in `<root>/<id>/{user,agent}` of
/// their trees. Trees that only count or freeze have `<root>/<id>`. Devices
/// are the same for all sandboxes, so all are in `<root>` there.
#[derive(Debug)]
pub(super) struct Legacy {
    found: Found,
    root: String,
}

impl Legacy {
    pub(super) fn new(found: Found, root: &str) -> Self {
        Self {
            found,
            root: root.to_owned(),
        }
    }

    fn root(&self, controller: Controller) -> Option<PathBuf> {
        Some(self.found.legacy.get(&controller)?.join(&self.root))
    }

    fn group(&self, controller: Controller, id: &str) -> Option<PathBuf> {
        Some(self.root(controller)?.join(id))
    }

    /// Where a sandbox is frozen and killed on hybrid hosts.
    fn unified(&self, id: &str) -> Option<PathBuf> {
        Some(self.found.unified.as_ref()?.join(&self.root).join(id))
    }

    /// The trees in which workload and agent are apart. Controllers may share one.
    fn split_roots(&self) -> BTreeSet<PathBuf> {
        [Controller::Memory, Controller::Cpu, Controller::Pids]
            .into_iter()
            .filter_map(|controller| self.root(controller))
            .collect()
    }

    /// The trees in which a sandbox is one group.
    fn whole_roots(&self) -> BTreeSet<PathBuf> {
        let mut roots: BTreeSet<PathBuf> = self
            .found
            .unified
            .iter()
            .map(|mount| mount.join(&self.root))
            .collect();
        roots.extend(self.root(Controller::CpuAccounting));
        if self.found.unified.is_none() {
            roots.extend(self.root(Controller::Freezer));
        }
        let split = self.split_roots();
        roots.retain(|root| !split.contains(root));
        roots
    }

    fn all_roots(&self) -> BTreeSet<PathBuf> {
        let mut roots = self.split_roots();
        roots.extend(self.whole_roots());
        roots
    }

    /// Every file of the user's memory limit that the kernel has.
    fn limit_memory(&self, id: &str, name: &str, bytes: u64) -> Result<(), Error> {
        let Some(group) = self.group(Controller::Memory, id) else {
            return Ok(());
        };
        let group = group.join(name);
        super::write(
            Step::MakeCgroup,
            &group.join("memory.limit_in_bytes"),
            bytes.to_string(),
        )?;
        // Memory and swap together; absent where swap is not accounted.
        let with_swap = group.join("memory.memsw.limit_in_bytes");
        if with_swap.exists() {
            super::write(Step::MakeCgroup, &with_swap, bytes.to_string())?;
        }
        Ok(())
    }

    /// Puts a memory limit back as far as possible.
    fn limit_memory_again(&self, id: &str, bytes: u64) {
        let Some(group) = self.group(Controller::Memory, id) else {
            return;
        };
        let group = group.join(USER);
        for file in ["memory.memsw.limit_in_bytes", "memory.limit_in_bytes"] {
            // Absent, or still as it was.
            let _ = fs::write(group.join(file), bytes.to_string());
        }
    }

    fn limit_pids(&self, id: &str, name: &str, pids: u32) -> Result<(), Error> {
        match self.group(Controller::Pids, id) {
            None => Ok(()),
            Some(group) => super::write(
                Step::MakeCgroup,
                &group.join(name).join("pids.max"),
                pids.to_string(),
            ),
        }
    }

    fn limit_cpu(&self, id: &str, cpu_millis: u32) -> Result<(), Error> {
        let Some(group) = self.group(Controller::Cpu, id) else {
            return Ok(());
        };
        let group = group.join(USER);
        let set =
            |file, value: u64| super::write(Step::MakeCgroup, &group.join(file), value.to_string());
        set("cpu.cfs_period_us", CPU_PERIOD_US)?;
        set("cpu.cfs_quota_us", super::cpu_quota_us(cpu_millis))
    }

    fn freezer_state(&self, id: &str) -> Result<PathBuf, Error> {
        self.group(Controller::Freezer, id)
            .map(|group| group.join("freezer.state"))
            .ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
            .at(Step::Freeze, "a host without the freezer controller")
    }

    /// Sends the signal to every process in the groups of one tree; whether there was one.
    fn kill_members(group: &Path) -> Result<bool, Error> {
        let mut found = false;
        for folder in [group.to_owned(), group.join(USER), group.join(AGENT)] {
            let procs = match fs::read_to_string(folder.join("cgroup.procs")) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                procs => procs.at(Step::Kill, folder.display())?,
            };
            for pid in procs
                .lines()
                .filter_map(|line| Pid::from_raw(line.parse().ok()?))
            {
                found = true;
                // It may have ended since; the next look tells.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        Ok(found)
    }

    fn kill_until_empty(group: &Path) -> Result<(), Error> {
        for _ in 0..KILL_ROUNDS {
            if !Self::kill_members(group)? {
                return Ok(());
            }
            crate::wait::pause(super::RETRY_LONGEST);
        }
        Err(io::Error::from(io::ErrorKind::TimedOut)).at(Step::Kill, group.display())
    }
}

/// Denies all devices but [`DEVICES`], once: doing it again would cut off running
/// sandboxes for a moment.
fn restrict_devices(group: &Path) -> io::Result<()> {
    let list = fs::read_to_string(group.join("devices.list"))?;
    if !list.lines().any(|line| line.starts_with("a *:*")) {
        return Ok(());
    }
    fs::write(group.join("devices.deny"), "a")?;
    let allow = group.join("devices.allow");
    DEVICES
        .iter()
        .try_for_each(|device| fs::write(&allow, device))
}

impl Cgroups for Legacy {
    fn prepare(&self) -> Result<(), Error> {
        for root in self.all_roots() {
            super::make(&root)?;
        }
        // The second wall: sandboxes cannot make device nodes, and nothing but `/dev` is
        // mounted with devices. A host where this fails is as it would be without.
        if let Some(devices) = self.root(Controller::Devices) {
            super::make(&devices)?;
            let _ = restrict_devices(&devices);
        }
        Ok(())
    }

    fn create(&self, id: &str, plan: &CgroupPlan) -> Result<(), Error> {
        for root in self.whole_roots() {
            super::make(&root.join(id))?;
        }
        for root in self.split_roots() {
            let group = root.join(id);
            super::make(&group)?;
            super::make(&group.join(USER))?;
            super::make(&group.join(AGENT))?;
        }
        self.limit_memory(id, USER, plan.user.memory_bytes)?;
        self.limit_memory(id, AGENT, plan.agent_memory_bytes)?;
        self.limit_pids(id, USER, plan.user.pids)?;
        self.limit_pids(id, AGENT, plan.agent_pids)?;
        self.limit_cpu(id, plan.user.cpu_millis)
    }

    fn resize(&self, id: &str, limits: Limits) -> sandbox::Result<()> {
        if let Some(group) = self.group(Controller::Memory, id) {
            let group = group.join(USER);
            let path = group.join("memory.limit_in_bytes");
            let present = super::read_number(&path).at(Step::Resize, path.display())?;
            let mut files = vec![path, group.join("memory.memsw.limit_in_bytes")];
            // Absent where swap is not accounted.
            files.retain(|file| file.exists());
            // The limit with swap can never be the lower one.
            if limits.memory_bytes > present {
                files.reverse();
            }
            for file in files {
                // The kernel frees what it can, and refuses when that is not enough.
                match fs::write(&file, limits.memory_bytes.to_string()) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                        // As before; the first file may have been changed already.
                        self.limit_memory_again(id, present);
                        return Err(super::in_use(limits));
                    }
                    result => result.at(Step::Resize, file.display())?,
                }
            }
        }
        self.limit_pids(id, USER, limits.pids)?;
        Ok(self.limit_cpu(id, limits.cpu_millis)?)
    }

    fn entrance(&self, id: &str) -> Result<Entrance, Error> {
        let unified = self.unified(id);
        let whole = self.whole_roots().into_iter().map(|root| root.join(id));
        let split = self.split_roots();
        let user = split.iter().map(|root| root.join(id).join(USER));
        let user = whole
            .filter(|group| unified.as_ref() != Some(group))
            .chain(user)
            .chain(self.root(Controller::Devices))
            .map(|group| super::open_to_join(&group.join(TASKS)))
            .collect::<Result<_, _>>()?;
        let agent = split
            .iter()
            .map(|root| super::open_to_join(&root.join(id).join(AGENT).join(TASKS)))
            .collect::<Result<_, _>>()?;
        // Killing goes by the unified tree: nothing is ever outside of it.
        let birth = unified.as_deref().map(super::open_for_birth).transpose()?;
        Ok(Entrance { birth, user, agent })
    }

    fn open_for_agent(&self, id: &str) -> Result<AgentFiles, Error> {
        let join = self
            .split_roots()
            .iter()
            .map(|root| super::open_to_join(&root.join(id).join(USER).join(TASKS)))
            .collect::<Result<_, _>>()?;
        let oom = self.group(Controller::Memory, id).and_then(|group| {
            let path = group.join(USER).join("memory.oom_control");
            fs::File::open(path).ok().map(OwnedFd::from)
        });
        Ok(AgentFiles { join, oom })
    }

    fn freeze(&self, id: &str) -> Result<(), Error> {
        if let Some(group) = self.unified(id) {
            return v2::freeze(&group);
        }
        let state = self.freezer_state(id)?;
        super::write(Step::Freeze, &state, "FROZEN")?;
        super::wait_for(Step::Freeze, &state, |text| text.trim() == "FROZEN")
    }

    fn is_frozen(&self, id: &str) -> Result<bool, Error> {
        if let Some(group) = self.unified(id) {
            return v2::is_frozen(&group);
        }
        let path = self.freezer_state(id)?;
        let text = fs::read_to_string(&path).at(Step::Freeze, path.display())?;
        Ok(text.trim() != "THAWED")
    }

    fn thaw(&self, id: &str) -> Result<(), Error> {
        match self.unified(id) {
            Some(group) => v2::thaw(&group),
            None => super::write(Step::Freeze, &self.freezer_state(id)?, "THAWED"),
        }
    }

    fn kill(&self, id: &str) -> Result<(), Error> {
        // Processes are born in the unified tree, so nothing is in another tree only.
        if let Some(group) = self.unified(id) {
            return v2::kill(&group);
        }
        if let Some(group) = self.group(Controller::Freezer, id).filter(|g| g.exists()) {
            // Frozen, a fork bomb cannot outrun the killing; the signals act at the thaw.
            let frozen = self.freeze(id);
            Self::kill_members(&group)?;
            self.thaw(id)?;
            frozen?;
        }
        self.all_roots()
            .iter()
            .try_for_each(|root| Self::kill_until_empty(&root.join(id)))
    }

    fn remove(&self, id: &str) -> Result<(), Error> {
        for root in self.split_roots() {
            super::remove(&root.join(id).join(USER))?;
            super::remove(&root.join(id).join(AGENT))?;
        }
        self.all_roots()
            .iter()
            .try_for_each(|root| super::remove(&root.join(id)))
    }

    fn usage(&self, id: &str) -> Result<Option<Usage>, Error> {
        if !self.all_roots().iter().any(|root| root.join(id).exists()) {
            return Ok(None);
        }
        // A controller that the host lacks counts nothing.
        let read = |controller, file: &str| match self.group(controller, id) {
            None => Ok(0),
            Some(group) => {
                let path = group.join(file);
                super::read_number(&path).at(Step::ReadUsage, path.display())
            }
        };
        let oom_kills = self.group(Controller::Memory, id).map_or(0, |group| {
            super::read_key(&group.join(USER).join("memory.oom_control"), "oom_kill").unwrap_or(0)
        });
        Ok(Some(Usage {
            memory_bytes: read(Controller::Memory, "memory.usage_in_bytes")?,
            cpu_us: read(Controller::CpuAccounting, "cpuacct.usage")? / 1000,
            pids: u32::try_from(read(Controller::Pids, "pids.current")?).unwrap_or(u32::MAX),
            oom_kills,
        }))
    }

    fn agent_oom_kills(&self, id: &str) -> u64 {
        self.group(Controller::Memory, id).map_or(0, |group| {
            super::read_key(&group.join(AGENT).join("memory.oom_control"), "oom_kill").unwrap_or(0)
        })
    }

    fn list(&self) -> Result<Vec<String>, Error> {
        let mut names = BTreeSet::new();
        for root in self.all_roots() {
            names.extend(super::list(&root)?);
        }
        Ok(names.into_iter().collect())
    }

    fn limits(&self) -> Result<(), String> {
        let missing: Vec<&str> = [
            (Controller::Memory, "memory"),
            (Controller::Cpu, "cpu"),
            (Controller::Pids, "pids"),
        ]
        .into_iter()
        .filter_map(|(controller, name)| {
            (!self.found.legacy.contains_key(&controller)).then_some(name)
        })
        .collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!(
                "controllers {} are not mounted",
                missing.join(", ")
            ))
        }
    }

    fn pause(&self) -> Result<(), String> {
        if self.found.unified.is_some() || self.found.legacy.contains_key(&Controller::Freezer) {
            Ok(())
        } else {
            Err("the freezer controller is not mounted".to_owned())
        }
    }

    fn describe(&self) -> String {
        let controllers: Vec<String> = self
            .found
            .legacy
            .keys()
            .map(|controller| format!("{controller:?}").to_lowercase())
            .collect();
        let unified = match &self.found.unified {
            Some(mount) => format!(
                ", cgroup v2 at {} for freezing and killing",
                mount.display()
            ),
            None => String::new(),
        };
        format!("cgroup v1 ({}){unified}", controllers.join(", "))
    }
}
