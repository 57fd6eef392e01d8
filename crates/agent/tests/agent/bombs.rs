//! The agent as first process, with the workload in limited cgroups. Needs root.

use std::{
    fs::{self, File},
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use agent_protocol::{Exec, FailureKind, Reply, Request};

use crate::client::{Agent, argv, eventually, shell};

/// A cgroup for the workload, in the one hierarchy of version 2 or in those of version 1.
struct Workload {
    folders: Vec<PathBuf>,
    oom_counter: PathBuf,
}

impl Workload {
    fn new(name: &str, pids: u32, memory_bytes: u64) -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let name = format!("sandboxai-test-{name}-{}", std::process::id());
        let set = |folder: &Path, file: &str, value: String| {
            fs::write(folder.join(file), value).unwrap_or_else(|e| panic!("{file}: {e}"));
        };
        if root.join("cgroup.controllers").exists() {
            let folder = root.join(name);
            fs::create_dir(&folder).expect("this test needs root");
            set(&folder, "pids.max", pids.to_string());
            set(&folder, "memory.max", memory_bytes.to_string());
            let oom_counter = folder.join("memory.events");
            return Self {
                folders: vec![folder],
                oom_counter,
            };
        }
        let folders = ["pids", "memory"].map(|hierarchy| root.join(hierarchy).join(&name));
        for folder in &folders {
            fs::create_dir(folder).expect("this test needs root");
        }
        set(&folders[0], "pids.max", pids.to_string());
        set(
            &folders[1],
            "memory.limit_in_bytes",
            memory_bytes.to_string(),
        );
        Self {
            oom_counter: folders[1].join("memory.oom_control"),
            folders: folders.to_vec(),
        }
    }

    fn start(&self) -> Agent {
        let procs = |folder: &PathBuf| {
            File::options()
                .write(true)
                .open(folder.join("cgroup.procs"))
        };
        let files: Vec<File> = self.folders.iter().map(|f| procs(f).unwrap()).collect();
        let counter = File::open(&self.oom_counter).unwrap();
        let mut descriptors = vec![counter.as_fd()];
        descriptors.extend(files.iter().map(AsFd::as_fd));
        let mut arguments = vec![c"--oom-fd", c"4"];
        for number in [c"5", c"6"].into_iter().take(files.len()) {
            arguments.extend([c"--cgroup-fd", number]);
        }
        Agent::start_first(&arguments, &descriptors)
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        for folder in &self.folders {
            eventually("the cgroup is empty", || fs::remove_dir(folder).is_ok());
        }
    }
}

#[test]
fn killing_everybody_leaves_the_agent_answering() {
    let workload = Workload::new("kill", 100, 1 << 30);
    let agent = workload.start();
    agent.connect().ask(&Request::Start(shell("sleep 100")));
    for _ in 0..5 {
        assert_eq!(agent.shell("kill -9 -1; echo alone").text(), "alone\n");
        assert_eq!(
            agent
                .shell("kill -9 1; kill -STOP 1; kill 1; echo $?")
                .text(),
            "0\n"
        );
    }
    let Reply::Processes { processes } = agent.connect().ask(&Request::Processes) else {
        panic!("no list")
    };
    assert_eq!(processes[0].exit.as_ref().unwrap().signal, Some(9));
    assert_eq!(agent.shell("cat /proc/1/environ | wc -c").exit.code, 0);
    drop(agent);
}

/// Every process of it makes more for as long as it lives.
const BOMB: &str = "
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
";

#[test]
fn a_fork_bomb_hits_its_limit_and_the_agent_answers() {
    let workload = Workload::new("fork", 60, 1 << 30);
    let agent = workload.start();
    let mut bomber = agent.connect();
    bomber.send(&Request::Exec(Exec {
        timeout_ms: Some(3000),
        ..argv(&["python3", "-c", BOMB])
    }));
    let mut refused = None;
    let deadline = Instant::now() + Duration::from_millis(2000);
    while Instant::now() < deadline {
        let begun = Instant::now();
        let mut client = agent.connect();
        assert!(matches!(client.ask(&Request::Ping), Reply::Pong { .. }));
        assert!(begun.elapsed() < Duration::from_secs(1));
        match client.run(&argv(&["true"])) {
            Ok(_) => {}
            Err(failure) => refused = Some(failure),
        }
    }
    // The whole limit is taken by then.
    let refused = refused.expect("a start is refused");
    assert_eq!(refused.kind, FailureKind::LimitReached, "{refused:?}");
    assert!(bomber.finish_run().unwrap().exit.timed_out);
    eventually("there is room again", || {
        agent
            .connect()
            .run(&shell("true"))
            .is_ok_and(|ran| ran.exit.code == 0)
    });
    drop(agent);
}

#[test]
fn a_memory_bomb_is_killed_and_told_and_the_agent_answers() {
    let workload = Workload::new("memory", 100, 64 << 20);
    let agent = workload.start();
    for _ in 0..3 {
        let ran = agent.shell("tail /dev/zero");
        assert!(ran.exit.out_of_memory, "{:?}", ran.exit);
        assert_eq!(ran.exit.code, 137);
        let ran = agent.shell("echo usable");
        assert_eq!(ran.text(), "usable\n");
        assert!(!ran.exit.out_of_memory);
    }
    drop(agent);
}

#[test]
fn programs_are_born_in_the_cgroups_of_the_workload() {
    let workload = Workload::new("born", 100, 1 << 30);
    let agent = workload.start();
    let cgroups = agent.shell("cat /proc/self/cgroup").text().to_owned();
    let name = workload.folders[0].file_name().unwrap().to_str().unwrap();
    let count = cgroups.lines().filter(|line| line.ends_with(name)).count();
    assert_eq!(count, workload.folders.len(), "{cgroups}");
    drop(agent);
}
