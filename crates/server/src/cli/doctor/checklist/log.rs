//! Whether the server's log tells what it does.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::failure::Failure;

/// How much of the end of a log is looked at, bytes.
const TAIL_BYTES: u64 = 4 << 20;
/// Lines of the journal that are looked at.
const JOURNAL_LINES: &str = "5000";

/// Where the server logs to.
#[derive(Clone, Debug)]
pub(super) enum Log {
    /// A file.
    File(PathBuf),
    /// The journal of a systemd unit.
    Unit(String),
}

impl Log {
    /// How it is called for people.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Unit(unit) => format!("the journal of unit {unit}"),
        }
    }

    /// The line about a sandbox that has just been used; none when there is none.
    pub(super) fn line_about(&self, sandbox: &str) -> Result<Option<String>, Failure> {
        let text = match self {
            Self::File(path) => {
                tail(path).map_err(Failure::to(format!("cannot read {}", path.display())))?
            }
            Self::Unit(unit) => journal(unit)?,
        };
        let line = text.lines().rev().find(|line| line.contains(sandbox));
        Ok(line.map(str::to_owned))
    }
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn journal(unit: &str) -> Result<String, Failure> {
    let ran = Command::new("journalctl")
        .args([
            "--unit",
            unit,
            "--lines",
            JOURNAL_LINES,
            "--output",
            "cat",
            "--no-pager",
        ])
        .stdin(Stdio::null())
        .output()
        .map_err(Failure::to("cannot run journalctl"))?;
    if !ran.status.success() {
        let why = String::from_utf8_lossy(&ran.stderr);
        return Err(Failure::general(format!("journalctl: {}", why.trim())));
    }
    Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_line_about_a_sandbox_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let filler = "x\n".repeat(3 << 20);
        std::fs::write(
            &path,
            format!("{filler}old name=abc\nnew name=abc\nother\n"),
        )
        .unwrap();
        let log = Log::File(path);
        assert_eq!(
            log.line_about("abc").unwrap().as_deref(),
            Some("new name=abc")
        );
        assert_eq!(log.line_about("abd").unwrap(), None);
        assert!(
            Log::File(folder.path().join("none"))
                .line_about("x")
                .is_err()
        );
    }
}
