//! Requests about files, from the client's side.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use agent_protocol::{Entry, Failure, FileRequest, Reply, Request};

use crate::client::Client;

impl Client {
    pub(crate) fn file(&mut self, request: FileRequest) -> Result<Entry, Failure> {
        match self.ask(&Request::File(request)) {
            Reply::Entry { entry, more: false } => Ok(entry),
            Reply::Failed(failure) => Err(failure),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn write(&mut self, path: &str, content: &[u8]) -> Result<Entry, Failure> {
        self.write_with(path, content, None, false)
    }

    pub(crate) fn write_with(
        &mut self,
        path: &str,
        content: &[u8],
        mode: Option<u32>,
        append: bool,
    ) -> Result<Entry, Failure> {
        let path = path.to_owned();
        self.send(&Request::File(FileRequest::Write { path, mode, append }));
        self.send_input(content);
        match self.receive_all().2.pop().unwrap() {
            Reply::Entry { entry, more: false } => Ok(entry),
            Reply::Failed(failure) => Err(failure),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn read(
        &mut self,
        path: &str,
        offset: u64,
        length: Option<u64>,
    ) -> Result<Vec<u8>, Failure> {
        let path = path.to_owned();
        self.send(&Request::File(FileRequest::Read {
            path,
            offset,
            length,
        }));
        let (content, _, replies) = self.receive_all();
        match &replies[..] {
            [
                Reply::Entry { more: true, .. },
                Reply::Done { truncated: false },
            ] => Ok(content),
            [Reply::Failed(failure)] => Err(failure.clone()),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn list(
        &mut self,
        path: &str,
        depth: u32,
        limit: u64,
    ) -> Result<(Vec<Entry>, bool), Failure> {
        let path = path.to_owned();
        self.send(&Request::File(FileRequest::List { path, depth, limit }));
        let mut all = Vec::new();
        for reply in self.receive_all().2 {
            match reply {
                Reply::Entries { entries } => all.extend(entries),
                Reply::Done { truncated } => return Ok((all, truncated)),
                Reply::Failed(failure) => return Err(failure),
                other => panic!("{other:?}"),
            }
        }
        unreachable!("the last reply is final")
    }
}

pub(crate) fn paths(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.path.as_str()).collect()
}

pub(crate) fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

pub(crate) fn stat(path: &str) -> FileRequest {
    FileRequest::Stat { path: path.into() }
}

pub(crate) fn remove(path: &str, recursive: bool) -> FileRequest {
    let path = path.into();
    FileRequest::Remove { path, recursive }
}

pub(crate) fn rename(source: &str, destination: &str, overwrite: bool) -> FileRequest {
    FileRequest::Move {
        source: source.into(),
        destination: destination.into(),
        overwrite,
    }
}

pub(crate) fn ask_done(client: &mut Client, request: FileRequest) {
    let reply = client.ask(&Request::File(request));
    assert_eq!(reply, Reply::Done { truncated: false });
}

/// Every byte value, and no pattern that a lost piece would keep.
pub(crate) fn bytes(count: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33).to_le_bytes()[0]
    };
    (0..count).map(|_| next()).collect()
}
