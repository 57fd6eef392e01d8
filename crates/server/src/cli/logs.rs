//! `sandboxai logs`

use std::{collections::BTreeSet, time::Duration};

use futures_util::StreamExt as _;
use sandbox::Name;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    Context,
    client::{Client, Events},
    output::Output,
    signal::Interrupts,
    stream::{Piece, understand},
};
use crate::{exit_code::ExitCode, failure::Failure};

/// How often to look for new events and processes when following.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Arguments of `logs`.
#[derive(Debug, clap::Args)]
pub(super) struct Logs {
    /// The sandbox
    #[arg(value_parser = super::name)]
    name: Name,
    /// Go on with what happens from now
    #[arg(short, long)]
    follow: bool,
}

pub(super) async fn main(context: &Context, logs: &Logs) -> Result<ExitCode, Failure> {
    let client = context.client()?;
    let mut interrupts = Interrupts::catch()?;
    let mut watch = Watch {
        client: &client,
        name: &logs.name,
        to: context.output,
        last_event: 0,
        processes: BTreeSet::new(),
    };
    tokio::select! {
        result = watch.show(logs.follow) => result.map(|()| ExitCode::Ok),
        code = interrupts.next() => Ok(code),
    }
}

struct Watch<'a> {
    client: &'a Client,
    name: &'a Name,
    to: Output,
    /// Sequence number of the last event shown.
    last_event: i64,
    /// Processes whose output is shown already.
    processes: BTreeSet<u64>,
}

impl Watch<'_> {
    async fn show(&mut self, follow: bool) -> Result<(), Failure> {
        let mut outputs = JoinSet::new();
        loop {
            while self.show_events().await? {}
            for process in self.new_processes().await? {
                let target = self
                    .client
                    .sandbox(self.name, &format!("/processes/{process}/output"));
                let events = target
                    .query("follow", follow.to_string())
                    .events(None)
                    .await?;
                outputs.spawn(show_output(events, process, self.to));
                if !follow {
                    finish(&mut outputs).await?;
                }
            }
            if !follow {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Shows the next events; whether there were any.
    async fn show_events(&mut self) -> Result<bool, Failure> {
        let target = self.client.sandbox(self.name, "/events");
        let answer = target
            .query("after", self.last_event.to_string())
            .get()
            .await?;
        let events = answer["events"].as_array().cloned().unwrap_or_default();
        for event in &events {
            self.last_event = event["sequence"].as_i64().unwrap_or(i64::MAX);
            if self.to.json {
                self.to.line(json!({ "event": event }).to_string())?;
            } else {
                self.to.line(event_line(event))?;
            }
        }
        Ok(!events.is_empty())
    }

    async fn new_processes(&mut self) -> Result<Vec<u64>, Failure> {
        let answer = match self.client.sandbox(self.name, "/processes").get().await {
            Ok(answer) => answer,
            // The events of a sandbox that ended are all there is.
            Err(failure) if failure.code == ExitCode::NotFound && self.last_event > 0 => {
                return Ok(Vec::new());
            }
            Err(failure) => return Err(failure),
        };
        let processes = answer["processes"].as_array().cloned().unwrap_or_default();
        let mut new = Vec::new();
        for process in processes {
            let Some(id) = process["id"].as_u64() else {
                continue;
            };
            if self.processes.insert(id) {
                if !self.to.json {
                    let command = process["command"].as_str().unwrap_or_default();
                    self.to
                        .line(format!("[{id}] {}", self.to.paint("1", command)))?;
                }
                new.push(id);
            }
        }
        Ok(new)
    }
}

/// Waits until all outputs are shown.
async fn finish(outputs: &mut JoinSet<Result<(), Failure>>) -> Result<(), Failure> {
    while let Some(output) = outputs.join_next().await {
        output.map_err(Failure::to("showing output"))??;
    }
    Ok(())
}

/// Shows the output of a process line by line, each with the process's number.
async fn show_output(mut events: Events, process: u64, to: Output) -> Result<(), Failure> {
    let mut lines = Lines::default();
    while let Some(event) = events.next().await {
        let complete = match understand(&event?)? {
            Piece::Stdout(bytes) | Piece::Stderr(bytes) => lines.push(&bytes),
            Piece::End(_) => break,
            Piece::Other => continue,
        };
        for line in complete {
            show_line(process, &line, to)?;
        }
    }
    match lines.rest() {
        Some(line) => show_line(process, &line, to),
        None => Ok(()),
    }
}

fn show_line(process: u64, line: &str, to: Output) -> Result<(), Failure> {
    if to.json {
        return to.line(json!({ "process": process, "line": line }).to_string());
    }
    to.line(format!("[{process}] {line}"))
}

/// Longest line kept together, bytes.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Cuts output into lines.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            if byte == b'\n' || self.0.len() >= LINE_BYTES_MAX {
                lines.extend(self.rest().or_else(|| Some(String::new())));
            }
            if byte != b'\n' {
                self.0.push(byte);
            }
        }
        lines
    }

    /// What came after the last line feed.
    fn rest(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.0);
        (!rest.is_empty()).then(|| String::from_utf8_lossy(&rest).into_owned())
    }
}

fn event_line(event: &Value) -> String {
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    let detail = match text("detail") {
        "" => String::new(),
        detail => format!(": {detail}"),
    };
    format!("{} {}{detail}", text("at"), text("event"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_from_pieces() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"one\n\ntw"), ["one", ""]);
        assert_eq!(lines.push(b"o\nrest"), ["two"]);
        assert_eq!(lines.rest().as_deref(), Some("rest"));
        assert_eq!(lines.rest(), None);
    }

    #[test]
    fn an_endless_line_is_cut() {
        let mut lines = Lines::default();
        let cut = lines.push(&vec![b'x'; LINE_BYTES_MAX + 1]);
        assert_eq!(cut.len(), 1);
        assert_eq!(lines.rest().as_deref(), Some("x"));
    }
}
