//! Listing directories and finding entries by their names.

use std::os::fd::OwnedFd;

use agent_protocol::{Entry, Reply};
use rustix::fs::{FileType, Mode, OFlags};

use super::{
    entry::describe,
    path::{Named, file_type},
    tree::{Found, Tree},
};
use crate::{
    account::Accounts,
    connection::Connection,
    failure::{Stop, invalid},
};

/// Entries in one message.
const BATCH_ENTRIES: usize = 200;

/// Most entries of one listing, whatever is asked for.
const ENTRIES_MAX: u64 = 200_000;

/// Longest pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 1024;

/// How many entries are looked at before the connection is.
const LOOK_AFTER: u64 = 256;

/// What was found, on its way to the server.
struct Listing<'a> {
    named: &'a Named,
    accounts: Accounts,
    batch: Vec<Entry>,
}

/// Sends the entries of a directory.
pub(super) fn list(
    named: &Named,
    depth: u32,
    limit: u64,
    connection: &mut Connection,
) -> Result<Reply, Stop> {
    let mut left = limit.min(ENTRIES_MAX);
    let mut tree = Tree::new(open(named)?, depth as usize, left).map_err(named.fails())?;
    let mut listing = Listing::new(named);
    while let Some(found) = tree.next(left) {
        if left == 0 {
            tree.is_truncated = true;
            break;
        }
        left -= 1;
        listing.send(&tree, &found, connection)?;
    }
    listing.flush(connection)?;
    let truncated = tree.is_truncated;
    Ok(Reply::Done { truncated })
}

/// Sends the entries of a tree whose names match a pattern.
pub(super) fn glob(
    named: &Named,
    pattern: &str,
    limit: u64,
    connection: &mut Connection,
) -> Result<Reply, Stop> {
    let pattern = check(pattern)?;
    let mut left = limit.min(ENTRIES_MAX);
    let mut tree = Tree::new(open(named)?, usize::MAX, u64::MAX).map_err(named.fails())?;
    let mut listing = Listing::new(named);
    let mut looked = 0;
    while let Some(found) = tree.next(u64::MAX) {
        looked += 1;
        if looked % LOOK_AFTER == 0 {
            connection.check()?;
        }
        if file_type(&found.stat) == FileType::Directory && tree.is_of_kernel() {
            tree.skip();
        }
        if !fast_glob::glob_match(pattern, found.name.to_bytes()) {
            continue;
        }
        if left == 0 {
            tree.is_truncated = true;
            break;
        }
        left -= 1;
        listing.send(&tree, &found, connection)?;
    }
    listing.flush(connection)?;
    let truncated = tree.is_truncated;
    Ok(Reply::Done { truncated })
}

/// The part of a pattern that is for names.
fn check(pattern: &str) -> Result<&str, Stop> {
    // All directories are looked through anyway.
    let pattern = pattern.trim_start_matches("**/");
    if pattern.is_empty() || pattern.len() > PATTERN_BYTES_MAX || pattern.contains('/') {
        return Err(invalid(format!(
            "field `pattern`: is for the name alone, without `/`, and has 1 to {PATTERN_BYTES_MAX} bytes; give the directory in `path`"
        ))
        .into());
    }
    if !is_closed(pattern) {
        return Err(invalid(format!(
            "field `pattern`: {pattern:?} has a `[` or `{{` without its end; write `\\[` for the character itself"
        ))
        .into());
    }
    Ok(pattern)
}

/// Whether every `[` and `{` of a pattern has its end; the matcher would take
/// one without as something that no name has.
fn is_closed(pattern: &str) -> bool {
    let mut rest = pattern.chars();
    let mut braces = 0usize;
    while let Some(c) = rest.next() {
        match c {
            '\\' => drop(rest.next()),
            '{' => braces += 1,
            '}' => braces = braces.saturating_sub(1),
            '[' => {
                // The first character of a class may be its end sign itself.
                let mut class = rest.as_str().trim_start_matches(['!', '^']).chars();
                class.next();
                match class.as_str().split_once(']') {
                    Some((_, after)) => rest = after.chars(),
                    None => return false,
                }
            }
            _ => {}
        }
    }
    braces == 0
}

fn open(named: &Named) -> Result<OwnedFd, Stop> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    Ok(named.open(flags, Mode::empty()).map_err(named.fails())?)
}

/// The path of an entry below a directory as it was asked for.
pub(super) fn shown(named: &Named, below: &[u8]) -> Vec<u8> {
    let mut shown = named.asked.clone().into_bytes();
    if !shown.ends_with(b"/") {
        shown.push(b'/');
    }
    shown.extend(below);
    shown
}

impl<'a> Listing<'a> {
    fn new(named: &'a Named) -> Self {
        Self {
            named,
            accounts: Accounts::load(),
            batch: Vec::new(),
        }
    }

    /// Sends the entry that the tree told last.
    fn send(
        &mut self,
        tree: &Tree,
        found: &Found,
        connection: &mut Connection,
    ) -> Result<(), Stop> {
        // Read only now, because targets can be as long as paths.
        let target = (file_type(&found.stat) == FileType::Symlink)
            .then(|| tree.target().ok())
            .flatten();
        let target = target.as_ref().map(|target| target.to_bytes());
        let path = shown(self.named, tree.path());
        self.batch
            .push(describe(&path, &found.stat, target, &self.accounts));
        if self.batch.len() >= BATCH_ENTRIES {
            self.flush(connection)?;
        }
        Ok(())
    }

    fn flush(&mut self, connection: &mut Connection) -> Result<(), Stop> {
        let entries = std::mem::take(&mut self.batch);
        if !entries.is_empty() {
            connection.send_message(&Reply::Entries { entries })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_or_a_choice_has_an_end() {
        for closed in [
            "*.rs", "[ab]", "[!]a]", "[]]", "{a,b}", "a]b", "a}", "\\[", "\\{", "[{]",
        ] {
            assert!(is_closed(closed), "{closed}");
        }
        for open in ["[", "a[b", "[]", "[!]", "{a,b", "{[a]"] {
            assert!(!is_closed(open), "{open}");
        }
    }
}
