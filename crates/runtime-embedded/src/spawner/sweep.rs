//! Removes what crashes have left: of servers, spawners, workers or the host.

use std::{fs, path::Path};

use sandbox::Id;

use super::{
    complain,
    host::Host,
    teardown::{self, Trash},
};
use crate::{
    error::{At as _, Error, Step},
    network,
    record::{self, Kept, Record},
};

/// Names in `folder` that are ids of sandboxes.
pub(super) fn ids_in(folder: &Path) -> Result<Vec<String>, Error> {
    let entries = fs::read_dir(folder).at(Step::ListSandboxes, folder.display())?;
    let mut ids = Vec::new();
    for entry in entries {
        let name = entry.at(Step::ListSandboxes, folder.display())?.file_name();
        if let Ok(name) = name.into_string()
            && name.parse::<Id>().is_ok()
        {
            ids.push(name);
        }
    }
    Ok(ids)
}

/// Ends what should not run and removes what the kernel would keep for ever. What
/// cannot be removed is complained about and left for the next time. Returns
/// the files that are still to be removed, by [`finish`].
pub(super) fn run(host: &Host) -> Vec<Trash> {
    let mut trash = Vec::new();
    if let Err(error) = take_back_slots(host) {
        complain(&error);
    }
    let abandoned = abandoned_sandboxes(host, &mut trash);
    for result in [abandoned, orphans(host), links(host)] {
        if let Err(error) = result {
            complain(&error);
        }
    }
    trash
}

/// Removes files: those that [`run`] has set aside, and those of earlier crashes.
pub(super) fn finish(host: &Host, trash: Vec<Trash>) {
    for removed in trash {
        removed.finish(host);
    }
    // The slots of emptied sandboxes count as free from now on.
    let result = empty_trash(host).and_then(|()| host.slots.reclaim());
    if let Err(error) = result {
        complain(&error);
    }
}

/// Takes the slots of sandboxes from before the host's restart, which outlived it while
/// their slots did not: so that nobody else gets them, and their files need no new
/// owners when they are started again.
fn take_back_slots(host: &Host) -> Result<(), Error> {
    for id in ids_in(&host.layout.sandboxes())? {
        if let Some(record) = Record::read(&host.layout.sandbox(&id))?
            && !record.is_of_this_boot(&host.boot_id)
            && record.kept != Some(Kept::Pack)
        {
            // In vain when another server's sandbox was faster.
            host.slots.take_this(record.slot, &host.holder(&id))?;
        }
    }
    Ok(())
}

/// Sandboxes whose server has ended and was to take them along, in any scope;
/// and folders without a record that nobody is working on.
fn abandoned_sandboxes(host: &Host, trash: &mut Vec<Trash>) -> Result<(), Error> {
    for id in ids_in(&host.layout.sandboxes())? {
        let folder = host.layout.sandbox(&id);
        let abandoned = match Record::read(&folder)? {
            Some(record) => record.owner.is_some_and(|owner| !owner.is_alive()),
            None => matches!(record::try_lock(&folder), Ok(Some(_))),
        };
        if abandoned {
            match teardown::end(host, &id) {
                Ok(removed) => trash.push(removed),
                Err(error) => complain(&error),
            }
        }
    }
    Ok(())
}

/// Files that were on their way out.
fn empty_trash(host: &Host) -> Result<(), Error> {
    for id in ids_in(&host.layout.trash())? {
        // Another worker may be at the same; removing what is gone succeeds.
        if let Err(error) = teardown::empty(host, &id) {
            complain(&error);
        }
    }
    Ok(())
}

/// Slots of vanished sandboxes, then groups and sockets that belong to no slot.
fn orphans(host: &Host) -> Result<(), Error> {
    // Looked at first: a sandbox has its slot before it has anything else.
    let groups = host.cgroups.list()?;
    let sockets = socket_ids(host)?;
    let held = host.slots.reclaim()?;
    let is_live = |id: &str| held.values().any(|holder| holder.id == id);
    for id in groups {
        if id.parse::<Id>().is_ok() && !is_live(&id) {
            host.cgroups.kill(&id)?;
            host.cgroups.remove(&id)?;
        }
    }
    for id in sockets {
        if !is_live(&id) {
            let path = host.layout.socket(&id);
            // Another server's spawner may have been faster.
            let _ = fs::remove_file(path);
        }
    }
    Ok(())
}

fn socket_ids(host: &Host) -> Result<Vec<String>, Error> {
    let folder = host.layout.agents();
    let entries = fs::read_dir(&folder).at(Step::ListSandboxes, folder.display())?;
    Ok(entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let id = name.strip_suffix(".sock")?;
            id.parse::<Id>().is_ok().then(|| id.to_owned())
        })
        .collect())
}

/// Links and firewall elements of slots that are free now.
fn links(host: &Host) -> Result<(), Error> {
    if network::capability().is_err() {
        return Ok(());
    }
    // A slot taken meanwhile would look like nobody's.
    let _lock = host.slots.lock()?;
    let live: Vec<u32> = host
        .slots
        .held()
        .into_iter()
        .map(|(slot, ..)| slot)
        .collect();
    network::reconcile(&host.config.network, &live)
        .map_err(std::io::Error::other)
        .at(Step::DisconnectNetwork, "vanished sandboxes")
}
