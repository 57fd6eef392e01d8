//! A toy Python with kept state.
//!
//! One statement per line: `name = VALUE`, `print(VALUE)`, `raise NAME(VALUE)`,
//! `sleep(SECONDS)`, `exit()` (the kernel dies) or an expression, whose value
//! is displayed when it is the last line. A `VALUE` is a name, an integer, a
//! quoted text, or two of them joined by ` + `.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use agent_protocol::{Cell, CellEnd, CellStatus, MimeBundle, Reply, frame::FrameKind};
use tokio::io::AsyncWrite;

use super::{Closed, Connection, time_over};

/// The variables of each context.
#[derive(Debug, Default)]
pub(super) struct Contexts(HashMap<String, BTreeMap<String, String>>);

impl Contexts {
    pub(super) fn forget(&mut self, context: &str) {
        self.0.remove(context);
    }
}

fn ended(status: CellStatus, error: Option<(&str, String)>) -> CellEnd {
    let (error_name, error_value) = error.map(|(name, value)| (name.to_owned(), value)).unzip();
    let traceback = match (&error_name, &error_value) {
        (Some(name), Some(value)) if status == CellStatus::Error => {
            vec![format!("{name}: {value}")]
        }
        _ => vec![],
    };
    CellEnd {
        status,
        error_name,
        error_value,
        traceback,
    }
}

/// The text in `name(...)`.
fn argument<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.strip_prefix(name)?
        .strip_prefix('(')?
        .strip_suffix(')')
}

fn value(variables: &BTreeMap<String, String>, text: &str) -> Result<String, CellEnd> {
    if let Some((left, right)) = text.split_once(" + ") {
        let (left, right) = (value(variables, left)?, value(variables, right)?);
        return Ok(match (left.parse::<i64>(), right.parse::<i64>()) {
            (Ok(left), Ok(right)) => (left + right).to_string(),
            _ => left + &right,
        });
    }
    let text = text.trim();
    let quoted = |quote| text.strip_prefix(quote)?.strip_suffix(quote);
    if let Some(text) = quoted('\'').or_else(|| quoted('"')) {
        return Ok(text.to_owned());
    }
    if text.parse::<i64>().is_ok() {
        return Ok(text.to_owned());
    }
    variables.get(text).cloned().ok_or_else(|| {
        let why = format!("name '{text}' is not defined");
        ended(CellStatus::Error, Some(("NameError", why)))
    })
}

impl<W: AsyncWrite> Connection<W> {
    pub(super) async fn cell(&mut self, cell: Cell) -> Result<(), Closed> {
        let timeout_ms = cell.timeout_ms;
        let end = tokio::select! {
            end = self.statements(cell) => end?,
            () = time_over(timeout_ms) => ended(CellStatus::TimedOut, None),
        };
        self.reply(&Reply::CellEnded(end)).await
    }

    async fn statements(&mut self, cell: Cell) -> Result<CellEnd, Closed> {
        let lines: Vec<&str> = cell.code.lines().map(str::trim).collect();
        for (index, line) in lines.iter().enumerate() {
            let is_last = index + 1 == lines.len();
            if let Err(end) = self.statement(&cell, line, is_last).await? {
                return Ok(end);
            }
        }
        Ok(ended(CellStatus::Ok, None))
    }

    async fn statement(
        &mut self,
        cell: &Cell,
        line: &str,
        is_last: bool,
    ) -> Result<Result<(), CellEnd>, Closed> {
        let variables = self.variables(&cell.context);
        if line.is_empty() {
            return Ok(Ok(()));
        }
        if line == "exit()" {
            self.agent.state().contexts.forget(&cell.context);
            let why = "the kernel exited with status 0".to_owned();
            return Ok(Err(ended(
                CellStatus::KernelDied,
                Some(("KernelDied", why)),
            )));
        }
        if let Some(seconds) = argument(line, "sleep") {
            let seconds = seconds.parse().unwrap_or(0.0);
            tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
            return Ok(Ok(()));
        }
        if let Some((name, text)) = line.strip_prefix("raise ").and_then(|raised| {
            let (name, rest) = raised.split_once('(')?;
            Some((name, rest.strip_suffix(')')?))
        }) {
            return Ok(Err(match value(&variables, text) {
                Ok(text) => ended(CellStatus::Error, Some((name, text))),
                Err(end) => end,
            }));
        }
        let printed = argument(line, "print");
        let assigned = line.split_once(" = ");
        let text = printed.or(assigned.map(|(_, text)| text)).unwrap_or(line);
        let text = match value(&variables, text) {
            Ok(text) => text,
            Err(end) => return Ok(Err(end)),
        };
        if printed.is_some() {
            self.send(FrameKind::Output, format!("{text}\n").as_bytes())
                .await?;
        } else if let Some((name, _)) = assigned {
            self.assign(&cell.context, name, text);
        } else if is_last && !cell.hide_result {
            let data = MimeBundle::from([("text/plain".to_owned(), text.into())]);
            let display = Reply::Display {
                data,
                is_result: true,
            };
            self.reply(&display).await?;
        }
        Ok(Ok(()))
    }

    fn variables(&self, context: &str) -> BTreeMap<String, String> {
        let state = self.agent.state();
        state.contexts.0.get(context).cloned().unwrap_or_default()
    }

    fn assign(&self, context: &str, name: &str, value: String) {
        let mut state = self.agent.state();
        let variables = state.contexts.0.entry(context.to_owned()).or_default();
        variables.insert(name.trim().to_owned(), value);
    }
}
