//! Replacing a text in files, each at once and in bounded memory.

use std::os::fd::OwnedFd;

use agent_protocol::{Failure, FailureKind, ReplaceOutcome, Reply};
use memchr::memmem::Finder;
use rustix::{
    fs::{Mode, OFlags, SeekFrom, fstat, seek},
    io::Errno,
};

use super::{
    grep::PATTERN_BYTES_MAX,
    path::{Named, Parents, is_proc, require_regular},
    write::{NewFile, write_all},
};
use crate::{
    connection::Connection,
    context::Context,
    failure::{Stop, failure, invalid},
};

/// Most files of one request.
const PATHS_MAX: usize = 10_000;

/// Longest replacement, in bytes.
const REPLACEMENT_BYTES_MAX: usize = 1 << 20;

/// Largest file that may come out of it: a short text that is everywhere,
/// replaced by a long one, would fill any disk.
const RESULT_BYTES_MAX: u64 = 1 << 30;

/// Bytes read at once. The longest text fits in many times.
const PIECE_BYTES: usize = 256 << 10;

/// Replaces a text in files.
pub(super) fn replace(
    context: &Context,
    paths: &[String],
    pattern: &str,
    replacement: &str,
    connection: &Connection,
) -> Result<Reply, Stop> {
    if pattern.is_empty() || pattern.len() > PATTERN_BYTES_MAX {
        let message = format!("field `pattern`: has 1 to {PATTERN_BYTES_MAX} bytes");
        return Err(invalid(message).into());
    }
    if paths.len() > PATHS_MAX || replacement.len() > REPLACEMENT_BYTES_MAX {
        return Err(invalid(format!(
            "field `paths` has at most {PATHS_MAX} files, and field `replacement` {REPLACEMENT_BYTES_MAX} bytes"
        ))
        .into());
    }
    let finder = Finder::new(pattern);
    let mut outcomes = Vec::new();
    for path in paths {
        connection.check()?;
        let named = Named::new(context, path);
        let replaced = named.and_then(|named| in_file(&named, &finder, replacement.as_bytes()));
        let (replaced, failure) = match replaced {
            Ok(replaced) => (replaced, None),
            Err(failure) => (0, Some(failure)),
        };
        outcomes.push(ReplaceOutcome {
            path: path.clone(),
            replaced,
            failure,
        });
    }
    Ok(Reply::Replaced { outcomes })
}

/// How many places were replaced in one file.
fn in_file(named: &Named, finder: &Finder<'_>, replacement: &[u8]) -> Result<u64, Failure> {
    use std::os::fd::AsFd;
    let place = named
        .place(Parents::Required)?
        .follow()
        .map_err(named.fails())?;
    if is_proc(place.parent.as_fd()).map_err(named.fails())? {
        let message = format!("{}: files of /proc cannot be replaced", named.shown());
        return Err(failure(FailureKind::PermissionDenied, message));
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
    let old = sys::file::open(&place.parent, &place.name, flags, Mode::empty());
    let old = old.map_err(named.fails())?;
    let stat = fstat(&old).map_err(named.fails())?;
    require_regular(named, &stat)?;
    // Without a place to replace the file stays the very same one.
    if pass(named, &old, finder, |_| Ok(()), b"")? == 0 {
        return Ok(0);
    }
    seek(&old, SeekFrom::Start(0)).map_err(named.fails())?;
    let new = NewFile::create(&place).map_err(named.fails())?;
    let mut written = 0;
    let write = |bytes: &[u8]| {
        written += bytes.len() as u64;
        if written > RESULT_BYTES_MAX {
            let message = format!("{}: the file would be too large", named.shown());
            return Err(failure(FailureKind::LimitReached, message));
        }
        write_all(new.file(), bytes).map_err(named.fails())
    };
    let replaced = pass(named, &old, finder, write, replacement)?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    new.finish(mode, Some(&stat)).map_err(named.fails())?;
    Ok(replaced)
}

/// Passes a file on with the text replaced; how often it was there.
fn pass(
    named: &Named,
    file: &OwnedFd,
    finder: &Finder<'_>,
    mut write: impl FnMut(&[u8]) -> Result<(), Failure>,
    replacement: &[u8],
) -> Result<u64, Failure> {
    let mut pass = Pass::new(finder, replacement, PIECE_BYTES);
    // What is appended meanwhile is not taken over: a file that grows must end.
    let stat = fstat(file).map_err(named.fails())?;
    let mut left = u64::try_from(stat.st_size).unwrap_or(0);
    while left > 0 {
        let room = pass.room();
        let wanted = usize::try_from(left).map_or(room.len(), |left| left.min(room.len()));
        match rustix::io::read(file, &mut room[..wanted]) {
            Ok(0) => break,
            Ok(count) => {
                left -= count as u64;
                pass.filled(count, &mut write)?;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(named.failure(&error.into())),
        }
    }
    pass.end(&mut write)?;
    Ok(pass.replaced)
}

/// The text of a file on its way.
struct Pass<'a> {
    finder: &'a Finder<'a>,
    replacement: &'a [u8],
    buffer: Vec<u8>,
    filled: usize,
    replaced: u64,
}

impl<'a> Pass<'a> {
    fn new(finder: &'a Finder<'a>, replacement: &'a [u8], bytes: usize) -> Self {
        Self {
            finder,
            replacement,
            buffer: vec![0; bytes],
            filled: 0,
            replaced: 0,
        }
    }

    /// Where the next piece is to be put; never empty.
    fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }

    /// So many bytes were put there.
    fn filled<E>(
        &mut self,
        count: usize,
        write: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.filled += count;
        let mut from = 0;
        while let Some(at) = self.finder.find(&self.buffer[from..self.filled]) {
            write(&self.buffer[from..from + at])?;
            write(self.replacement)?;
            from += at + self.finder.needle().len();
            self.replaced += 1;
        }
        // The text may begin at the end and go on in the next piece.
        let overlap = self.finder.needle().len() - 1;
        let kept = from.max(self.filled.saturating_sub(overlap));
        write(&self.buffer[from..kept])?;
        self.buffer.copy_within(kept..self.filled, 0);
        self.filled -= kept;
        Ok(())
    }

    /// The file has ended.
    fn end<E>(&mut self, write: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        write(&self.buffer[..self.filled])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_give_the_same_as_the_whole(
            text in "[ab]{0,100}",
            pattern in "[ab]{1,4}",
            replacement in "[abc]{0,5}",
            buffer in 5_usize..20,
            piece in 1_usize..20,
        ) {
            let finder = Finder::new(&pattern);
            let mut pass = Pass::new(&finder, replacement.as_bytes(), buffer);
            let (mut result, mut rest) = (Vec::new(), text.as_bytes());
            let mut write = |bytes: &[u8]| -> Result<(), ()> {
                result.extend(bytes);
                Ok(())
            };
            while !rest.is_empty() {
                let room = pass.room();
                let count = room.len().min(rest.len()).min(piece);
                room[..count].copy_from_slice(&rest[..count]);
                rest = &rest[count..];
                pass.filled(count, &mut write).unwrap();
            }
            pass.end(&mut write).unwrap();
            prop_assert_eq!(pass.replaced, text.matches(&pattern).count() as u64);
            prop_assert_eq!(String::from_utf8(result).unwrap(), text.replace(&pattern, &replacement));
        }
    }
}
