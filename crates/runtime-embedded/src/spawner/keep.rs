//! Stops sandboxes and keeps their files; starts, packs and unpacks them again.
//!
//! The record says at any moment what is there. What makes it less (stopping,
//! packing) is complete and on the disk before the record says so, and only then is
//! anything removed; so a worker may be killed anywhere, and the next one goes on.

use std::{
    ffi::CString,
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    },
    path::Path,
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};
use sandbox::{Id, Limits};

use super::{
    check::Wanted,
    complain, create,
    host::Host,
    teardown::{self, Halted},
    worker::{answer, owned},
};
use crate::{
    error::{At as _, Error, Step},
    kept::{self, Ids},
    layout::{PACK, UPPER, WORK, open_folder},
    process::Identity,
    record::{Kept, Record},
    slot::Slots,
    wire::Answer,
};

/// How long packing or unpacking may take, as the server sees it: longer than the
/// worker gives itself, shorter than the server gives the sandbox.
pub(crate) const PACK_DEADLINE: Duration = Duration::from_secs(28 * 60);
/// Packing is nothing that anybody waits for.
const PACK_NICENESS: i32 = 10;
/// The pack while it is being written.
const DRAFT: &str = "pack.new";

/// Ends the processes of a sandbox; answers before its link is gone.
pub(super) fn stop(host: &Host, id: &Id, reply: &OwnedFd) {
    match try_stop(host, id) {
        Ok(None) => answer(Ok(Answer::Done), reply),
        Ok(Some((halted, lock))) => {
            answer(Ok(Answer::Done), reply);
            if let Err(error) = halted.release(host) {
                complain(&error);
            }
            drop(lock);
        }
        Err(error) => answer(Err(error), reply),
    }
}

/// `None` when it was stopped already.
fn try_stop(host: &Host, id: &Id) -> sandbox::Result<Option<(Halted, File)>> {
    // Also from one that is about to start it, who has not written that down yet.
    owned(host, id)?;
    let lock = teardown::seize(host, id.as_str())?.ok_or_else(|| unknown(id))?;
    let record = owned(host, id)?;
    if record.kept.is_some() {
        return Ok(None);
    }
    let halted = halt(host, id, record)?;
    Ok(Some((halted, lock)))
}

/// Ends the processes of a sandbox whose lock the caller has, and writes that down.
fn halt(host: &Host, id: &Id, record: Record) -> Result<Halted, Error> {
    let halted = teardown::halt(host, id.as_str(), Some(&record), None)?;
    let stopped = Record {
        init: None,
        kept: Some(Kept::Files),
        ..record
    };
    stopped.write_durably(&host.layout.sandbox(id.as_str()))?;
    Ok(halted)
}

/// Starts a stopped sandbox.
pub(super) fn start(host: &Host, wanted: Wanted, reply: &OwnedFd) {
    let id = wanted.id.clone();
    let prepared = match prepare(host, wanted, reply) {
        Ok(prepared) => prepared,
        Err(error) => return answer(Err(error), reply),
    };
    // Whatever `run` does with its own.
    let lock = prepared.lock.try_clone();
    let started = create::run(host, prepared).and_then(|made| {
        let answer = Answer::Created {
            steps: made.steps,
            dns: made.handles.dns.is_some(),
        };
        // A server that has stopped waiting takes it for stopped.
        answer
            .send(reply, &made.handles.descriptors())
            .map_err(|error| sandbox::Error::cancelled(error.to_string()))
    });
    if let Err(error) = started {
        let undone = owned(host, &id).and_then(|record| Ok(halt(host, &id, record)?));
        answer(Err(error), reply);
        match undone.map(|halted| halted.release(host)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => complain(&error),
            Err(error) => complain(&error),
        }
    }
    drop(lock);
}

/// Locks a stopped sandbox and takes a slot, the same as before if it can be.
fn prepare(host: &Host, wanted: Wanted, reply: &OwnedFd) -> sandbox::Result<create::Prepared> {
    let id = &wanted.id;
    let lock = teardown::await_lock(host, id.as_str())?.ok_or_else(|| unknown(id))?;
    check_wanted(reply)?;
    let record = owned(host, id)?;
    if record.kept != Some(Kept::Files) {
        return Err(not_stopped(id));
    }
    let slot = take_slot(host, id, record.slot)?;
    Ok(create::Prepared {
        wanted,
        slot,
        lock,
        again: Some(record),
    })
}

fn take_slot(host: &Host, id: &Id, before: u32) -> Result<u32, Error> {
    let holder = host.holder(id.as_str());
    if host.slots.take_this(before, &holder)? {
        return Ok(before);
    }
    Slots::new(&host.layout).take(&holder)
}

/// Changes the limits of a running sandbox.
pub(super) fn resize(host: &Host, id: &Id, limits: Limits) -> sandbox::Result<()> {
    if owned(host, id)?.kept.is_some() {
        return Err(sandbox::Error::not_found(format!(
            "sandbox {id} has no processes"
        )));
    }
    host.cgroups.resize(id.as_str(), limits)
}

/// Packs the files of a stopped sandbox and removes them.
pub(super) fn archive(host: &Host, id: &Id, reply: &OwnedFd) -> sandbox::Result<()> {
    let _lock = teardown::await_lock(host, id.as_str())?.ok_or_else(|| unknown(id))?;
    check_wanted(reply)?;
    let record = owned(host, id)?;
    let folder = host.layout.sandbox(id.as_str());
    let slot = record.slot;
    match record.kept {
        None => return Err(not_stopped(id)),
        Some(Kept::Pack) => {}
        Some(Kept::Files) => pack(record, &folder)?,
    }
    // Only now: the pack is complete, and the record says that it is what counts.
    remove(&folder, UPPER)?;
    remove(&folder, WORK)?;
    Ok(host.slots.free(slot, id.as_str())?)
}

fn pack(mut record: Record, folder: &Path) -> Result<(), Error> {
    let at = Step::PackFiles;
    // Whoever wants something else of the sandbox finds whom to end.
    record.worker = Identity::own().at(Step::WriteRecord, "the worker's identity")?;
    record.write(folder)?;
    // Refused where niceness is limited; then it takes part like others.
    let _ = rustix::process::nice(PACK_NICENESS);
    let upper = open_folder(&folder.join(UPPER)).at(at, folder.display())?;
    let draft = folder.join(DRAFT);
    let target = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .at(at, draft.display())?;
    let ids = Ids::of(record.files_slot.unwrap_or(record.slot));
    if let Err(error) = kept::pack(&upper.into(), ids, target) {
        // Its space may be what was missing.
        let _ = fs::remove_file(&draft);
        return Err(error);
    }
    fs::rename(&draft, folder.join(PACK)).at(at, draft.display())?;
    record.kept = Some(Kept::Pack);
    record.files_slot = None;
    record.write_durably(folder)
}

/// Unpacks the files of an archived sandbox; one that is only being archived stays stopped.
pub(super) fn restore(host: &Host, id: &Id) -> sandbox::Result<()> {
    let _lock = teardown::seize(host, id.as_str())?.ok_or_else(|| unknown(id))?;
    let record = owned(host, id)?;
    let folder = host.layout.sandbox(id.as_str());
    match record.kept {
        None => return Err(not_stopped(id)),
        Some(Kept::Files) => {}
        Some(Kept::Pack) => {
            let slot = take_slot(host, id, record.slot)?;
            unpack(Record { slot, ..record }, &folder)?;
        }
    }
    for name in [DRAFT, PACK] {
        let path = folder.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.at(Step::RemoveFiles, path.display())?,
        }
    }
    Ok(())
}

fn unpack(mut record: Record, folder: &Path) -> Result<(), Error> {
    let at = Step::UnpackFiles;
    record.worker = Identity::own().at(Step::WriteRecord, "the worker's identity")?;
    record.write(folder)?;
    // What an archiving or a restoring left that was ended halfway.
    remove(folder, UPPER)?;
    let path = folder.join(UPPER);
    DirBuilder::new()
        .mode(0o755)
        .create(&path)
        .at(at, path.display())?;
    let upper = OwnedFd::from(open_folder(&path).at(at, path.display())?);
    let pack = folder.join(PACK);
    let source = File::open(&pack).at(at, pack.display())?;
    if let Err(error) = kept::unpack(source, &upper, Ids::of(record.slot)) {
        // Its space is missing elsewhere; the pack is still whole.
        remove(folder, UPPER)?;
        return Err(error);
    }
    // The pack is removed next.
    rustix::fs::syncfs(&upper).at(at, path.display())?;
    record.kept = Some(Kept::Files);
    record.write_durably(folder)
}

/// Removes a tree in the sandbox's folder.
fn remove(folder: &Path, name: &str) -> Result<(), Error> {
    let path = folder.join(name);
    let name = CString::new(name).at(Step::RemoveFiles, path.display())?;
    open_folder(folder)
        .and_then(|folder| sys::tree::remove(folder, &name))
        .at(Step::RemoveFiles, path.display())
}

/// Whether the server still waits. While a worker waited for the lock its server may
/// have asked for the opposite, and that was done.
///
/// # Errors
/// `Cancelled`.
fn check_wanted(reply: &OwnedFd) -> sandbox::Result<()> {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    match recv(reply, &mut [0u8; 1][..], flags) {
        Err(Errno::AGAIN) => Ok(()),
        _ => Err(sandbox::Error::cancelled("nobody waits for it any more")),
    }
}

fn unknown(id: &Id) -> sandbox::Error {
    sandbox::Error::not_found(format!("there is no sandbox {id}"))
}

fn not_stopped(id: &Id) -> sandbox::Error {
    sandbox::Error::conflict(format!("sandbox {id} is not stopped"))
}
