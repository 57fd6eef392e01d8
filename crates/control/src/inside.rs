//! More work inside sandboxes: shell sessions, terminals, ports, kernels, search.

use std::collections::BTreeMap;

use agent_protocol::Request;
use sandbox::{Name, Result, Space};

use crate::{
    Control, DiskUse, Entry, KernelInfo, Match, Places, PortStream, ProcessInfo, ReplaceOutcome,
    SessionInfo, TtySize,
};

impl Control {
    /// Where things are inside.
    ///
    /// # Errors
    /// As [`Control::exec`].
    pub async fn places(&self, space: &Space, name: &Name) -> Result<Places> {
        self.session("places", space, name).await?.places().await
    }

    /// Connects to a TCP port inside the sandbox.
    ///
    /// # Errors
    /// As [`Control::exec`]; `NotFound` when nothing listens there.
    pub async fn connect_port(&self, space: &Space, name: &Name, port: u16) -> Result<PortStream> {
        self.session("connect_port", space, name)
            .await?
            .connect_port(port)
            .await
    }

    /// Opens a shell session.
    ///
    /// # Errors
    /// As [`Control::exec`]; `AlreadyExists`.
    pub async fn open_session(
        &self,
        space: &Space,
        name: &Name,
        session: &str,
        cwd: Option<&str>,
        env: BTreeMap<String, String>,
    ) -> Result<()> {
        let request = Request::OpenSession {
            session: session.to_owned(),
            cwd: cwd.map(str::to_owned),
            env,
        };
        self.session("open_session", space, name)
            .await?
            .command(&request)
            .await
    }

    /// Runs a command in a shell session, after those before it. It is a
    /// background process from there on.
    ///
    /// # Errors
    /// As [`Control::exec`]; `NotFound` when there is no such session.
    pub async fn run_in_session(
        &self,
        space: &Space,
        name: &Name,
        session: &str,
        command: &str,
    ) -> Result<ProcessInfo> {
        let (session, command) = (session.to_owned(), command.to_owned());
        let operation = self.session("run_in_session", space, name).await?;
        operation.run_in_session(session, command).await
    }

    /// All shell sessions.
    ///
    /// # Errors
    /// As [`Control::exec`].
    pub async fn sessions(&self, space: &Space, name: &Name) -> Result<Vec<SessionInfo>> {
        self.session("list_sessions", space, name)
            .await?
            .sessions()
            .await
    }

    /// Ends the processes of a shell session and forgets it.
    ///
    /// # Errors
    /// As [`Control::exec`]; `NotFound` when there is no such session.
    pub async fn close_session(&self, space: &Space, name: &Name, session: &str) -> Result<()> {
        let session = session.to_owned();
        let request = Request::CloseSession { session };
        self.session("close_session", space, name)
            .await?
            .command(&request)
            .await
    }

    /// Changes the size of the terminal of a background process.
    ///
    /// # Errors
    /// As [`Control::exec`], and as the agent says.
    pub async fn resize_terminal(
        &self,
        space: &Space,
        name: &Name,
        process: u64,
        size: TtySize,
    ) -> Result<()> {
        let request = Request::ResizeTty { process, size };
        self.session("resize_terminal", space, name)
            .await?
            .command(&request)
            .await
    }

    /// Changes the environment of everything started from now on.
    ///
    /// # Errors
    /// As [`Control::exec`], and as the agent says.
    pub async fn set_environment(
        &self,
        space: &Space,
        name: &Name,
        set: BTreeMap<String, String>,
        unset: Vec<String>,
    ) -> Result<()> {
        let request = Request::SetEnvironment { set, unset };
        self.session("set_environment", space, name)
            .await?
            .command(&request)
            .await
    }

    /// Starts the kernel of a new context.
    ///
    /// # Errors
    /// As [`Control::exec`]; `AlreadyExists`.
    pub async fn start_kernel(
        &self,
        space: &Space,
        name: &Name,
        context: &str,
        cwd: Option<&str>,
    ) -> Result<()> {
        let request = Request::StartKernel {
            context: context.to_owned(),
            cwd: cwd.map(str::to_owned),
        };
        let operation = self.session("start_kernel", space, name).await?;
        operation.start_kernel(&request).await
    }

    /// Ends the kernel of a context and forgets the context.
    ///
    /// # Errors
    /// As [`Control::exec`]; `NotFound`.
    pub async fn end_kernel(&self, space: &Space, name: &Name, context: &str) -> Result<()> {
        let context = context.to_owned();
        let request = Request::EndKernel { context };
        self.session("end_kernel", space, name)
            .await?
            .command(&request)
            .await
    }

    /// All contexts.
    ///
    /// # Errors
    /// As [`Control::exec`].
    pub async fn kernels(&self, space: &Space, name: &Name) -> Result<Vec<KernelInfo>> {
        self.session("list_kernels", space, name)
            .await?
            .kernels()
            .await
    }

    /// Lines that contain a text, in the text files of a tree; at most `limit`.
    ///
    /// # Errors
    /// As [`Control::exec`], and as the agent says.
    pub async fn grep(
        &self,
        space: &Space,
        name: &Name,
        path: &str,
        pattern: &str,
        limit: u64,
    ) -> Result<Vec<Match>> {
        let (path, pattern) = (path.to_owned(), pattern.to_owned());
        let operation = self.session("grep", space, name).await?;
        operation.grep(path, pattern, limit).await
    }

    /// Entries whose last component matches a glob pattern; at most `limit`.
    ///
    /// # Errors
    /// As [`Control::exec`], and as the agent says.
    pub async fn glob(
        &self,
        space: &Space,
        name: &Name,
        path: &str,
        pattern: &str,
        limit: u64,
    ) -> Result<Vec<Entry>> {
        let (path, pattern) = (path.to_owned(), pattern.to_owned());
        let operation = self.session("glob", space, name).await?;
        operation.glob(path, pattern, limit).await
    }

    /// Replaces every occurrence of a text in files.
    ///
    /// # Errors
    /// As [`Control::exec`]; what happened to each file is in the outcomes.
    pub async fn replace(
        &self,
        space: &Space,
        name: &Name,
        paths: Vec<String>,
        pattern: &str,
        replacement: &str,
    ) -> Result<Vec<ReplaceOutcome>> {
        let (pattern, replacement) = (pattern.to_owned(), replacement.to_owned());
        let operation = self.session("replace", space, name).await?;
        operation.replace(paths, pattern, replacement).await
    }

    /// Size and use of the sandbox's file system.
    ///
    /// # Errors
    /// As [`Control::exec`].
    pub async fn disk(&self, space: &Space, name: &Name) -> Result<DiskUse> {
        self.session("disk", space, name).await?.disk().await
    }
}

#[cfg(test)]
mod tests;
