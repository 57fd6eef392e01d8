//! When to stop: on a signal, or when the client that wanted us is gone.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::FileType,
    io::Errno,
    process::{PidfdFlags, getppid, pidfd_open},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
};

/// What tells that the client who wanted this server is gone.
#[derive(Debug)]
pub(super) enum ClientWatch {
    /// Nobody reads our standard output any more.
    Stdout(OwnedFd),
    /// Nobody can write to our standard input any more.
    Stdin(OwnedFd),
    /// The parent process has ended.
    Parent(OwnedFd),
    /// The parent process had ended before we looked.
    Gone,
}

impl ClientWatch {
    /// The client as seen from this process: by a pipe that only it holds the
    /// other end of, else by being the parent.
    pub(super) fn of_process() -> io::Result<Self> {
        if is_pipe(io::stdout())? {
            return Ok(Self::Stdout(rustix::io::dup(io::stdout())?));
        }
        if is_pipe(io::stdin())? {
            return Ok(Self::Stdin(rustix::io::dup(io::stdin())?));
        }
        let Some(parent) = getppid() else {
            return Err(io::Error::other(
                "the parent is outside of this process namespace; give the server a pipe as standard output",
            ));
        };
        match pidfd_open(parent, PidfdFlags::empty()) {
            Ok(parent) => Ok(Self::Parent(parent)),
            Err(Errno::SRCH) => Ok(Self::Gone),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns when the client is gone.
    ///
    /// A thread waits in the kernel: what is watched here is either owned by
    /// others too (so it must not be made non-blocking) or no pipe at all.
    async fn gone(self) -> &'static str {
        let (sender, receiver) = oneshot::channel();
        let watching = std::thread::Builder::new()
            .name("client-watch".to_owned())
            .spawn(move || {
                let reason = self.wait();
                // Nobody listens any more when the server is ending already.
                let _ = sender.send(reason);
            });
        match (watching, receiver.await) {
            (Ok(_), Ok(reason)) => reason,
            // Without the watch the server would outlive its client.
            _ => "the client cannot be watched",
        }
    }

    fn wait(&self) -> &'static str {
        let (descriptor, flags, reason) = match self {
            // Errors and hang-ups are reported without being asked for: to a
            // writer without readers, to a reader without writers.
            Self::Stdout(pipe) => (
                pipe,
                PollFlags::empty(),
                "nobody reads standard output any more",
            ),
            Self::Stdin(pipe) => (pipe, PollFlags::empty(), "standard input was closed"),
            // A pidfd becomes readable when its process has ended.
            Self::Parent(process) => (process, PollFlags::IN, "the parent process is gone"),
            Self::Gone => return "the parent process was gone already",
        };
        loop {
            match poll(&mut [PollFd::new(descriptor, flags)], None) {
                Ok(0) | Err(Errno::INTR | Errno::AGAIN) => {}
                Ok(_) => return reason,
                Err(_) => return "the client cannot be watched",
            }
        }
    }
}

fn is_pipe(file: impl AsFd) -> io::Result<bool> {
    let mode = rustix::fs::fstat(file)?.st_mode;
    Ok(FileType::from_raw_mode(mode) == FileType::Fifo)
}

/// How often we were told to stop.
#[derive(Clone, Debug)]
pub(super) struct Stop(watch::Receiver<u32>);

impl Stop {
    /// Begins to listen.
    pub(super) fn listen(client: Option<ClientWatch>) -> io::Result<Self> {
        let (sender, receiver) = watch::channel(0);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let client_gone = async {
            match client {
                Some(client) => client.gone().await,
                None => std::future::pending().await,
            }
        };
        tokio::spawn(async move {
            tokio::pin!(client_gone);
            let mut client_there = true;
            loop {
                let reason = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                    _ = hangup.recv() => "SIGHUP",
                    reason = &mut client_gone, if client_there => {
                        client_there = false;
                        reason
                    }
                };
                tracing::info!(reason, "stopping");
                sender.send_modify(|count| *count += 1);
            }
        });
        Ok(Self(receiver))
    }

    /// Returns when the server is to stop.
    pub(super) async fn requested(&self) {
        self.count_reaches(1).await;
    }

    /// Returns when the server is to stop without finishing anything.
    pub(super) async fn at_once(&self) {
        self.count_reaches(2).await;
    }

    async fn count_reaches(&self, count: u32) {
        let mut receiver = self.0.clone();
        // The sender lives as long as the runtime, so waiting ends by the count only.
        drop(
            receiver
                .wait_for(|reached| *reached >= count)
                .await
                .map(drop),
        );
    }
}
