//! What lies around: the same places that the spawner sweeps, only looked at.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use sandbox::Id;

use crate::{
    Config, cgroup, layout::Layout, network, process::Identity, record::Record, slot::Slots,
};

/// The kinds of leaks that there are.
pub(crate) const KINDS: [&str; 6] = ["slot", "folder", "trash", "socket", "control group", "link"];

/// Something on the host that belongs to no known sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    /// What kind of thing, e.g. `control group`.
    pub kind: String,
    /// Which one.
    pub object: String,
}

impl Leak {
    fn new(kind: &str, object: impl Into<String>) -> Self {
        Self {
            kind: kind.to_owned(),
            object: object.into(),
        }
    }
}

/// Looks for what belongs to no known sandbox. Changes nothing; what a running
/// server is just making or removing may appear.
#[must_use]
pub fn leaks(config: &Config) -> Vec<Leak> {
    leaks_in(&Layout::of(config))
}

/// The same for whoever knows the folders already.
pub(crate) fn leaks_in(layout: &Layout) -> Vec<Leak> {
    let mut leaks = Vec::new();
    let mut known = BTreeSet::new();
    let mut slots = BTreeSet::new();
    for (slot, holder, stale) in Slots::new(layout).held() {
        if stale {
            leaks.push(Leak::new("slot", format!("{slot} of {}", holder.id)));
        } else {
            known.insert(holder.id);
            slots.insert(slot);
        }
    }
    for (id, path) in entries(&layout.sandboxes()) {
        if !is_at_home(&path) {
            leaks.push(Leak::new("folder", path.display().to_string()));
        }
        known.insert(id);
    }
    for (_, path) in entries(&layout.trash()) {
        leaks.push(Leak::new("trash", path.display().to_string()));
    }
    for (id, path) in entries(&layout.agents()) {
        if !known.contains(&id) {
            leaks.push(Leak::new("socket", path.display().to_string()));
        }
    }
    leaks.extend(groups(layout, &known));
    leaks.extend(
        network::links()
            .into_iter()
            .filter_map(|(name, slot)| (!slots.contains(&slot)).then(|| Leak::new("link", name))),
    );
    leaks
}

/// Whether a first process exists, somebody is making one, or none shall exist.
fn is_at_home(folder: &Path) -> bool {
    let Ok(Some(record)) = Record::read(folder) else {
        return false;
    };
    match record.init {
        _ if record.kept.is_some() => true,
        Some(init) => init.is_alive(),
        None => Identity::is_alive(record.worker),
    }
}

/// Control groups of no known sandbox, with what still runs in them.
fn groups(layout: &Layout, known: &BTreeSet<String>) -> Vec<Leak> {
    let Ok(cgroups) = cgroup::discover(&layout.cgroup_root()) else {
        return Vec::new();
    };
    let mut leaks = Vec::new();
    for id in cgroups.list().unwrap_or_default() {
        if known.contains(&id) || id.parse::<Id>().is_err() {
            continue;
        }
        let running = cgroups.usage(&id).ok().flatten();
        let processes = running.map_or(0, |usage| usage.pids);
        leaks.push(Leak::new(
            "control group",
            format!("{id} with {processes} processes"),
        ));
    }
    leaks
}

/// What is named after a sandbox in a folder.
fn entries(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let id = name.strip_suffix(".sock").unwrap_or(&name).to_owned();
            id.parse::<Id>().ok()?;
            Some((id, entry.path()))
        })
        .collect()
}
