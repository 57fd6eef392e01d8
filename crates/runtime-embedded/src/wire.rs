//! What the server and its spawner say to each other.
//!
//! A request is one packet with one descriptor, the socket for its answer, and
//! for some a second one, which they name. The
//! answer is a length (4 bytes, little-endian), JSON of that length, and the
//! descriptors that its variant names. Both sides bound what they read, and the
//! spawner checks every value again, because the server talks to the world.

mod images;

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use sandbox::Kind;
use serde::{Deserialize, Serialize};

pub(crate) use images::{ImageRequest, ImageWords};

/// Longest request, bytes. Leaves room in a default socket buffer.
pub(crate) const REQUEST_BYTES_MAX: usize = 96 << 10;
/// Longest answer, bytes: a list of some 30,000 sandboxes.
pub(crate) const ANSWER_BYTES_MAX: usize = 4 << 20;

/// What the server asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum Request {
    Create(Create),
    /// Is there such an image?
    Check {
        image: String,
    },
    Destroy {
        id: String,
    },
    /// Ends the processes of a sandbox and keeps its files.
    Stop {
        id: String,
    },
    /// Starts a stopped sandbox on its files; the image is what it was made from.
    Start(Create),
    /// Packs the files of a stopped sandbox.
    Archive {
        id: String,
    },
    /// Unpacks them.
    Restore {
        id: String,
    },
    /// Changes the limits of a running sandbox.
    Resize {
        id: String,
        memory_bytes: u64,
        cpu_millis: u32,
        pids: u32,
    },
    Pause {
        id: String,
    },
    Resume {
        id: String,
    },
    List,
    /// What belongs to no known sandbox, of any scope.
    Leaks,
    /// Descriptors of a running sandbox, for a server that has just started.
    Adopt {
        id: String,
    },
    /// Removes what earlier crashes have left.
    Sweep,
    /// Something about images.
    Images {
        request: ImageRequest,
    },
}

/// A sandbox to be made: names and numbers, never a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Create {
    pub(crate) id: String,
    pub(crate) image: String,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) memory_bytes: u64,
    pub(crate) cpu_millis: u32,
    pub(crate) pids: u32,
    pub(crate) network: String,
}

/// What the spawner answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(crate) enum Answer {
    /// Made. Descriptors: the first process, then the name service's sockets if `dns`.
    Created {
        steps: Vec<(String, u64)>,
        dns: bool,
    },
    /// Found running. Descriptors as for `Created`.
    Adopted {
        dns: bool,
    },
    Done,
    List {
        sandboxes: Vec<Listed>,
    },
    /// Pairs of kind and object, the first of them.
    Leaks {
        leaks: Vec<(String, String)>,
    },
    Images {
        images: Vec<ImageWords>,
    },
    Failed {
        kind: String,
        message: String,
    },
}

/// One sandbox in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listed {
    pub(crate) id: String,
    pub(crate) alive: bool,
    pub(crate) host_restarted: bool,
    /// `files` or `pack`, for one that shall have no processes.
    #[serde(default)]
    pub(crate) kept: Option<String>,
}

/// The descriptors of a running sandbox.
#[derive(Debug)]
pub(crate) struct Handles {
    pub(crate) pidfd: OwnedFd,
    pub(crate) dns: Option<crate::network::DnsSockets>,
}

impl Handles {
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut descriptors = vec![self.pidfd.as_fd()];
        if let Some(dns) = &self.dns {
            descriptors.extend([dns.udp.as_fd(), dns.tcp.as_fd()]);
        }
        descriptors
    }

    /// From what came with an answer; `None` when that is not what it said.
    pub(crate) fn from_descriptors(descriptors: Vec<OwnedFd>, dns: bool) -> Option<Self> {
        let mut descriptors = descriptors.into_iter();
        let pidfd = descriptors.next()?;
        let dns = if dns {
            Some(crate::network::DnsSockets {
                udp: descriptors.next()?.into(),
                tcp: descriptors.next()?.into(),
            })
        } else {
            None
        };
        descriptors.next().is_none().then_some(Self { pidfd, dns })
    }
}

impl Answer {
    pub(crate) fn failed(error: &sandbox::Error) -> Self {
        Self::Failed {
            kind: error.kind.as_str().to_owned(),
            message: error.message.clone(),
        }
    }

    /// Sends the answer; blocks until it is taken.
    pub(crate) fn send(&self, socket: impl AsFd, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = serde_json::to_vec(self).expect("strings and numbers always serialize");
        let length = u32::try_from(text.len())
            .ok()
            .filter(|_| text.len() <= ANSWER_BYTES_MAX)
            .ok_or(io::ErrorKind::FileTooLarge)?;
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(text);
        let mut rest = bytes.as_slice();
        let mut descriptors = descriptors;
        while !rest.is_empty() {
            let sent = sys::socket::send(socket.as_fd(), rest, descriptors)?;
            // They went with the first byte.
            descriptors = &[];
            rest = &rest[sent..];
        }
        Ok(())
    }
}

/// The kind that an answer's text names; an unknown one counts as internal.
pub(crate) fn kind_from_text(text: &str) -> Kind {
    [
        Kind::NotFound,
        Kind::AlreadyExists,
        Kind::InvalidRequest,
        Kind::Conflict,
        Kind::LimitReached,
        Kind::Timeout,
        Kind::Cancelled,
        Kind::Unavailable,
        Kind::SandboxLost,
    ]
    .into_iter()
    .find(|kind| kind.as_str() == text)
    .unwrap_or(Kind::Internal)
}

/// Collects an answer from the pieces in which it arrives.
#[derive(Debug, Default)]
pub(crate) struct AnswerReader {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

/// Bytes of the length before an answer.
const LENGTH_BYTES: usize = 4;

impl AnswerReader {
    /// Takes one piece; the whole answer once it is there.
    pub(crate) fn push(
        &mut self,
        bytes: &[u8],
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<Option<(Answer, Vec<OwnedFd>)>> {
        self.bytes.extend_from_slice(bytes);
        self.descriptors.extend(descriptors);
        if self.descriptors.len() > sys::socket::DESCRIPTORS_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let Some((length, rest)) = self.bytes.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > ANSWER_BYTES_MAX || rest.len() > length {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if rest.len() < length {
            return Ok(None);
        }
        let answer = serde_json::from_slice(rest)?;
        Ok(Some((answer, std::mem::take(&mut self.descriptors))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn kinds_survive_the_wire() {
        for kind in [
            Kind::NotFound,
            Kind::Timeout,
            Kind::Internal,
            Kind::SandboxLost,
        ] {
            assert_eq!(kind_from_text(kind.as_str()), kind);
        }
    }

    fn encoded(answer: &Answer) -> Vec<u8> {
        let text = serde_json::to_vec(answer).unwrap();
        let mut bytes = u32::try_from(text.len()).unwrap().to_le_bytes().to_vec();
        bytes.extend(text);
        bytes
    }

    proptest! {
        #[test]
        fn an_answer_arrives_in_any_pieces(ids in prop::collection::vec("[a-z]{1,26}", 0..20), piece in 1usize..64) {
            let sandboxes = ids.into_iter().map(|id| Listed { id, alive: true, host_restarted: false, kept: None }).collect();
            let answer = Answer::List { sandboxes };
            let mut reader = AnswerReader::default();
            let mut found = None;
            for chunk in encoded(&answer).chunks(piece) {
                prop_assert!(found.is_none());
                found = reader.push(chunk, Vec::new()).unwrap();
            }
            prop_assert_eq!(found.map(|(answer, _)| answer), Some(answer));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = AnswerReader::default().push(&bytes, Vec::new());
            let _ = serde_json::from_slice::<Request>(&bytes);
        }
    }
}
