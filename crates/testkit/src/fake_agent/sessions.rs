//! Shell sessions, whose commands begin at once and keep no state; kernels by name.

use std::collections::BTreeMap;

use agent_protocol::{Command, Exec, FailureKind, KernelInfo, Reply, SessionInfo};
use tokio::io::AsyncWrite;

use super::{Closed, Connection};

#[derive(Debug)]
struct Session {
    name: String,
    cwd: Option<String>,
    env: BTreeMap<String, String>,
    commands: Vec<u64>,
}

/// In order of their opening.
#[derive(Debug, Default)]
pub(super) struct Sessions(Vec<Session>);

impl Sessions {
    fn find(&mut self, name: &str) -> Option<&mut Session> {
        self.0.iter_mut().find(|session| session.name == name)
    }
}

/// In order of their start.
#[derive(Debug, Default)]
pub(super) struct Kernels(Vec<KernelInfo>);

impl<W: AsyncWrite> Connection<W> {
    pub(super) async fn open_session(
        &mut self,
        name: String,
        cwd: Option<String>,
        env: BTreeMap<String, String>,
    ) -> Result<(), Closed> {
        let exists = {
            let sessions = &mut self.agent.state().sessions;
            let exists = sessions.find(&name).is_some();
            if !exists {
                sessions.0.push(Session {
                    name: name.clone(),
                    cwd,
                    env,
                    commands: Vec::new(),
                });
            }
            exists
        };
        if exists {
            let message = format!("session {name:?} exists already");
            return self.fail(FailureKind::AlreadyExists, message).await;
        }
        self.reply(&Reply::Done { truncated: false }).await
    }

    pub(super) async fn run_in_session(
        &mut self,
        name: &str,
        command: String,
    ) -> Result<(), Closed> {
        let exec = {
            let sessions = &mut self.agent.state().sessions;
            sessions.find(name).map(|session| Exec {
                command: Command::Shell(command),
                env: session.env.clone(),
                cwd: session.cwd.clone(),
                stdin: true,
                ..Exec::default()
            })
        };
        let Some(exec) = exec else {
            return self.no_session(name).await;
        };
        let info = self.begin(&exec);
        if let Some(session) = self.agent.state().sessions.find(name) {
            session.commands.push(info.process);
        }
        self.reply(&Reply::Started(info)).await
    }

    pub(super) async fn list_sessions(&mut self) -> Result<(), Closed> {
        let sessions = {
            let state = self.agent.state();
            let info = |session: &Session| SessionInfo {
                session: session.name.clone(),
                opened_ms: 0,
                commands: state.processes.infos(&session.commands),
            };
            state.sessions.0.iter().map(info).collect()
        };
        self.reply(&Reply::Sessions { sessions }).await
    }

    pub(super) async fn close_session(&mut self, name: &str) -> Result<(), Closed> {
        let closed = {
            let sessions = &mut self.agent.state().sessions.0;
            let at = sessions.iter().position(|session| session.name == name);
            at.map(|at| sessions.remove(at))
        };
        let Some(session) = closed else {
            return self.no_session(name).await;
        };
        self.agent.forget_processes(&session.commands);
        self.reply(&Reply::Done { truncated: false }).await
    }

    async fn no_session(&mut self, name: &str) -> Result<(), Closed> {
        let message = format!("there is no session {name:?}");
        self.fail(FailureKind::NotFound, message).await
    }

    pub(super) async fn start_kernel(
        &mut self,
        context: String,
        cwd: Option<String>,
    ) -> Result<(), Closed> {
        let exists = {
            let kernels = &mut self.agent.state().kernels.0;
            let exists = kernels.iter().any(|kernel| kernel.context == context);
            if !exists {
                kernels.push(KernelInfo {
                    context: context.clone(),
                    cwd: cwd.unwrap_or_else(|| super::WORKDIR.to_owned()),
                    started_ms: 0,
                    alive: true,
                });
            }
            exists
        };
        if exists {
            let message = format!("context {context:?} exists already");
            return self.fail(FailureKind::AlreadyExists, message).await;
        }
        self.reply(&Reply::Done { truncated: false }).await
    }

    pub(super) async fn end_kernel(&mut self, context: &str) -> Result<(), Closed> {
        let ended = {
            let mut state = self.agent.state();
            let before = state.kernels.0.len();
            state.kernels.0.retain(|kernel| kernel.context != context);
            state.contexts.forget(context);
            state.kernels.0.len() < before
        };
        if !ended {
            let message = format!("there is no context {context:?}");
            return self.fail(FailureKind::NotFound, message).await;
        }
        self.reply(&Reply::Done { truncated: false }).await
    }

    pub(super) async fn list_kernels(&mut self) -> Result<(), Closed> {
        let kernels = self.agent.state().kernels.0.clone();
        self.reply(&Reply::Kernels { kernels }).await
    }
}
