//! Control groups: the interface, its controllers, and whether they are handed on.

use std::{fs, path::Path};

use sandbox::check::{Check, Status};

use crate::{cgroup, layout::Layout};

/// The controllers that limits need.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

pub(super) fn checks(layout: &Layout) -> Vec<Check> {
    const NAME: &str = "control groups";
    let cgroups = match cgroup::discover(&layout.cgroup_root()) {
        Ok(cgroups) => cgroups,
        Err(error) => {
            return vec![
                Check::fail(NAME, error.to_string()).fix("mount -t cgroup2 none /sys/fs/cgroup"),
            ];
        }
    };
    let or_warn = |name: &str, works: Result<(), String>, good: String, fix: &str| match works {
        Ok(()) => Check::pass(name, good),
        Err(reason) => Check::new(name, Status::Warn, reason).fix(fix),
    };
    let mut checks = vec![
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
    ];
    checks.extend(cgroup::unified_only().and_then(|mount| delegation(&mount)));
    checks
}

/// Whether groups below that of the mount can have the controllers. Where a
/// container is the host, its own processes sit in that group, and the kernel
/// then hands no controller on.
fn delegation(mount: &Path) -> Option<Check> {
    const NAME: &str = "delegated controllers";
    let words = |file: &str| fs::read_to_string(mount.join(file)).unwrap_or_default();
    let (present, handed_on) = (words("cgroup.controllers"), words("cgroup.subtree_control"));
    let has = |words: &str, name: &str| words.split_whitespace().any(|word| word == name);
    let missing: Vec<&str> = CONTROLLERS
        .into_iter()
        .filter(|name| has(&present, name) && !has(&handed_on, name))
        .collect();
    if missing.is_empty() {
        return Some(Check::pass(NAME, handed_on.trim()));
    }
    // The group of all groups may have processes and hand on all the same; it
    // is the one without a type.
    let is_root = !mount.join("cgroup.type").exists();
    let is_empty = words("cgroup.procs").trim().is_empty();
    if is_root || is_empty {
        return None;
    }
    let folder = mount.display();
    Some(
        Check::warn(
            NAME,
            format!(
                "{} cannot be handed on, since processes are in {folder} itself",
                missing.join(", ")
            ),
        )
        .fix(format!(
            "move them into a group of their own before the server is started: `mkdir {folder}/init && for pid in $(cat {folder}/cgroup.procs); do echo $pid > {folder}/init/cgroup.procs; done`"
        )),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in files {
            fs::write(folder.path().join(file), text).unwrap();
        }
        folder
    }

    #[test]
    fn controllers_that_are_handed_on_are_named() {
        let mount = folder(&[
            ("cgroup.controllers", "cpuset cpu io memory pids\n"),
            ("cgroup.subtree_control", "cpu memory pids\n"),
        ]);
        let check = delegation(mount.path()).unwrap();
        assert_eq!(
            (check.status, check.finding.as_str()),
            (Status::Pass, "cpu memory pids")
        );
    }

    #[test]
    fn processes_beside_the_groups_keep_controllers_back() {
        let mount = folder(&[
            ("cgroup.controllers", "cpu memory pids\n"),
            ("cgroup.subtree_control", "pids\n"),
            ("cgroup.type", "domain\n"),
            ("cgroup.procs", "1\n7\n"),
        ]);
        let check = delegation(mount.path()).unwrap();
        assert_eq!(check.status, Status::Warn);
        assert!(check.finding.starts_with("cpu, memory cannot be handed on"));
    }

    #[test]
    fn the_first_start_hands_on_what_it_can() {
        let of_all = folder(&[
            ("cgroup.controllers", "cpu memory pids\n"),
            ("cgroup.subtree_control", "\n"),
            ("cgroup.procs", "1\n"),
        ]);
        assert_eq!(delegation(of_all.path()), None);
        let empty = folder(&[
            ("cgroup.controllers", "cpu memory pids\n"),
            ("cgroup.type", "domain\n"),
            ("cgroup.procs", ""),
        ]);
        assert_eq!(delegation(empty.path()), None);
    }
}
