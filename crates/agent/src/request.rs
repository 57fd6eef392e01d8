//! One request, from its message to its final reply.

use std::{io, os::fd::OwnedFd, sync::Arc};

use agent_protocol::{Reply, Request, VERSION};

use crate::{
    cell::Kernels,
    connection::Connection,
    context::Context,
    exec,
    failure::{Stop, limit_reached},
    file,
    process::{Extent, Processes},
    session::Sessions,
    tunnel::{self, Seat, Tunnels},
};

/// Everything that serves requests.
#[derive(Debug)]
pub(crate) struct Agent {
    context: Arc<Context>,
    processes: Processes,
    sessions: Sessions,
    kernels: Kernels,
    tunnels: Tunnels,
}

/// What is left to do for a request.
#[derive(Debug)]
pub(crate) enum Served {
    /// Nothing: the connection can take the next one.
    Answered,
    /// The connection is to be joined to this one to a port.
    Connected(Seat, OwnedFd),
}

/// Whether there is a thread left for other requests while this one runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standby {
    Present,
    Absent,
}

impl Agent {
    /// An agent with nothing running.
    pub(crate) fn new(context: Arc<Context>) -> io::Result<Self> {
        Ok(Self {
            kernels: Kernels::new(Arc::clone(&context)),
            processes: Processes::default(),
            sessions: Sessions::new(Arc::clone(&context))?,
            tunnels: Tunnels::new()?,
            context,
        })
    }

    /// Joins a connection to one to a port. When that is not possible, both are closed.
    pub(crate) fn tunnel(&self, seat: Seat, connection: Connection, service: OwnedFd) {
        if let Ok(client) = connection.into_stream() {
            self.tunnels.add(seat, client, service);
        }
    }

    /// Serves a request on its connection.
    ///
    /// # Errors
    /// When the connection is lost or out of step: it is to be closed.
    pub(crate) fn serve(
        &self,
        request: &Request,
        connection: &mut Connection,
        standby: Standby,
    ) -> io::Result<Served> {
        // What ends other requests must always be possible.
        if standby == Standby::Absent && !is_short(request) {
            let failure = limit_reached(
                "too many requests run in this sandbox at once; end some or wait for them",
            );
            connection.send_message(&Reply::Failed(failure))?;
            return Ok(Served::Answered);
        }
        let served = match request {
            Request::ConnectPort { port } => self.connect(*port, connection),
            request => self.answer(request, connection).and_then(|reply| {
                if let Some(reply) = reply {
                    connection.send_message(&reply)?;
                }
                Ok(Served::Answered)
            }),
        };
        match served {
            Err(Stop::Failed(failure)) => {
                connection.send_message(&Reply::Failed(failure))?;
                Ok(Served::Answered)
            }
            Err(Stop::Disconnected(error)) => Err(error),
            Ok(served) => Ok(served),
        }
    }

    fn connect(&self, port: u16, connection: &mut Connection) -> Result<Served, Stop> {
        let seat = self.tunnels.seat()?;
        let service = tunnel::connect(port, connection)?;
        connection.send_message(&Reply::Connected)?;
        Ok(Served::Connected(seat, service))
    }

    /// The final reply, unless it was sent already.
    fn answer(
        &self,
        request: &Request,
        connection: &mut Connection,
    ) -> Result<Option<Reply>, Stop> {
        let done = || Reply::Done { truncated: false };
        let reply = match request {
            Request::Ping => Reply::Pong {
                version: VERSION,
                workdir: self.context.workdir.display().to_string(),
                home: self.context.home(),
            },
            Request::Exec(exec) => exec::run(&self.context, exec, connection)?,
            Request::Start(exec) => self.processes.start(&self.context, exec)?,
            Request::SetEnvironment { set, unset } => {
                self.context.environment.change(set, unset)?;
                done()
            }
            Request::Disk => file::disk()?,
            Request::Processes => self.processes.list(),
            Request::Output {
                process,
                follow,
                skip_kept,
            } => {
                let extent = Extent {
                    follow: *follow,
                    skip_kept: *skip_kept,
                };
                self.processes.output(*process, extent, connection)?
            }
            Request::ResizeTty { process, size } => self.processes.resize(*process, *size)?,
            Request::Input { process, close } => {
                self.processes.input(*process, *close, connection)?
            }
            Request::Signal { process, signal } => self.processes.signal(*process, *signal)?,
            Request::OpenSession { session, cwd, env } => {
                self.sessions.open(session, cwd.as_deref(), env)?
            }
            Request::RunInSession { session, command } => {
                self.sessions.run(session, command, &self.processes)?
            }
            Request::Sessions => self.sessions.list(&self.processes),
            Request::CloseSession { session } => self.sessions.close(session, &self.processes)?,
            Request::Cell(cell) => {
                self.kernels.run(cell, connection)?;
                return Ok(None);
            }
            Request::InterruptKernel { context } => {
                self.kernels.interrupt(context)?;
                done()
            }
            Request::RestartKernel { context } => {
                self.kernels.restart(context)?;
                done()
            }
            Request::StartKernel { context, cwd } => {
                self.kernels.start(context, cwd.as_deref(), connection)?;
                done()
            }
            Request::EndKernel { context } => {
                self.kernels.end(context)?;
                done()
            }
            Request::Kernels => self.kernels.list(),
            Request::File(request) => file::serve(&self.context, request, connection)?,
            // It ends with the connection joined to another one, not with a reply.
            Request::ConnectPort { .. } => return Ok(None),
        };
        Ok(Some(reply))
    }
}

/// Whether a request is answered at once, whatever the workload does.
fn is_short(request: &Request) -> bool {
    match request {
        Request::Ping
        | Request::Processes
        | Request::Sessions
        | Request::CloseSession { .. }
        | Request::SetEnvironment { .. }
        | Request::Disk
        | Request::ResizeTty { .. }
        | Request::Signal { .. }
        | Request::InterruptKernel { .. }
        | Request::RestartKernel { .. }
        | Request::EndKernel { .. }
        | Request::Kernels => true,
        Request::Exec(_)
        | Request::Start(_)
        | Request::Output { .. }
        | Request::Input { .. }
        | Request::OpenSession { .. }
        | Request::RunInSession { .. }
        | Request::ConnectPort { .. }
        | Request::Cell(_)
        | Request::StartKernel { .. }
        | Request::File(_) => false,
    }
}
