//! Background processes: toy shell scripts whose output is kept.

use std::collections::BTreeMap;

use agent_protocol::{
    Command, Exec, Exit, FailureKind, ProcessInfo, Reply, Signal, TtySize, frame::FrameKind,
};
use tokio::{
    io::AsyncWrite,
    sync::{mpsc, watch},
};

use super::{
    Closed, Connection, FakeAgent, Frame,
    shell::{AbortOnDrop, Outcome, line},
};

/// Pieces of output or input on their way.
const PIECES: usize = 4;

/// All processes that were ever started.
#[derive(Debug, Default)]
pub(super) struct Processes(BTreeMap<u64, Process>);

struct Process {
    info: ProcessInfo,
    stdin: Option<mpsc::Sender<Vec<u8>>>,
    said: watch::Sender<Said>,
    task: AbortOnDrop,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.info.fmt(f)
    }
}

/// What a process has said so far, and how it ended.
#[derive(Debug, Default)]
struct Said {
    pieces: Vec<Frame>,
    exit: Option<Exit>,
}

fn killed(signal: i32) -> Exit {
    Exit {
        code: 128 + signal,
        signal: Some(signal),
        ..Exit::default()
    }
}

/// Keeps what a script says until it has ended.
async fn keep(
    agent: FakeAgent,
    process: u64,
    script: super::shell::Script,
    mut output: mpsc::Receiver<Frame>,
) {
    let run = async {
        let outcome = script.run().await;
        match outcome {
            Outcome::Exit(code) => Exit {
                code,
                ..Exit::default()
            },
            Outcome::Die => killed(9),
        }
    };
    let mut run = std::pin::pin!(run);
    let exit = loop {
        tokio::select! {
            biased;
            Some(piece) = output.recv() => agent.said(process, piece),
            exit = &mut run => break exit,
        }
    };
    while let Ok(piece) = output.try_recv() {
        agent.said(process, piece);
    }
    agent.exited(process, exit);
}

impl Processes {
    /// Those of these that are known.
    pub(super) fn infos(&self, processes: &[u64]) -> Vec<ProcessInfo> {
        let known = processes.iter().filter_map(|process| self.0.get(process));
        known.map(|process| process.info.clone()).collect()
    }
}

impl FakeAgent {
    /// Ends and forgets processes.
    pub(super) fn forget_processes(&self, processes: &[u64]) {
        let known = &mut self.state().processes.0;
        known.retain(|process, _| !processes.contains(process));
    }

    fn said(&self, process: u64, piece: Frame) {
        if let Some(process) = self.state().processes.0.get(&process) {
            process.said.send_modify(|said| said.pieces.push(piece));
        }
    }

    fn exited(&self, process: u64, exit: Exit) {
        if let Some(process) = self.state().processes.0.get_mut(&process) {
            process.info.exit.get_or_insert_with(|| exit.clone());
            process.said.send_modify(|said| {
                said.exit.get_or_insert(exit);
            });
        }
    }
}

impl<W: AsyncWrite> Connection<W> {
    pub(super) async fn start(&mut self, exec: Exec) -> Result<(), Closed> {
        let is_taken = exec.tag.is_some() && {
            let state = self.agent.state();
            let running = state.processes.0.values();
            let mut running = running.filter(|process| process.info.exit.is_none());
            running.any(|process| process.info.tag == exec.tag)
        };
        if is_taken {
            let message = format!("a process with the tag {:?} is running", exec.tag);
            return self.fail(FailureKind::AlreadyExists, message).await;
        }
        let info = self.begin(&exec);
        self.reply(&Reply::Started(info)).await
    }

    /// Begins a process.
    pub(super) fn begin(&mut self, exec: &Exec) -> ProcessInfo {
        let (output, said) = mpsc::channel(PIECES);
        let (stdin, input) = mpsc::channel(PIECES);
        let takes_input = exec.stdin || exec.tty.is_some();
        let mut script = self
            .agent
            .script(exec, takes_input.then_some(input), output);
        if exec.tty.is_some() && matches!(exec.command, Command::Argv(_)) {
            // A program on a terminal is an interactive shell: it reads to the end.
            script.line = "cat".to_owned();
        }
        let mut state = self.agent.state();
        let last = state.processes.0.keys().next_back();
        let number = last.map_or(1, |last| last + 1);
        let task = tokio::spawn(keep(self.agent.clone(), number, script, said));
        let info = ProcessInfo {
            process: number,
            pid: u32::try_from(number)
                .unwrap_or(u32::MAX)
                .saturating_add(100),
            command: line(&exec.command),
            started_ms: 0,
            exit: None,
            tag: exec.tag.clone(),
            tty: exec.tty,
        };
        let process = Process {
            info: info.clone(),
            stdin: takes_input.then_some(stdin),
            said: watch::Sender::default(),
            task: AbortOnDrop(task.abort_handle()),
        };
        state.processes.0.insert(number, process);
        info
    }

    pub(super) async fn resize(&mut self, process: u64, size: TtySize) -> Result<(), Closed> {
        let resized = {
            let mut state = self.agent.state();
            let tty = state.processes.0.get_mut(&process);
            tty.and_then(|process| process.info.tty.as_mut())
                .map(|tty| *tty = size)
        };
        if resized.is_none() {
            let message = format!("process {process} has no terminal");
            return self.fail(FailureKind::InvalidRequest, message).await;
        }
        self.reply(&Reply::Done { truncated: false }).await
    }

    pub(super) async fn processes(&mut self) -> Result<(), Closed> {
        let processes = {
            let state = self.agent.state();
            let infos = state
                .processes
                .0
                .values()
                .map(|process| process.info.clone());
            infos.collect()
        };
        self.reply(&Reply::Processes { processes }).await
    }

    async fn unknown(&mut self, process: u64) -> Result<(), Closed> {
        let message = format!("there is no process {process}");
        self.fail(FailureKind::NotFound, message).await
    }

    pub(super) async fn output(
        &mut self,
        process: u64,
        follow: bool,
        skip_kept: bool,
    ) -> Result<(), Closed> {
        let said = {
            let state = self.agent.state();
            state
                .processes
                .0
                .get(&process)
                .map(|process| process.said.subscribe())
        };
        let Some(mut said) = said else {
            return self.unknown(process).await;
        };
        let mut sent = if skip_kept {
            said.borrow().pieces.len()
        } else {
            0
        };
        loop {
            let (pieces, exit) = {
                let said = said.borrow_and_update();
                (said.pieces[sent..].to_vec(), said.exit.clone())
            };
            sent += pieces.len();
            for (kind, bytes) in pieces {
                self.send(kind, &bytes).await?;
            }
            match exit {
                Some(exit) => return self.reply(&Reply::Exited(exit)).await,
                None if follow => said.changed().await.map_err(|_| Closed)?,
                None => return self.reply(&Reply::Done { truncated: false }).await,
            }
        }
    }

    pub(super) async fn input(&mut self, process: u64, close: bool) -> Result<(), Closed> {
        let known = self.agent.state().processes.0.contains_key(&process);
        loop {
            match self.frames.recv().await.ok_or(Closed)? {
                (FrameKind::Input, bytes) => {
                    let stdin = {
                        let state = self.agent.state();
                        let process = state.processes.0.get(&process);
                        process.and_then(|process| process.stdin.clone())
                    };
                    if let Some(stdin) = stdin {
                        drop(stdin.send(bytes).await);
                    }
                }
                (FrameKind::InputEnd, _) => break,
                _ => return Err(Closed),
            }
        }
        if !known {
            return self.unknown(process).await;
        }
        if close && let Some(process) = self.agent.state().processes.0.get_mut(&process) {
            process.stdin = None;
        }
        self.reply(&Reply::Done { truncated: false }).await
    }

    pub(super) async fn signal(&mut self, process: u64, signal: Signal) -> Result<(), Closed> {
        let number = match signal {
            Signal::Sighup => 1,
            Signal::Sigint => 2,
            Signal::Sigquit => 3,
            Signal::Sigkill => 9,
            Signal::Sigusr1 => 10,
            Signal::Sigusr2 => 12,
            Signal::Sigterm => 15,
            Signal::Sigstop | Signal::Sigcont => 0,
        };
        let known = {
            let state = self.agent.state();
            let process = state.processes.0.get(&process);
            if let Some(process) = process.filter(|_| number != 0) {
                process.task.0.abort();
            }
            process.is_some()
        };
        if !known {
            return self.unknown(process).await;
        }
        if number != 0 {
            self.agent.exited(process, killed(number));
        }
        self.reply(&Reply::Done { truncated: false }).await
    }
}
