//! Files: every operation is done by the agent, inside the sandbox.

use std::time::Duration;

use agent_protocol::{Entry, FileRequest, Reply, Request};
use bytes::Bytes;
use sandbox::Result;

use super::{
    ANSWER_TIME_MAX, STALL_TIME_MAX, Session,
    conversation::{Incoming, Input},
};
use crate::{FileRead, Listing, PieceStream};

/// Entries of one listing, whatever is asked for.
const LISTING_ENTRIES_MAX: u64 = 100_000;
/// Text in the entries of one listing, bytes.
const LISTING_BYTES_MAX: usize = 64 << 20;

impl Session {
    /// Reads a file as it comes.
    ///
    /// # Errors
    /// As the agent says, or `SandboxLost`.
    pub(crate) async fn read_file(
        mut self,
        path: String,
        offset: u64,
        length: Option<u64>,
    ) -> Result<FileRead> {
        let request = FileRequest::Read {
            path,
            offset,
            length,
        };
        self.ask(&Request::File(request), Input::none())?;
        match self.next(Some(ANSWER_TIME_MAX)).await? {
            Incoming::Reply(Reply::Entry { entry, more: true }) => Ok(FileRead {
                entry,
                content: self.content(length.unwrap_or(u64::MAX)),
            }),
            _ => Err(self.wrong("a read was not answered by the file").await),
        }
    }

    /// The content of a file, at most `left` bytes.
    fn content(self, left: u64) -> PieceStream<Bytes> {
        let unfold = futures_util::stream::unfold(Some((self, left)), |state| async move {
            let (mut session, left) = state?;
            let next = match session.next(Some(STALL_TIME_MAX)).await {
                Ok(next) => next,
                Err(error) => return Some((Err(error), None)),
            };
            match next {
                Incoming::Output(bytes) => match left.checked_sub(bytes.len() as u64) {
                    Some(left) => Some((Ok(bytes), Some((session, left)))),
                    None => {
                        let error = session.wrong("more content came than was asked for").await;
                        Some((Err(error), None))
                    }
                },
                Incoming::Reply(Reply::Done { .. }) => {
                    session.finish();
                    None
                }
                Incoming::Error(_) | Incoming::Reply(_) => {
                    let error = session.wrong("something else than content came").await;
                    Some((Err(error), None))
                }
            }
        });
        Box::pin(unfold)
    }

    /// Writes a file from what comes.
    ///
    /// # Errors
    /// As the agent says, the error of the content, or `SandboxLost`. The old
    /// file is still there then, unless it was appended to.
    pub(crate) async fn write_file(
        mut self,
        path: String,
        mode: Option<u32>,
        append: bool,
        content: PieceStream<Bytes>,
    ) -> Result<Entry> {
        let request = FileRequest::Write { path, mode, append };
        self.ask(&Request::File(request), Input::from(content))?;
        let reply = self.reply(STALL_TIME_MAX).await?;
        self.entry(reply).await
    }

    /// Lists a directory.
    ///
    /// # Errors
    /// As the agent says, or `SandboxLost`.
    pub(crate) async fn list_files(
        mut self,
        path: String,
        depth: u32,
        limit: u64,
    ) -> Result<Listing> {
        let limit = limit.min(LISTING_ENTRIES_MAX);
        let request = FileRequest::List { path, depth, limit };
        self.ask(&Request::File(request), Input::none())?;
        self.listing(limit, Some(STALL_TIME_MAX)).await
    }

    /// Entries whose last component matches a pattern.
    ///
    /// # Errors
    /// As the agent says, or `SandboxLost`.
    pub(crate) async fn glob(
        mut self,
        path: String,
        pattern: String,
        limit: u64,
    ) -> Result<Vec<Entry>> {
        let limit = limit.min(LISTING_ENTRIES_MAX);
        let request = FileRequest::Glob {
            path,
            pattern,
            limit,
        };
        self.ask(&Request::File(request), Input::none())?;
        // Without a deadline: a large tree without a match is searched in silence.
        Ok(self.listing(limit, None).await?.entries)
    }

    /// Entries as they come, at most `limit`.
    async fn listing(&mut self, limit: u64, silence_max: Option<Duration>) -> Result<Listing> {
        let entries_max = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut listed: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        loop {
            match self.next(silence_max).await? {
                Incoming::Reply(Reply::Entries { entries }) => {
                    bytes += entries.iter().map(text_bytes).sum::<usize>();
                    let too_many = listed.len() + entries.len() > entries_max;
                    if too_many || entries.is_empty() || bytes > LISTING_BYTES_MAX {
                        return Err(self.wrong("a listing is not as it was asked for").await);
                    }
                    listed.extend(entries);
                }
                Incoming::Reply(Reply::Done { truncated }) => {
                    self.finish();
                    return Ok(Listing {
                        entries: listed,
                        truncated,
                    });
                }
                _ => return Err(self.wrong("something else than a listing came").await),
            }
        }
    }

    /// A request that is answered by one entry.
    ///
    /// # Errors
    /// As the agent says, or `SandboxLost`.
    pub(crate) async fn ask_entry(mut self, request: FileRequest) -> Result<Entry> {
        let reply = self.answer(&Request::File(request)).await?;
        self.entry(reply).await
    }

    async fn entry(&mut self, reply: Reply) -> Result<Entry> {
        match reply {
            Reply::Entry { entry, .. } => Ok(entry),
            _ => Err(self.wrong("the answer is not a file").await),
        }
    }
}

/// What the texts of an entry take.
fn text_bytes(entry: &Entry) -> usize {
    let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    entry.path.len()
        + entry.owner.len()
        + entry.group.len()
        + optional(&entry.path_base64)
        + optional(&entry.target)
}
