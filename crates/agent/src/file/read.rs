//! Sending a file's content.

use std::os::fd::AsFd;

use agent_protocol::{Reply, frame::CHUNK_BYTES};
use rustix::{
    fs::{Mode, OFlags, fstat},
    io::Errno,
};

use super::{
    entry,
    path::{Named, refuse_process_files, require_regular},
};
use crate::{connection::Connection, failure::Stop};

/// How much is read from a file that says it is empty: those of `/proc` and
/// `/sys` say so and are not.
const UNSIZED_BYTES_MAX: u64 = 16 << 20;

/// Sends a file's content from `offset` on, at most `length` bytes.
pub(super) fn read(
    named: &Named,
    offset: u64,
    length: Option<u64>,
    connection: &mut Connection,
) -> Result<Reply, Stop> {
    let file = named
        .open(OFlags::RDONLY, Mode::empty())
        .map_err(named.fails())?;
    let stat = fstat(&file).map_err(named.fails())?;
    require_regular(named, &stat)?;
    refuse_process_files(named, &file)?;
    let entry = entry::of_open(named, file.as_fd())?;
    // What is appended meanwhile is not sent: a file that grows must end.
    let end = match entry.size {
        0 => UNSIZED_BYTES_MAX,
        size => size,
    };
    let end = length.map_or(end, |length| end.min(offset.saturating_add(length)));
    connection.send_message(&Reply::Entry { entry, more: true })?;
    let mut position = offset;
    let piece_bytes = end.saturating_sub(offset).min(CHUNK_BYTES as u64);
    let mut buffer = vec![0; usize::try_from(piece_bytes).unwrap_or(CHUNK_BYTES)];
    while position < end {
        let wanted = usize::try_from(end - position).map_or(buffer.len(), |n| n.min(buffer.len()));
        match rustix::io::pread(&file, &mut buffer[..wanted], position) {
            Ok(0) => break,
            Ok(count) => {
                connection.send_output(&buffer[..count])?;
                position += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(named.failure(&error.into()).into()),
        }
    }
    Ok(Reply::Done { truncated: false })
}
