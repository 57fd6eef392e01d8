//! What the server and the agent inside a sandbox say to each other.
//!
//! No I/O here: both sides read and write the bytes themselves.
//!
//! # Conversation
//! The server opens any number of byte streams to one agent. Each carries one
//! conversation at a time: the server sends a [`Request`], both sides may send
//! data frames that belong to it, and the agent ends it with a [`Reply`] for
//! which [`Reply::is_final`] holds. Then the stream is free for the next
//! request. Closing the stream cancels what is under way on it.
//!
//! ```text
//! server ──Message(Request)──► agent
//! server ──Input…InputEnd────► agent      (stdin, or the content of a file)
//! server ◄──Output/Error…────── agent      (stdout/stderr, or the content of a file)
//! server ◄──Message(Reply)───── agent      (the last one is final)
//! ```
//!
//! # Trust
//! The agent shares its sandbox with hostile code: the server bounds and checks
//! every frame ([`frame`]) and believes nothing beyond the sandbox it asked.
//!
//! # Versions
//! A sandbox may outlive the server that made it. Messages are JSON; unknown
//! fields are ignored and new fields have defaults, so that neighbouring
//! versions understand each other. Golden tests in this crate hold the form.

pub mod frame;
mod reply;
mod request;

pub use reply::{
    CellEnd, CellStatus, Entry, EntryKind, Exit, Failure, FailureKind, KernelInfo, Match,
    MimeBundle, ProcessInfo, ReplaceOutcome, Reply, SessionInfo,
};
pub use request::{Cell, Command, Exec, FileRequest, Request, Signal, TtySize};

/// Version of the protocol, told in [`Reply::Pong`].
pub const VERSION: u32 = 1;
