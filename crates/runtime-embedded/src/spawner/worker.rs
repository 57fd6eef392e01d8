//! A worker: a fork of the spawner that does one request, answers and ends.

use std::{fs::File, io, os::fd::OwnedFd, panic, time::Duration};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use sandbox::Id;

use super::{
    check::{self, Wanted},
    complain, create,
    host::Host,
    images::ImageJob,
    keep, sweep, teardown,
};
use crate::{
    doctor,
    error::{At as _, Error, Step},
    image::Store,
    network,
    record::{self, Record},
    wire::{Answer, Create, Handles, Listed, Request},
};

/// How long a creation may take, as the server sees it: longer than the worker
/// gives itself.
pub(crate) const CREATE_DEADLINE: Duration = Duration::from_secs(15);

/// Leaks told at most; there should be none at all.
const LEAKS_MAX: usize = 10_000;

/// How long an answer may take to be taken.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// One request, checked, with what the spawner has done for it.
#[derive(Debug)]
pub(super) enum Job {
    Create(Box<create::Prepared>),
    Check(sandbox::Image),
    Destroy(Id),
    Stop(Id),
    Start(Box<Wanted>),
    Archive(Id),
    Restore(Id),
    Resize(Id, sandbox::Limits),
    Pause(Id),
    Resume(Id),
    List,
    Leaks,
    Adopt(Id),
    Sweep,
    Images(Box<ImageJob>),
}

impl Job {
    /// Checks the request. For a creation it also makes and locks the folder and
    /// takes the slot, so that whatever comes later finds them.
    /// `attached` is the descriptor that came beside the request.
    pub(super) fn prepare(
        host: &mut Host,
        request: Request,
        attached: Option<OwnedFd>,
    ) -> sandbox::Result<Self> {
        Ok(match request {
            Request::Create(create) => Self::Create(Box::new(prepare_create(host, create)?)),
            Request::Check { image } => Self::Check(image.parse()?),
            Request::Destroy { id } => Self::Destroy(id.parse()?),
            Request::Stop { id } => Self::Stop(id.parse()?),
            Request::Start(start) => Self::Start(Box::new(Wanted::try_from(start)?)),
            Request::Archive { id } => Self::Archive(id.parse()?),
            Request::Restore { id } => Self::Restore(id.parse()?),
            Request::Resize {
                id,
                memory_bytes,
                cpu_millis,
                pids,
            } => Self::Resize(id.parse()?, check::limits(memory_bytes, cpu_millis, pids)?),
            Request::Pause { id } => Self::Pause(id.parse()?),
            Request::Resume { id } => Self::Resume(id.parse()?),
            Request::List => Self::List,
            Request::Leaks => Self::Leaks,
            Request::Adopt { id } => Self::Adopt(id.parse()?),
            Request::Sweep => Self::Sweep,
            Request::Images { request } => {
                Self::Images(Box::new(ImageJob::prepare(request, attached)?))
            }
        })
    }

    /// Undoes what was prepared when no worker could be started.
    pub(super) fn abandon(self, host: &Host) {
        if let Self::Create(prepared) = self {
            let id = prepared.wanted.id.as_str();
            let folder = host.layout.sandbox(id);
            if let Err(error) = std::fs::remove_dir(&folder).at(Step::RemoveFiles, folder.display())
            {
                complain(&error);
            }
            if let Err(error) = host.slots.free(prepared.slot, id) {
                complain(&error);
            }
        }
    }
}

fn prepare_create(host: &mut Host, request: Create) -> sandbox::Result<create::Prepared> {
    use std::os::unix::fs::DirBuilderExt as _;
    let wanted = Wanted::try_from(request)?;
    let id = wanted.id.as_str();
    let folder = host.layout.sandbox(id);
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&folder)
        .at(Step::MakeFolder, folder.display())?;
    let prepared = lock_new(&folder).and_then(|lock| {
        let slot = host.slots.take(&host.holder(id))?;
        Ok((lock, slot))
    });
    match prepared {
        Ok((lock, slot)) => Ok(create::Prepared {
            wanted,
            slot,
            lock,
            again: None,
        }),
        Err(error) => {
            // Nothing is in it yet.
            let _ = std::fs::remove_dir(&folder);
            Err(error.into())
        }
    }
}

fn lock_new(folder: &std::path::Path) -> Result<File, Error> {
    record::try_lock(folder)
        .and_then(|lock| lock.ok_or_else(|| io::ErrorKind::WouldBlock.into()))
        .at(Step::LockFolder, folder.display())
}

/// Does the job and answers. Returns the status to exit with.
pub(super) fn run(host: &Host, job: Job, reply: &OwnedFd) -> i32 {
    // The program that sets up the firewall is a child to be waited for.
    if let Err(error) = sys::namespace::restore_child_signal() {
        complain(&error);
        return 1;
    }
    // A server that does not read must not keep its workers.
    let timeout = Some(ANSWER_DEADLINE);
    if let Err(error) =
        set_socket_timeout(reply, Timeout::Send, timeout).at(Step::AskSpawner, "its server")
    {
        complain(&error);
        return 1;
    }
    // Unwinding into the spawner's loop would make a second spawner of the worker.
    let done = panic::catch_unwind(panic::AssertUnwindSafe(|| work(host, job, reply)));
    i32::from(done.is_err())
}

fn work(host: &Host, job: Job, reply: &OwnedFd) {
    let result = match job {
        Job::Create(prepared) => return create(host, *prepared, reply),
        Job::Destroy(id) => return destroy(host, &id, reply),
        Job::Stop(id) => return keep::stop(host, &id, reply),
        Job::Start(wanted) => return keep::start(host, *wanted, reply),
        Job::Archive(id) => keep::archive(host, &id, reply).map(|()| Answer::Done),
        Job::Restore(id) => keep::restore(host, &id).map(|()| Answer::Done),
        Job::Resize(id, limits) => keep::resize(host, &id, limits).map(|()| Answer::Done),
        Job::Adopt(id) => return adopt(host, &id, reply),
        Job::Check(image) => check(host, &image),
        Job::Pause(id) => owned(host, &id)
            .and_then(|_| Ok(host.cgroups.freeze(id.as_str())?))
            .map(|()| Answer::Done),
        Job::Resume(id) => owned(host, &id)
            .and_then(|_| Ok(host.cgroups.thaw(id.as_str())?))
            .map(|()| Answer::Done),
        Job::Images(job) => job.run(host),
        Job::List => list(host).map(|sandboxes| Answer::List { sandboxes }),
        Job::Leaks => Ok(leaks(host)),
        Job::Sweep => {
            let trash = sweep::run(host);
            answer(Ok(Answer::Done), reply);
            return sweep::finish(host, trash);
        }
    };
    answer(result, reply);
}

/// Sends an answer without descriptors; a server that has gone needs none.
pub(super) fn answer(result: sandbox::Result<Answer>, reply: &OwnedFd) {
    let answer = result.unwrap_or_else(|error| Answer::failed(&error));
    let _ = answer.send(reply, &[]);
}

fn create(host: &Host, prepared: create::Prepared, reply: &OwnedFd) {
    let id = prepared.wanted.id.clone();
    let (slot, lock) = (prepared.slot, prepared.lock.try_clone());
    let result = create::run(host, prepared).and_then(|made| {
        let answer = Answer::Created {
            steps: made.steps,
            dns: made.handles.dns.is_some(),
        };
        // A server that has stopped waiting will never know this sandbox.
        answer
            .send(reply, &made.handles.descriptors())
            .map_err(|error| sandbox::Error::cancelled(error.to_string()))
    });
    if let Err(error) = result {
        // The lock is still ours: nobody else is at it.
        let trash = teardown::take_down(host, id.as_str(), Some(slot));
        let _ = Answer::failed(&error).send(reply, &[]);
        if let Ok(lock) = &lock {
            record::unlock(lock);
        }
        match trash {
            Ok(trash) => trash.finish(host),
            Err(error) => complain(&error),
        }
    }
}

fn destroy(host: &Host, id: &Id, reply: &OwnedFd) {
    match teardown::destroy(host, id.as_str()) {
        Ok(trash) => {
            answer(Ok(Answer::Done), reply);
            trash.finish(host);
        }
        Err(error) => answer(Err(error.into()), reply),
    }
}

/// Whether the image can be used; the store says what to do when not.
fn check(host: &Host, image: &sandbox::Image) -> sandbox::Result<Answer> {
    Store::open(host.layout.state())?.resolve(image)?;
    Ok(Answer::Done)
}

/// The record of a sandbox of this scope.
pub(super) fn owned(host: &Host, id: &Id) -> sandbox::Result<Record> {
    let folder = host.layout.sandbox(id.as_str());
    Record::read(&folder)?
        .filter(|record| record.scope == host.config.scope)
        .ok_or_else(|| sandbox::Error::not_found(format!("there is no sandbox {id}")))
}

fn list(host: &Host) -> sandbox::Result<Vec<Listed>> {
    let mut sandboxes = Vec::new();
    for id in sweep::ids_in(&host.layout.sandboxes())? {
        let Some(record) = Record::read(&host.layout.sandbox(&id))? else {
            continue;
        };
        if record.scope != host.config.scope {
            continue;
        }
        let same_boot = record.is_of_this_boot(&host.boot_id);
        sandboxes.push(Listed {
            id,
            alive: same_boot && record.init.is_some_and(crate::process::Identity::is_alive),
            host_restarted: !same_boot,
            kept: record.kept.map(|kept| kept.as_str().to_owned()),
        });
    }
    Ok(sandboxes)
}

fn leaks(host: &Host) -> Answer {
    let leaks = doctor::leaks_in(&host.layout).into_iter().take(LEAKS_MAX);
    Answer::Leaks {
        leaks: leaks.map(|leak| (leak.kind, leak.object)).collect(),
    }
}

fn adopt(host: &Host, id: &Id, reply: &OwnedFd) {
    match open_running(host, id) {
        Ok(handles) => {
            let answer = Answer::Adopted {
                dns: handles.dns.is_some(),
            };
            let _ = answer.send(reply, &handles.descriptors());
        }
        Err(error) => answer(Err(error), reply),
    }
}

fn open_running(host: &Host, id: &Id) -> sandbox::Result<Handles> {
    use std::os::fd::AsFd as _;
    let record = owned(host, id)?;
    let running = record
        .init
        .filter(|_| record.is_of_this_boot(&host.boot_id))
        .and_then(|init| Some((init.pid, init.open()?)));
    let Some((pid, pidfd)) = running else {
        return Err(sandbox::Error::lost(format!("sandbox {id} has ended")));
    };
    let mut dns = None;
    if record.network() == sandbox::NetworkMode::Open {
        let path = format!("/proc/{pid}/ns/net");
        let bound = File::open(&path)
            .at(Step::ConnectNetwork, &path)
            .map_err(sandbox::Error::from)
            .and_then(|namespace| {
                network::bind_dns(namespace.as_fd())
                    .map_err(|error| sandbox::Error::internal(error.to_string()))
            });
        match bound {
            Ok(sockets) => dns = Some(sockets),
            // Something inside may have taken the address; all else still works.
            Err(error) => complain(&error),
        }
    }
    Ok(Handles { pidfd, dns })
}
