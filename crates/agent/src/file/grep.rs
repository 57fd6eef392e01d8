//! Finding lines that contain a text.
//!
//! Files are read once, in pieces; a line that is longer than a piece is
//! searched as it passes. Files with a NUL byte in their first piece are binary
//! and left out, as are those of the kernel's making.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use agent_protocol::{Match, Reply};
use rustix::{
    fs::{self, FileType, Mode, OFlags},
    io::Errno,
};

use self::lines::Lines;
use super::{
    list::shown,
    path::{Named, file_type, is_proc, refuse_process_files, require_regular},
    tree::Tree,
};
use crate::{
    connection::Connection,
    failure::{Stop, invalid},
};

mod lines;

/// Matches in one message.
const BATCH_MATCHES: usize = 200;

/// Most matches of one search, whatever is asked for.
const MATCHES_MAX: u64 = 200_000;

/// Longest text that is searched for, in bytes.
pub(super) const PATTERN_BYTES_MAX: usize = 16 << 10;

/// How many entries are looked at, or pieces read, before the connection is
/// looked at.
const LOOK_AFTER: u64 = 64;

/// Directories that are none of the sandbox's own files.
const SKIPPED: [&[u8]; 3] = [b"/proc", b"/sys", b"/dev"];

/// A search under way.
struct Search<'a> {
    named: &'a Named,
    lines: Lines<'a>,
    /// How many more may be sent.
    left: u64,
    batch: Vec<Match>,
    steps: u64,
    truncated: bool,
}

/// Sends the lines below a path that contain a text.
pub(super) fn grep(
    named: &Named,
    pattern: &str,
    limit: u64,
    connection: &mut Connection,
) -> Result<Reply, Stop> {
    if pattern.is_empty() || pattern.len() > PATTERN_BYTES_MAX || pattern.contains('\n') {
        return Err(invalid(format!(
            "field `pattern`: is a part of a line and has 1 to {PATTERN_BYTES_MAX} bytes"
        ))
        .into());
    }
    let root = named
        .open(OFlags::RDONLY, Mode::empty())
        .map_err(named.fails())?;
    let stat = fs::fstat(&root).map_err(named.fails())?;
    let mut search = Search {
        named,
        lines: Lines::new(pattern.as_bytes()),
        left: limit.min(MATCHES_MAX),
        batch: Vec::new(),
        steps: 0,
        truncated: false,
    };
    if file_type(&stat) == FileType::Directory {
        search.tree(root, connection)?;
    } else {
        require_regular(named, &stat)?;
        refuse_process_files(named, &root)?;
        search.file(&root, named.asked.as_bytes(), connection)?;
    }
    search.flush(connection)?;
    let truncated = search.truncated;
    Ok(Reply::Done { truncated })
}

impl Search<'_> {
    fn tree(&mut self, root: OwnedFd, connection: &mut Connection) -> Result<(), Stop> {
        if is_proc(root.as_fd()).map_err(self.named.fails())? {
            return Err(invalid(format!(
                "{}: files of processes are not searched",
                self.named.shown()
            ))
            .into());
        }
        let absolute = absolute_path(&root).map_err(self.named.fails())?;
        let mut tree = Tree::new(root, usize::MAX, u64::MAX).map_err(self.named.fails())?;
        while let Some(found) = tree.next(u64::MAX) {
            self.step(connection)?;
            match file_type(&found.stat) {
                FileType::Directory if is_skipped(&absolute, &tree) => tree.skip(),
                FileType::RegularFile => {
                    let opened = tree.open(OFlags::RDONLY | OFlags::NOFOLLOW);
                    // One that vanished or cannot be read is left out.
                    let Ok(file) = opened else { continue };
                    let path = shown(self.named, tree.path());
                    self.file(&file, &path, connection)?;
                }
                _ => {}
            }
            if self.truncated {
                return Ok(());
            }
        }
        self.truncated = tree.is_truncated;
        Ok(())
    }

    /// Searches one file.
    fn file(
        &mut self,
        file: &OwnedFd,
        path: &[u8],
        connection: &mut Connection,
    ) -> Result<(), Stop> {
        let stat = fs::fstat(file).map_err(self.named.fails())?;
        if file_type(&stat) != FileType::RegularFile {
            return Ok(());
        }
        // What is appended meanwhile is not searched: a file that grows must end.
        let mut left = u64::try_from(stat.st_size).unwrap_or(0);
        self.lines.begin();
        let mut is_first = true;
        while left > 0 && !self.truncated {
            self.step(connection)?;
            let room = self.lines.room();
            let wanted = usize::try_from(left).map_or(room.len(), |left| left.min(room.len()));
            let count = match rustix::io::read(file, &mut room[..wanted]) {
                Ok(0) => break,
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                // What was found before it counts.
                Err(_) => return Ok(()),
            };
            if std::mem::take(&mut is_first) && memchr::memchr(0, &room[..count]).is_some() {
                return Ok(());
            }
            left -= count as u64;
            self.lines.filled(count);
            self.collect(path, connection)?;
        }
        self.lines.end();
        self.collect(path, connection)
    }

    /// Takes in what was found in a file.
    fn collect(&mut self, path: &[u8], connection: &mut Connection) -> Result<(), Stop> {
        for (line, text) in self.lines.take_found() {
            if self.left == 0 {
                self.truncated = true;
                return Ok(());
            }
            self.left -= 1;
            self.batch.push(Match {
                path: String::from_utf8_lossy(path).into_owned(),
                line,
                text,
            });
            if self.batch.len() >= BATCH_MATCHES {
                self.flush(connection)?;
            }
        }
        Ok(())
    }

    fn step(&mut self, connection: &Connection) -> Result<(), Stop> {
        self.steps += 1;
        if self.steps.is_multiple_of(LOOK_AFTER) {
            connection.check()?;
        }
        Ok(())
    }

    fn flush(&mut self, connection: &mut Connection) -> io::Result<()> {
        let matches = std::mem::take(&mut self.batch);
        if matches.is_empty() {
            return Ok(());
        }
        connection.send_message(&Reply::Matches { matches })
    }
}

fn absolute_path(directory: &OwnedFd) -> io::Result<Vec<u8>> {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let mut path = fs::readlink(link, Vec::new())?.into_bytes();
    if !path.ends_with(b"/") {
        path.push(b'/');
    }
    Ok(path)
}

fn is_skipped(root: &[u8], tree: &Tree) -> bool {
    let path = [root, tree.path()].concat();
    SKIPPED.contains(&path.as_slice()) || tree.is_of_kernel()
}
