//! Ends a sandbox and removes all that belongs to it.
//!
//! What can lives in namespaces that only the sandbox's processes hold, so
//! killing them makes the kernel clean up: mounts, links, message queues. What
//! is left are control groups, a firewall element, a socket, files and the slot.
//! Every step succeeds when there is nothing to do, so that a teardown that was
//! itself killed can be started again.

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    time::{Duration, Instant},
};

use rustix::process::{Signal, pidfd_send_signal};

use super::{complain, host::Host, sweep};
use crate::{
    error::{At as _, Error, Step},
    layout::open_folder,
    network,
    process::Identity,
    record::{self, Record},
    wait::pause,
};

/// How long a destruction may take, as the server sees it.
pub(crate) const DESTROY_DEADLINE: Duration = Duration::from_secs(30);
/// How long another worker may hold the sandbox.
const LOCK_DEADLINE: Duration = Duration::from_secs(12);
const LOCK_RETRY: Duration = Duration::from_millis(5);
/// How long killed processes may take to end. A large memory takes its time.
const END_DEADLINE_MS: u32 = 10_000;

/// What is removed after the answer was given, because it takes time and
/// nobody needs to wait for it.
#[derive(Debug)]
#[must_use]
pub(super) struct Trash {
    id: String,
    halted: Halted,
}

impl Trash {
    /// Removes the files and the link, then gives the slot back.
    pub(super) fn finish(self, host: &Host) {
        if let Err(error) = self.try_finish(host) {
            // The next start sweeps what is left.
            complain(&error);
        }
    }

    fn try_finish(&self, host: &Host) -> Result<(), Error> {
        if !empty(host, &self.id)? {
            return Ok(());
        }
        self.halted.release(host)?;
        match self.halted.slot {
            Some(slot) => host.slots.free(slot, &self.id),
            None => Ok(()),
        }
    }
}

/// Removes the files of a sandbox from the trash; `false` when another worker is at
/// it, who will also do what comes after.
pub(super) fn empty(host: &Host, id: &str) -> Result<bool, Error> {
    let trash = host.layout.trash();
    let path = trash.join(id);
    let remove = || -> io::Result<bool> {
        let lock = match record::try_lock(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            lock => lock?,
        };
        if lock.is_none() {
            return Ok(false);
        }
        sys::tree::remove(open_folder(&trash)?, &CString::new(id)?)?;
        Ok(true)
    };
    remove().at(Step::RemoveFiles, path.display())
}

/// Ends the sandbox `id` of this server's scope. One that does not exist is a success.
pub(super) fn destroy(host: &Host, id: &str) -> Result<Trash, Error> {
    let folder = host.layout.sandbox(id);
    if let Some(record) = Record::read(&folder)?
        && record.scope != host.config.scope
    {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied)).at(
            Step::Kill,
            format_args!("{id}, which belongs to the scope {:?}", record.scope),
        );
    }
    end(host, id)
}

/// Ends the sandbox `id` of whatever scope.
pub(super) fn end(host: &Host, id: &str) -> Result<Trash, Error> {
    let lock = seize(host, id)?;
    let trash = take_down(host, id, None);
    drop(lock);
    trash
}

/// The lock of a sandbox, taken from whoever is at it; `None` when it has no folder.
pub(super) fn seize(host: &Host, id: &str) -> Result<Option<File>, Error> {
    lock(host, id, |record| {
        // Whoever does something to it does it in vain.
        kill(record.worker, Duration::ZERO);
    })
}

/// The lock of a sandbox when nobody is at it any more; `None` when it has no folder.
pub(super) fn await_lock(host: &Host, id: &str) -> Result<Option<File>, Error> {
    lock(host, id, |_| {})
}

fn lock(host: &Host, id: &str, hurry: impl Fn(&Record)) -> Result<Option<File>, Error> {
    let folder = host.layout.sandbox(id);
    let lock_end = Instant::now() + LOCK_DEADLINE;
    loop {
        match record::try_lock(&folder) {
            Ok(Some(lock)) => return Ok(Some(lock)),
            Ok(None) if Instant::now() < lock_end => {
                if let Some(record) = Record::read(&folder)? {
                    hurry(&record);
                }
                pause(LOCK_RETRY);
            }
            Ok(None) => {
                return Err(io::Error::from(io::ErrorKind::TimedOut))
                    .at(Step::LockFolder, folder.display());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).at(Step::LockFolder, folder.display()),
        }
    }
}

/// What the processes of a sandbox have left.
#[derive(Debug)]
pub(super) struct Halted {
    pub(super) slot: Option<u32>,
    pub(super) has_link: bool,
}

impl Halted {
    /// Removes the link, which takes time: to be done after answering, before the
    /// slot is used again.
    pub(super) fn release(&self, host: &Host) -> Result<(), Error> {
        let (true, Some(slot)) = (self.has_link, self.slot) else {
            return Ok(());
        };
        network::release(&host.config.network, slot)
            .map_err(io::Error::other)
            .at(Step::DisconnectNetwork, format_args!("slot {slot}"))
    }
}

/// Ends the processes of a sandbox whose lock the caller has, and frees what only they
/// need. `slot` is for one that may have no record yet.
pub(super) fn halt(
    host: &Host,
    id: &str,
    record: Option<&Record>,
    slot: Option<u32>,
) -> Result<Halted, Error> {
    host.cgroups.kill(id)?;
    if let Some(record) = record
        && record.is_of_this_boot(&host.boot_id)
        && let Some(init) = record.init
        && !kill(init, Duration::from_millis(END_DEADLINE_MS.into()))
    {
        return Err(io::Error::from(io::ErrorKind::TimedOut))
            .at(Step::Kill, format_args!("process {}", init.pid));
    }
    let slot = slot
        .or(record.map(|record| record.slot))
        .or_else(|| slot_of(host, id))
        // Slots do not outlive a restart of the host, records do.
        .filter(|slot| host.slots.is_held_by(*slot, id));
    let open = record.is_none_or(|record| record.open_network);
    let has_link = open && network::capability().is_ok();
    if has_link && let Some(slot) = slot {
        network::disconnect(&host.config.network, slot)
            .map_err(io::Error::other)
            .at(Step::DisconnectNetwork, format_args!("slot {slot}"))?;
    }
    host.cgroups.remove(id)?;
    let socket = host.layout.socket(id);
    remove_file(&socket)?;
    Ok(Halted { slot, has_link })
}

/// Ends what there is of a sandbox whose lock the caller has. `slot` is for one that
/// may have no record yet.
pub(super) fn take_down(host: &Host, id: &str, slot: Option<u32>) -> Result<Trash, Error> {
    let folder = host.layout.sandbox(id);
    let record = Record::read(&folder)?;
    let halted = halt(host, id, record.as_ref(), slot)?;
    let trash = host.layout.trash().join(id);
    match fs::rename(&folder, &trash) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => result.at(Step::RemoveFiles, folder.display())?,
    }
    Ok(Trash {
        id: id.to_owned(),
        halted,
    })
}

/// Kills a process and waits for its end; whether it has ended.
fn kill(process: Identity, wait: Duration) -> bool {
    let Some(pidfd) = process.open() else {
        return true;
    };
    // It may have ended since; the wait tells.
    let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
    sys::pidfd::wait(&pidfd, wait_ms).unwrap_or(false)
}

fn remove_file(path: &std::path::Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.at(Step::RemoveFiles, path.display()),
    }
}

/// The slot of a sandbox that has no record.
fn slot_of(host: &Host, id: &str) -> Option<u32> {
    let held = host.slots.held();
    held.into_iter()
        .find_map(|(slot, holder, _)| (holder.id == id).then_some(slot))
}

/// Ends every sandbox whose owner is `server`, as when it has gone.
pub(super) fn destroy_owned(host: &Host, server: Identity) {
    let ids = match sweep::ids_in(&host.layout.sandboxes()) {
        Ok(ids) => ids,
        Err(error) => return complain(&error),
    };
    let mut trash = Vec::new();
    for id in ids {
        match Record::read(&host.layout.sandbox(&id)) {
            Ok(Some(record)) if record.owner == Some(server) => match end(host, &id) {
                Ok(removed) => trash.push(removed),
                Err(error) => complain(&error),
            },
            Ok(_) => {}
            Err(error) => complain(&error),
        }
    }
    // First all processes, then all files: what runs matters more than what lies around.
    for removed in trash {
        removed.finish(host);
    }
}
