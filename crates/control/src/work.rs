//! Work inside sandboxes: commands, cells, processes and files.
//!
//! None of it goes through the owner of the sandbox: each operation looks the
//! sandbox up, counts as activity for its lease, and talks to the agent on a
//! connection of its own. Streams begin when they are first polled and are
//! cancelled when they are dropped; a request that the agent refuses is an
//! error of the first item.

use std::sync::Arc;

use agent_protocol::{FileRequest, Request};
use bytes::Bytes;
use futures_util::StreamExt;
use sandbox::{Name, Result, Space};

use crate::{
    Cell, CellStatus, Control, Entry, Exec, FileRead, Listing, Piece, PieceStream, ProcessInfo,
    Signal,
    agent::Session,
    store::{Change, Note},
};

impl Control {
    /// Begins an operation in a sandbox. It is counted as `operation` when its
    /// session ends, or here if there is none to be had.
    pub(crate) async fn session(
        &self,
        operation: &'static str,
        space: &Space,
        name: &Name,
    ) -> Result<Session> {
        let measure = self.core.metrics.begin(operation);
        let opened = async {
            let resident = self.core.registry.find(space, name)?;
            resident.must_run()?;
            Session::open(&*self.core.runtime, &resident).await
        };
        match opened.await {
            Ok(session) => Ok(session.measured_by(measure)),
            Err(error) => Err(measure.failed(error)),
        }
    }

    /// Runs a command. Its output comes as pieces, the last of which is
    /// [`Piece::Exited`]; `stdin` is sent meanwhile. `exec.stdin` is set from
    /// whether there is one.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when it is paused, `SandboxLost`.
    pub async fn exec(
        &self,
        space: &Space,
        name: &Name,
        exec: Exec,
        stdin: Option<PieceStream<Bytes>>,
    ) -> Result<PieceStream<Piece>> {
        self.session("run_shell_command", space, name)
            .await?
            .exec(exec, stdin)
    }

    /// Runs a Python cell. Its output comes as pieces, the last of which is
    /// [`Piece::CellEnded`].
    ///
    /// # Errors
    /// As [`Control::exec`].
    pub async fn cell(&self, space: &Space, name: &Name, cell: Cell) -> Result<PieceStream<Piece>> {
        let session = self.session("run_ipython_cell", space, name).await?;
        let resident = Arc::clone(session.resident());
        let pieces = session.cell(cell)?;
        let core = Arc::clone(&self.core);
        let noting = pieces.then(move |piece| {
            let died = match &piece {
                Ok(Piece::CellEnded(end)) if end.status == CellStatus::KernelDied => {
                    Some(Change::Noted {
                        id: resident.id.clone(),
                        note: Note {
                            at_ms: core.clock.now_ms(),
                            event: "kernel_died",
                            detail: end.error_value.as_deref().map(shortened),
                        },
                    })
                }
                _ => None,
            };
            let core = Arc::clone(&core);
            async move {
                if let Some(died) = died {
                    core.store.submit(died).await;
                }
                piece
            }
        });
        Ok(Box::pin(noting))
    }

    /// Interrupts the running cell of a context.
    ///
    /// # Errors
    /// As [`Control::exec`], and as the agent says.
    pub async fn interrupt_kernel(&self, space: &Space, name: &Name, context: &str) -> Result<()> {
        let context = context.to_owned();
        let request = Request::InterruptKernel { context };
        self.session("interrupt_kernel", space, name)
            .await?
            .command(&request)
            .await
    }

    /// Ends the kernel of a context; its next cell starts a new one.
    ///
    /// # Errors
    /// As [`Control::exec`], and as the agent says.
    pub async fn restart_kernel(&self, space: &Space, name: &Name, context: &str) -> Result<()> {
        let context = context.to_owned();
        let request = Request::RestartKernel { context };
        self.session("restart_kernel", space, name)
            .await?
            .command(&request)
            .await
    }

    /// Starts a command in the background. Set `exec.stdin` if it shall get
    /// input by [`Control::process_input`].
    ///
    /// # Errors
    /// As [`Control::exec`], and as the agent says.
    pub async fn start_process(
        &self,
        space: &Space,
        name: &Name,
        exec: Exec,
    ) -> Result<ProcessInfo> {
        self.session("start_process", space, name)
            .await?
            .start(exec)
            .await
    }

    /// All background processes, running or ended.
    ///
    /// # Errors
    /// As [`Control::exec`].
    pub async fn processes(&self, space: &Space, name: &Name) -> Result<Vec<ProcessInfo>> {
        self.session("list_processes", space, name)
            .await?
            .processes()
            .await
    }

    /// What a background process has said, and with `follow` what it says until
    /// it ends. The last piece is [`Piece::Exited`] if it has ended, else
    /// [`Piece::Done`].
    ///
    /// # Errors
    /// As [`Control::exec`].
    pub async fn process_output(
        &self,
        space: &Space,
        name: &Name,
        process: u64,
        follow: bool,
    ) -> Result<PieceStream<Piece>> {
        let session = self.session("process_output", space, name).await?;
        session.output(process, follow, false)
    }

    /// What a background process says from now on until it ends.
    ///
    /// # Errors
    /// As [`Control::exec`].
    pub async fn process_news(
        &self,
        space: &Space,
        name: &Name,
        process: u64,
    ) -> Result<PieceStream<Piece>> {
        let session = self.session("process_output", space, name).await?;
        session.output(process, true, true)
    }

    /// Sends input to a background process, and with `close` its end.
    ///
    /// # Errors
    /// As [`Control::exec`], as the agent says, and the error of the input.
    pub async fn process_input(
        &self,
        space: &Space,
        name: &Name,
        process: u64,
        input: PieceStream<Bytes>,
        close: bool,
    ) -> Result<()> {
        let session = self.session("process_input", space, name).await?;
        session.input(process, input, close).await
    }

    /// Sends a signal to a background process and its children.
    ///
    /// # Errors
    /// As [`Control::exec`], and as the agent says.
    pub async fn signal_process(
        &self,
        space: &Space,
        name: &Name,
        process: u64,
        signal: Signal,
    ) -> Result<()> {
        let request = Request::Signal { process, signal };
        self.session("signal_process", space, name)
            .await?
            .command(&request)
            .await
    }

    /// Reads a file, from `offset` on and at most `length` bytes.
    ///
    /// # Errors
    /// As [`Control::exec`], and as the agent says.
    pub async fn read_file(
        &self,
        space: &Space,
        name: &Name,
        path: &str,
        offset: u64,
        length: Option<u64>,
    ) -> Result<FileRead> {
        let session = self.session("read_file", space, name).await?;
        session.read_file(path.to_owned(), offset, length).await
    }

    /// Replaces or creates a file, whole or not at all unless `append` is set.
    ///
    /// # Errors
    /// As [`Control::exec`], as the agent says, and the error of the content:
    /// the file is then as it was.
    pub async fn write_file(
        &self,
        space: &Space,
        name: &Name,
        path: &str,
        mode: Option<u32>,
        append: bool,
        content: PieceStream<Bytes>,
    ) -> Result<Entry> {
        let session = self.session("write_file", space, name).await?;
        session
            .write_file(path.to_owned(), mode, append, content)
            .await
    }

    /// Lists a directory, `depth` levels deep, at most `limit` and 100,000 entries.
    ///
    /// # Errors
    /// As [`Control::exec`], and as the agent says.
    pub async fn list_files(
        &self,
        space: &Space,
        name: &Name,
        path: &str,
        depth: u32,
        limit: u64,
    ) -> Result<Listing> {
        let session = self.session("list_files", space, name).await?;
        session.list_files(path.to_owned(), depth, limit).await
    }

    /// One file's metadata; a final symbolic link is not followed.
    ///
    /// # Errors
    /// As [`Control::exec`], and as the agent says.
    pub async fn stat_file(&self, space: &Space, name: &Name, path: &str) -> Result<Entry> {
        let path = path.to_owned();
        self.entry("stat_file", space, name, FileRequest::Stat { path })
            .await
    }

    /// Makes a directory and its parents; one that exists is a success.
    ///
    /// # Errors
    /// As [`Control::exec`], and as the agent says.
    pub async fn make_directory(
        &self,
        space: &Space,
        name: &Name,
        path: &str,
        mode: Option<u32>,
    ) -> Result<Entry> {
        let path = path.to_owned();
        let request = FileRequest::MakeDirectory { path, mode };
        self.entry("make_directory", space, name, request).await
    }

    /// Renames a file or directory.
    ///
    /// # Errors
    /// As [`Control::exec`], and as the agent says; `AlreadyExists` without `overwrite`.
    pub async fn move_file(
        &self,
        space: &Space,
        name: &Name,
        source: &str,
        destination: &str,
        overwrite: bool,
    ) -> Result<Entry> {
        let request = FileRequest::Move {
            source: source.to_owned(),
            destination: destination.to_owned(),
            overwrite,
        };
        self.entry("move_file", space, name, request).await
    }

    /// Removes a file, or with `recursive` a tree.
    ///
    /// # Errors
    /// As [`Control::exec`], and as the agent says.
    pub async fn remove_file(
        &self,
        space: &Space,
        name: &Name,
        path: &str,
        recursive: bool,
    ) -> Result<()> {
        let path = path.to_owned();
        let request = Request::File(FileRequest::Remove { path, recursive });
        self.session("remove_file", space, name)
            .await?
            .command(&request)
            .await
    }

    /// Changes permissions and owner; `None` leaves them.
    ///
    /// # Errors
    /// As [`Control::exec`], and as the agent says.
    pub async fn set_permissions(
        &self,
        space: &Space,
        name: &Name,
        path: &str,
        mode: Option<u32>,
        owner: Option<&str>,
        group: Option<&str>,
    ) -> Result<Entry> {
        let request = FileRequest::SetPermissions {
            path: path.to_owned(),
            mode,
            owner: owner.map(str::to_owned),
            group: group.map(str::to_owned),
        };
        self.entry("set_permissions", space, name, request).await
    }

    async fn entry(
        &self,
        operation: &'static str,
        space: &Space,
        name: &Name,
        request: FileRequest,
    ) -> Result<Entry> {
        let session = self.session(operation, space, name).await?;
        session.ask_entry(request).await
    }
}

/// The beginning of a text by the agent, for the log.
fn shortened(text: &str) -> String {
    /// Characters of a detail in the log.
    const DETAIL_CHARS_MAX: usize = 500;
    text.chars().take(DETAIL_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests;
