//! What commands say: text for people, JSON for programs.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::{config::Environment, exit_code::ExitCode, failure::Failure};

/// How to write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    /// JSON instead of text.
    pub(super) json: bool,
    /// Standard output is a terminal that wants colour.
    pub(super) color: bool,
}

impl Output {
    /// As the flags and the terminal want it.
    pub(super) fn new(json: bool, environment: &Environment) -> Self {
        Self {
            json,
            color: io::stdout().is_terminal() && !environment.no_color(),
        }
    }

    /// Writes a line to standard output.
    pub(super) fn line(self, text: impl AsRef<str>) -> Result<(), Failure> {
        self.bytes(format!("{}\n", text.as_ref()).as_bytes())
    }

    /// Writes bytes to standard output, at once.
    #[expect(
        clippy::unused_self,
        reason = "writing goes through the value that says how"
    )]
    pub(super) fn bytes(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(bytes)
            .and_then(|()| stdout.flush())
            .map_err(|error| match error.kind() {
                io::ErrorKind::BrokenPipe => Failure::new(ExitCode::ReaderGone, ""),
                _ => Failure::to("cannot write to standard output")(error),
            })
    }

    /// Writes a value as indented JSON.
    pub(super) fn json(self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(Failure::to("cannot write JSON"))?;
        self.line(text)
    }

    /// Writes rows under a head; the columns are as wide as they need to be.
    pub(super) fn table(self, head: &[&str], rows: Vec<Vec<String>>) -> Result<(), Failure> {
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(head.iter().map(|name| self.bold(name)));
        for row in rows {
            table.add_row(row);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        self.line(table.trim_fmt())
    }

    fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// The text in green, red or yellow, where colour is wanted.
    pub(super) fn paint(self, code: &str, text: &str) -> String {
        if self.color {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Writes a line to standard error; nobody is left to tell when that fails.
pub(super) fn notice(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes bytes to standard error, at once.
pub(super) fn error_bytes(bytes: &[u8]) {
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(bytes).and_then(|()| stderr.flush());
}
