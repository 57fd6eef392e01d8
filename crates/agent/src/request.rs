//! One request, from its message to its final reply.

use std::{io, sync::Arc};

use agent_protocol::{Reply, Request, VERSION};

use crate::{
    cell::Kernels,
    connection::Connection,
    context::Context,
    exec,
    failure::{Stop, limit_reached},
    file,
    process::Processes,
};

/// Everything that serves requests.
#[derive(Debug)]
pub(crate) struct Agent {
    context: Arc<Context>,
    processes: Processes,
    kernels: Kernels,
}

/// Whether there is a thread left for other requests while this one runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standby {
    Present,
    Absent,
}

impl Agent {
    /// An agent with nothing running.
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self {
            kernels: Kernels::new(Arc::clone(&context)),
            processes: Processes::default(),
            context,
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
    ) -> io::Result<()> {
        // What ends other requests must always be possible.
        if standby == Standby::Absent && !is_short(request) {
            let failure = limit_reached(
                "too many requests run in this sandbox at once; end some or wait for them",
            );
            return connection.send_message(&Reply::Failed(failure));
        }
        match self.answer(request, connection) {
            Ok(Some(reply)) => connection.send_message(&reply),
            Ok(None) => Ok(()),
            Err(Stop::Failed(failure)) => connection.send_message(&Reply::Failed(failure)),
            Err(Stop::Disconnected(error)) => Err(error),
        }
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
                workdir: String::new(),
                home: String::new(),
            },
            Request::Exec(exec) => exec::run(&self.context, exec, connection)?,
            Request::Start(exec) => self.processes.start(&self.context, exec)?,
            Request::Processes => self.processes.list(),
            Request::Output {
                process, follow, ..
            } => self.processes.output(*process, *follow, connection)?,
            Request::Input { process, close } => {
                self.processes.input(*process, *close, connection)?
            }
            Request::Signal { process, signal } => self.processes.signal(*process, *signal)?,
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
            Request::File(request) => file::serve(&self.context, request, connection)?,
            _ => return Err(crate::failure::invalid("not served").into()),
        };
        Ok(Some(reply))
    }
}

/// Whether a request is answered at once, whatever the workload does.
fn is_short(request: &Request) -> bool {
    match request {
        Request::Ping
        | Request::Processes
        | Request::Signal { .. }
        | Request::InterruptKernel { .. }
        | Request::RestartKernel { .. } => true,
        Request::Exec(_)
        | Request::Start(_)
        | Request::Output { .. }
        | Request::Input { .. }
        | Request::Cell(_)
        | Request::File(_) => false,
        _ => false,
    }
}
