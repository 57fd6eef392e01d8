//! A toy shell.
//!
//! Commands are separated by `;`, each may begin with `echo TEXT` (with `>&2`
//! at its end: to standard error), `cat` (standard input to output),
//! `printenv NAME`, `pwd`, `sleep SECONDS`, `yes BYTES` (so many bytes of
//! output), `exit CODE` and `die` (the connection closes without a result).

use std::{collections::BTreeMap, time::Duration};

use agent_protocol::{
    Command, Exec, Exit, Reply,
    frame::{CHUNK_BYTES, FrameKind},
};
use tokio::{io::AsyncWrite, sync::mpsc};

use super::{Closed, Connection, Frame, time_over};

/// Pieces of output or input on their way.
const PIECES: usize = 4;
/// What shells report for a command that SIGKILL ended.
const KILLED: i32 = 128 + 9;

/// A command with all that it sees.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) line: String,
    pub(super) env: BTreeMap<String, String>,
    pub(super) cwd: String,
    pub(super) stdin: Option<mpsc::Receiver<Vec<u8>>>,
    pub(super) output: mpsc::Sender<Frame>,
}

/// How a script ended.
pub(super) enum Outcome {
    Exit(i32),
    Die,
}

/// The text of a command.
pub(super) fn line(command: &Command) -> String {
    match command {
        Command::Shell(line) | Command::Script(line) => line.clone(),
        Command::Argv(words) => words.join(" "),
    }
}

impl Script {
    pub(super) async fn run(mut self) -> Outcome {
        let line = std::mem::take(&mut self.line);
        let mut code = 0;
        for command in line.split(';').map(str::trim) {
            let (word, rest) = command.split_once(' ').unwrap_or((command, ""));
            code = match word {
                "" => code,
                "exit" => return Outcome::Exit(rest.parse().unwrap_or(2)),
                "die" => return Outcome::Die,
                _ => self.command(word, rest).await,
            };
        }
        Outcome::Exit(code)
    }

    async fn command(&mut self, word: &str, rest: &str) -> i32 {
        match word {
            "echo" => match rest.strip_suffix(">&2") {
                Some(text) => self.say(FrameKind::Error, format!("{}\n", text.trim())),
                None => self.say(FrameKind::Output, format!("{rest}\n")),
            },
            "printenv" => match self.env.get(rest) {
                Some(value) => self.say(FrameKind::Output, format!("{value}\n")),
                None => return 1,
            },
            "pwd" => self.say(FrameKind::Output, format!("{}\n", self.cwd)),
            "sleep" => {
                let seconds = rest.parse().unwrap_or(0.0);
                tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
                return 0;
            }
            "yes" => return self.yes(rest.parse().unwrap_or(0)).await,
            "cat" => return self.cat().await,
            _ => {
                let text = format!("sh: 1: {word}: not found\n");
                self.say(FrameKind::Error, text).await;
                return 127;
            }
        }
        .await;
        0
    }

    fn say(&self, kind: FrameKind, text: String) -> impl Future<Output = ()> + use<> {
        let output = self.output.clone();
        // Nobody listens any more: the command goes on, as with a closed pipe ignored.
        async move { drop(output.send((kind, text.into_bytes())).await) }
    }

    async fn yes(&self, mut bytes: usize) -> i32 {
        while bytes > 0 {
            let chunk = bytes.min(CHUNK_BYTES);
            if self
                .output
                .send((FrameKind::Output, vec![b'y'; chunk]))
                .await
                .is_err()
            {
                return 1;
            }
            bytes -= chunk;
        }
        0
    }

    async fn cat(&mut self) -> i32 {
        if let Some(stdin) = &mut self.stdin {
            while let Some(bytes) = stdin.recv().await {
                if self.output.send((FrameKind::Output, bytes)).await.is_err() {
                    return 1;
                }
            }
        }
        0
    }
}

impl<W: AsyncWrite> Connection<W> {
    pub(super) async fn exec(&mut self, exec: Exec) -> Result<(), Closed> {
        let (output, mut said) = mpsc::channel(PIECES);
        let (mut stdin, input) = match exec.stdin {
            true => {
                let (sender, receiver) = mpsc::channel(PIECES);
                (Some(sender), Some(receiver))
            }
            false => (None, None),
        };
        let script = self.agent.script(&exec, input, output);
        let mut running = tokio::spawn(script.run());
        let _ended_with_the_stream = AbortOnDrop(running.abort_handle());
        let mut over = std::pin::pin!(time_over(exec.timeout_ms));
        let ended = loop {
            tokio::select! {
                biased;
                Some((kind, bytes)) = said.recv() => {
                    let kind = if exec.merge_output { FrameKind::Output } else { kind };
                    self.send(kind, &bytes).await?;
                }
                () = &mut over => break None,
                ended = &mut running => break ended.ok(),
                frame = self.frames.recv(), if stdin.is_some() => match frame {
                    Some((FrameKind::Input, bytes)) => {
                        if let Some(stdin) = &stdin {
                            drop(stdin.send(bytes).await);
                        }
                    }
                    Some((FrameKind::InputEnd, _)) => stdin = None,
                    Some(_) | None => return Err(Closed),
                },
            }
        };
        while let Ok((kind, bytes)) = said.try_recv() {
            self.send(kind, &bytes).await?;
        }
        let exit = match ended {
            Some(Outcome::Die) => return Err(Closed),
            Some(Outcome::Exit(code)) => Exit {
                code,
                ..Exit::default()
            },
            None => Exit {
                code: KILLED,
                signal: Some(9),
                timed_out: true,
                ..Exit::default()
            },
        };
        self.reply(&Reply::Exited(exit)).await
    }
}

/// Ends a task with its owner.
pub(super) struct AbortOnDrop(pub(super) tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl super::FakeAgent {
    pub(super) fn script(
        &self,
        exec: &Exec,
        stdin: Option<mpsc::Receiver<Vec<u8>>>,
        output: mpsc::Sender<Frame>,
    ) -> Script {
        let mut env = self.state().env.clone();
        env.extend(exec.env.clone());
        Script {
            line: line(&exec.command),
            env,
            cwd: exec
                .cwd
                .clone()
                .unwrap_or_else(|| super::WORKDIR.to_owned()),
            stdin,
            output,
        }
    }
}
