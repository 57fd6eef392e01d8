//! The streams of a background process, as the agent holds them.

use std::{os::fd::OwnedFd, sync::Arc};

use rustix::io::Errno;

use crate::{
    exec::PIECE_BYTES,
    output::{Output, Stream},
    program::Pipes,
};

/// How much is taken from a terminal at once. What its program wrote last can be
/// on its way in the kernel still, which tells only what has arrived.
const TERMINAL_BYTES: u64 = 128 << 10;

/// Standard input.
#[derive(Debug)]
pub(super) enum Stdin {
    /// A pipe, for one request at a time.
    Open(OwnedFd),
    /// In the hands of another request.
    Busy,
    /// A terminal, for everybody.
    Terminal(Arc<OwnedFd>),
    Closed,
}

/// Output.
#[derive(Debug)]
pub(super) struct Streams {
    /// With their ends still open; a terminal is the first one.
    pub(super) pipes: [Option<Arc<OwnedFd>>; 2],
    pub(super) is_terminal: bool,
    pub(super) kept: Output,
    /// Whom to tell about news; at most one per thread.
    pub(super) followers: Vec<Arc<OwnedFd>>,
}

impl Streams {
    /// Our ends of a program's streams, input apart.
    pub(super) fn new(pipes: Pipes, kept: Output) -> (Self, Stdin) {
        let stdout = pipes.stdout.map(Arc::new);
        let stdin = match (pipes.is_terminal, &stdout, pipes.stdin) {
            (true, Some(master), _) => Stdin::Terminal(Arc::clone(master)),
            (_, _, Some(stdin)) => Stdin::Open(stdin),
            (_, _, None) => Stdin::Closed,
        };
        let streams = Self {
            pipes: [stdout, pipes.stderr.map(Arc::new)],
            is_terminal: pipes.is_terminal,
            kept,
            followers: Vec::new(),
        };
        (streams, stdin)
    }

    /// Takes what is in the pipes now, and no more, however fast others write.
    pub(super) fn take_available(&mut self) {
        let mut buffer = vec![0; PIECE_BYTES];
        let mut is_news = false;
        for (pipe, stream) in self.pipes.iter_mut().zip([Stream::Output, Stream::Error]) {
            let Some(open) = pipe else { continue };
            let mut left = match self.is_terminal {
                true => TERMINAL_BYTES,
                false => rustix::io::ioctl_fionread(&**open).unwrap_or(0),
            };
            loop {
                match rustix::io::read(&**open, &mut *buffer) {
                    Ok(count @ 1..) => {
                        is_news = true;
                        self.kept.push(stream, &buffer[..count]);
                        left = left.saturating_sub(count as u64);
                        if left == 0 {
                            break;
                        }
                    }
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => break,
                    // A terminal that nobody has open any more gives an error.
                    Ok(0) | Err(_) => {
                        is_news = true;
                        *pipe = None;
                        break;
                    }
                }
            }
        }
        // Followers read too: telling them of nothing would never end.
        if is_news {
            self.tell();
        }
    }

    /// Tells whoever follows that there is news.
    pub(super) fn tell(&self) {
        for follower in &self.followers {
            let _ = rustix::io::write(&**follower, &1_u64.to_ne_bytes());
        }
    }
}
