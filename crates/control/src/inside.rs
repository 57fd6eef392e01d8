//! More work inside sandboxes: shell sessions, terminals, ports, kernels, search.

use std::collections::BTreeMap;

use sandbox::{Error, Name, Result, Space};

use crate::{
    Control, DiskUse, Entry, KernelInfo, Match, Places, PortStream, ProcessInfo, ReplaceOutcome,
    SessionInfo, TtySize,
};

impl Control {
    /// Where things are inside.
    ///
    /// # Errors
    /// As [`Control::exec`].
    pub async fn places(&self, _space: &Space, _name: &Name) -> Result<Places> {
        Err(not_yet())
    }

    /// Connects to a TCP port inside the sandbox.
    ///
    /// # Errors
    /// As [`Control::exec`]; `NotFound` when nothing listens there.
    pub async fn connect_port(
        &self,
        _space: &Space,
        _name: &Name,
        _port: u16,
    ) -> Result<PortStream> {
        Err(not_yet())
    }

    /// Opens a shell session.
    ///
    /// # Errors
    /// As [`Control::exec`]; `AlreadyExists`.
    pub async fn open_session(
        &self,
        _space: &Space,
        _name: &Name,
        _session: &str,
        _cwd: Option<&str>,
        _env: BTreeMap<String, String>,
    ) -> Result<()> {
        Err(not_yet())
    }

    /// Runs a command in a shell session, after those before it. It is a
    /// background process from there on.
    ///
    /// # Errors
    /// As [`Control::exec`]; `NotFound` when there is no such session.
    pub async fn run_in_session(
        &self,
        _space: &Space,
        _name: &Name,
        _session: &str,
        _command: &str,
    ) -> Result<ProcessInfo> {
        Err(not_yet())
    }

    /// All shell sessions.
    ///
    /// # Errors
    /// As [`Control::exec`].
    pub async fn sessions(&self, _space: &Space, _name: &Name) -> Result<Vec<SessionInfo>> {
        Err(not_yet())
    }

    /// Ends the processes of a shell session and forgets it.
    ///
    /// # Errors
    /// As [`Control::exec`]; `NotFound` when there is no such session.
    pub async fn close_session(&self, _space: &Space, _name: &Name, _session: &str) -> Result<()> {
        Err(not_yet())
    }

    /// Changes the size of the terminal of a background process.
    ///
    /// # Errors
    /// As [`Control::exec`], and as the agent says.
    pub async fn resize_terminal(
        &self,
        _space: &Space,
        _name: &Name,
        _process: u64,
        _size: TtySize,
    ) -> Result<()> {
        Err(not_yet())
    }

    /// Changes the environment of everything started from now on.
    ///
    /// # Errors
    /// As [`Control::exec`], and as the agent says.
    pub async fn set_environment(
        &self,
        _space: &Space,
        _name: &Name,
        _set: BTreeMap<String, String>,
        _unset: Vec<String>,
    ) -> Result<()> {
        Err(not_yet())
    }

    /// Starts the kernel of a new context.
    ///
    /// # Errors
    /// As [`Control::exec`]; `AlreadyExists`.
    pub async fn start_kernel(
        &self,
        _space: &Space,
        _name: &Name,
        _context: &str,
        _cwd: Option<&str>,
    ) -> Result<()> {
        Err(not_yet())
    }

    /// Ends the kernel of a context and forgets the context.
    ///
    /// # Errors
    /// As [`Control::exec`]; `NotFound`.
    pub async fn end_kernel(&self, _space: &Space, _name: &Name, _context: &str) -> Result<()> {
        Err(not_yet())
    }

    /// All contexts.
    ///
    /// # Errors
    /// As [`Control::exec`].
    pub async fn kernels(&self, _space: &Space, _name: &Name) -> Result<Vec<KernelInfo>> {
        Err(not_yet())
    }

    /// Lines that contain a text, in the text files of a tree; at most `limit`.
    ///
    /// # Errors
    /// As [`Control::exec`], and as the agent says.
    pub async fn grep(
        &self,
        _space: &Space,
        _name: &Name,
        _path: &str,
        _pattern: &str,
        _limit: u64,
    ) -> Result<Vec<Match>> {
        Err(not_yet())
    }

    /// Entries whose last component matches a glob pattern; at most `limit`.
    ///
    /// # Errors
    /// As [`Control::exec`], and as the agent says.
    pub async fn glob(
        &self,
        _space: &Space,
        _name: &Name,
        _path: &str,
        _pattern: &str,
        _limit: u64,
    ) -> Result<Vec<Entry>> {
        Err(not_yet())
    }

    /// Replaces every occurrence of a text in files.
    ///
    /// # Errors
    /// As [`Control::exec`]; what happened to each file is in the outcomes.
    pub async fn replace(
        &self,
        _space: &Space,
        _name: &Name,
        _paths: Vec<String>,
        _pattern: &str,
        _replacement: &str,
    ) -> Result<Vec<ReplaceOutcome>> {
        Err(not_yet())
    }

    /// Size and use of the sandbox's file system.
    ///
    /// # Errors
    /// As [`Control::exec`].
    pub async fn disk(&self, _space: &Space, _name: &Name) -> Result<DiskUse> {
        Err(not_yet())
    }
}

fn not_yet() -> Error {
    Error::unavailable("not yet")
}
