//! The run of one cell in a kernel that is ready.
//!
//! ```text
//!             order ──► driver ──► Ended
//!  timeout, interrupt,    │
//!  client gone            ▼
//!       SIGINT ──5 s──► SIGINT ──2 s──► SIGKILL ──► died
//! ```
//! One loop polls everything that can happen; nothing in it waits elsewhere.

use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

use agent_protocol::{Cell, frame::FrameKind};
use rustix::{
    event::{PollFd, PollFlags},
    process::Signal,
};
use serde::Serialize;
use std::collections::BTreeMap;

use self::ending::never_begun;
pub(super) use self::ending::{Outcome, kernel_died};
use super::{
    channel::{ChannelError, Ended, Message, Order},
    client::Client,
    kernel::{Kernel, READ_BYTES},
    poll_until,
    turn::{Turn, wish},
};
use crate::context::OutOfMemory;

mod ending;

/// How long a cell may take to react to an interrupt before it gets another.
const INTERRUPT_GRACE: Duration = Duration::from_secs(5);

/// How long it may take to react to that one before its kernel is killed.
const SECOND_INTERRUPT_GRACE: Duration = Duration::from_secs(2);

/// How long a killed process may take to end.
const KILL_GRACE: Duration = Duration::from_secs(5);

/// How long after the channel was closed the process may take to end by itself.
const CLOSED_GRACE: Duration = Duration::from_secs(1);

/// How soon to look again for room for a large message.
const BLOCKED_RETRY: Duration = Duration::from_millis(10);

/// What ends a cell before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Timeout(Duration),
    Request,
    ClientGone,
    Restart,
    /// Its control channel cannot be used any more.
    Broken,
}

/// What was sent last to end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing: it closed the channel, as a process does that ends.
    Closed,
    Interrupt,
    SecondInterrupt,
    Kill,
}

/// An ending under way.
#[derive(Clone, Copy, Debug)]
struct Stop {
    cause: Cause,
    stage: Stage,
    /// When the next stage is due.
    next: Instant,
}

/// The body of [`Order::Run`].
#[derive(Serialize)]
struct Run<'a> {
    code: &'a str,
    merge: bool,
    env: &'a BTreeMap<String, String>,
    quiet: bool,
}

/// What poll found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Exit,
    Turn,
    ClientGone,
    ClientAccepts,
    Channel,
    Stdout,
    Stderr,
}

/// The run of one cell; see the module.
pub(super) struct Execution<'a, 'b> {
    pub(super) kernel: &'a mut Kernel,
    pub(super) client: &'a mut Client<'b>,
    pub(super) turn: &'a Turn,
    pub(super) out_of_memory: &'a OutOfMemory,
    cell: &'a Cell,
    deadline: Option<Instant>,
    stop: Option<Stop>,
    channel_error: Option<ChannelError>,
    buffer: Vec<u8>,
}

impl<'a, 'b> Execution<'a, 'b> {
    pub(super) fn new(
        kernel: &'a mut Kernel,
        client: &'a mut Client<'b>,
        turn: &'a Turn,
        out_of_memory: &'a OutOfMemory,
        cell: &'a Cell,
    ) -> Self {
        Self {
            kernel,
            client,
            turn,
            out_of_memory,
            cell,
            deadline: None,
            stop: None,
            channel_error: None,
            buffer: vec![0; READ_BYTES],
        }
    }

    /// Runs the cell to its end.
    pub(super) fn run(mut self) -> Outcome {
        let timeout = self.cell.timeout_ms.map(Duration::from_millis);
        self.deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        self.kernel.begin(self.out_of_memory);
        let backlog = self.kernel.stdout.take_backlog();
        self.client.output(FrameKind::Output, &backlog);
        let backlog = self.kernel.stderr.take_backlog();
        self.client.output(self.error_kind(), &backlog);
        let ordered = if self.kernel.needs_synchronization {
            self.kernel.channel.order(Order::Synchronize, &[])
        } else {
            self.order_run()
        };
        if let Err(error) = ordered {
            self.broken(error);
        }
        loop {
            self.act_on_time();
            let sources = self.wait();
            if let Some(outcome) = self.act_on(&sources) {
                return outcome;
            }
        }
    }

    fn order_run(&mut self) -> Result<(), ChannelError> {
        let run = Run {
            code: &self.cell.code,
            merge: self.cell.merge_output,
            env: &self.cell.env,
            quiet: self.cell.hide_result,
        };
        let body = serde_json::to_vec(&run).expect("strings are always JSON");
        self.kernel.channel.order(Order::Run, &body)
    }

    fn error_kind(&self) -> FrameKind {
        if self.cell.merge_output {
            FrameKind::Output
        } else {
            FrameKind::Error
        }
    }

    /// Waits until something happens or is due.
    fn wait(&self) -> Vec<Source> {
        let mut polled = Vec::with_capacity(8);
        let mut sources = Vec::with_capacity(8);
        let mut watch = |file, flags, source| {
            polled.push(PollFd::from_borrowed_fd(file, flags));
            sources.push(source);
        };
        watch(self.kernel.child.exit.as_fd(), PollFlags::IN, Source::Exit);
        watch(self.turn.as_fd(), PollFlags::IN, Source::Turn);
        if !self.client.is_gone() {
            watch(self.client.as_fd(), PollFlags::RDHUP, Source::ClientGone);
        }
        if self.client.is_behind() {
            watch(self.client.as_fd(), PollFlags::OUT, Source::ClientAccepts);
        }
        if self.may_take() {
            for (output, source) in [
                (&self.kernel.stdout, Source::Stdout),
                (&self.kernel.stderr, Source::Stderr),
            ] {
                if let Some(pipe) = output.pipe() {
                    watch(pipe.as_fd(), PollFlags::IN, source);
                }
            }
        }
        let blocked = self.kernel.channel.is_blocked();
        if self.channel_error.is_none() {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, self.may_take() && !blocked);
            flags.set(PollFlags::OUT, self.kernel.channel.wants_to_send());
            if !flags.is_empty() {
                watch(self.kernel.channel.as_fd(), flags, Source::Channel);
            }
        }
        // A failure to poll is treated as nothing happening; deadlines go on.
        let _ = poll_until(&mut polled, self.next_deadline(blocked));
        let happened = polled.iter().map(|polled| !polled.revents().is_empty());
        let mut happened: Vec<_> = happened.zip(sources).filter(|(yes, _)| *yes).collect();
        if blocked && self.may_take() {
            happened.push((true, Source::Channel));
        }
        happened.into_iter().map(|(_, source)| source).collect()
    }

    /// Whether to take more from the kernel. A cell that is being ended must
    /// be able to come to its end, whether the client reads or not.
    fn may_take(&self) -> bool {
        !self.client.is_behind() || self.stop.is_some()
    }

    fn next_deadline(&self, blocked: bool) -> Option<Instant> {
        let retry = blocked.then(|| Instant::now() + BLOCKED_RETRY);
        let due = self.stop.map_or(self.deadline, |stop| Some(stop.next));
        [retry, due].into_iter().flatten().min()
    }

    fn act_on(&mut self, sources: &[Source]) -> Option<Outcome> {
        let has = |source| sources.contains(&source);
        if has(Source::ClientGone) {
            self.client.has_gone();
        }
        if has(Source::ClientAccepts) {
            self.client.flush();
        }
        if has(Source::Turn) {
            self.act_on_wishes();
        }
        if has(Source::Stdout) {
            let count = self.kernel.stdout.read(&mut self.buffer);
            self.client.output(FrameKind::Output, &self.buffer[..count]);
        }
        if has(Source::Stderr) {
            let count = self.kernel.stderr.read(&mut self.buffer);
            self.client.output(self.error_kind(), &self.buffer[..count]);
        }
        if self.client.is_gone() {
            self.stop(Cause::ClientGone);
        }
        if has(Source::Channel)
            && let Some(ended) = self.exchange()
        {
            return Some(self.ended(ended));
        }
        if has(Source::Exit) {
            // What it said last may say how the cell ended.
            return Some(match self.exchange() {
                Some(ended) => self.ended(ended),
                None => self.died(),
            });
        }
        let unkillable = self
            .stop
            .is_some_and(|stop| stop.stage == Stage::Kill && Instant::now() >= stop.next);
        unkillable.then(|| self.died())
    }

    fn act_on_wishes(&mut self) {
        let wishes = self.turn.take_wishes();
        if wishes & wish::RESTART != 0 {
            self.kill(Cause::Restart);
        } else if wishes & wish::INTERRUPT != 0 {
            self.stop(Cause::Request);
        }
    }

    fn act_on_time(&mut self) {
        let now = Instant::now();
        match self.stop {
            None if self.deadline.is_some_and(|deadline| now >= deadline) => {
                let timeout = self.cell.timeout_ms.unwrap_or_default();
                self.stop(Cause::Timeout(Duration::from_millis(timeout)));
            }
            Some(stop) if now >= stop.next => match stop.stage {
                Stage::Interrupt => {
                    self.signal(Signal::INT);
                    self.stop = Some(Stop {
                        stage: Stage::SecondInterrupt,
                        next: now + SECOND_INTERRUPT_GRACE,
                        ..stop
                    });
                }
                Stage::SecondInterrupt | Stage::Closed => self.kill(stop.cause),
                Stage::Kill => {}
            },
            None | Some(_) => {}
        }
    }

    /// Interrupts the cell, unless it is being ended already.
    fn stop(&mut self, cause: Cause) {
        if self.stop.is_none() {
            self.client.may_lose();
            self.signal(Signal::INT);
            self.stop = Some(Stop {
                cause,
                stage: Stage::Interrupt,
                next: Instant::now() + INTERRUPT_GRACE,
            });
        }
    }

    fn kill(&mut self, cause: Cause) {
        self.client.may_lose();
        self.signal(Signal::KILL);
        self.stop = Some(Stop {
            cause,
            stage: Stage::Kill,
            next: Instant::now() + KILL_GRACE,
        });
    }

    /// To the whole group, so that a command that the cell waits for ends too.
    fn signal(&mut self, signal: Signal) {
        self.kernel.needs_synchronization = true;
        // When it has ended, the exit is noticed next.
        self.kernel.child.kill_group(signal);
    }

    fn broken(&mut self, error: ChannelError) {
        let is_closed = matches!(error, ChannelError::Closed);
        self.channel_error = Some(error);
        if !is_closed {
            self.kill(Cause::Broken);
        } else if self.stop.is_none() {
            self.stop = Some(Stop {
                cause: Cause::Broken,
                stage: Stage::Closed,
                next: Instant::now() + CLOSED_GRACE,
            });
        }
    }

    /// Sends what is to be sent, and takes what the driver says; its last word, if it is that.
    fn exchange(&mut self) -> Option<Ended> {
        if self.channel_error.is_some() {
            return None;
        }
        if let Err(error) = self.kernel.channel.flush() {
            self.broken(error);
            return None;
        }
        while self.may_take() {
            let message = match self.kernel.channel.receive() {
                Ok(message) => message?,
                Err(error) => {
                    self.broken(error);
                    return None;
                }
            };
            let acted = match message {
                Message::Ended(ended) => return Some(ended),
                // The cell is over before it has begun.
                Message::Synchronized if self.stop.is_some() => return Some(never_begun()),
                Message::Synchronized if self.kernel.needs_synchronization => {
                    self.kernel.needs_synchronization = false;
                    self.order_run()
                }
                Message::Display(display) => {
                    self.pass_on_written();
                    let wants_acknowledge = display.wants_acknowledge;
                    self.client.display(display);
                    if wants_acknowledge {
                        self.kernel.channel.order(Order::Acknowledge, &[])
                    } else {
                        Ok(())
                    }
                }
                _ => Err(ChannelError::Malformed),
            };
            if let Err(error) = acted {
                self.broken(error);
                return None;
            }
        }
        None
    }

    /// Passes on what is in the pipes by now: all that was written before a
    /// message of the driver's, and not for ever what others go on writing.
    fn pass_on_written(&mut self) {
        let error_kind = self.error_kind();
        for (output, kind) in [
            (&mut self.kernel.stdout, FrameKind::Output),
            (&mut self.kernel.stderr, error_kind),
        ] {
            let mut left = output.available();
            while left > 0 {
                let wanted = left.min(self.buffer.len());
                let count = output.read(&mut self.buffer[..wanted]);
                if count == 0 {
                    break;
                }
                self.client.output(kind, &self.buffer[..count]);
                left -= count;
            }
        }
    }
}
