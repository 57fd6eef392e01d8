//! One operation in a sandbox: a conversation with its agent, kept alive by
//! nothing but its user, and ended with the sandbox.

use std::{sync::Arc, time::Duration};

use agent_protocol::{Reply, Request};
use bytes::Bytes;
use sandbox::{AgentStream, Error, Kind, Result, Runtime, State};
use tokio::sync::watch;

use super::{
    AgentError, CONNECT_TIME_MAX, LAST_WORDS_TIME_MAX,
    conversation::{Conversation, Incoming, Input},
    refusal,
};
use crate::{
    lifecycle::Life,
    metrics::Measure,
    resident::{Operation, Resident, ending},
};

/// An operation under way. Dropping it cancels it.
pub(crate) struct Session {
    operation: Operation,
    life: watch::Receiver<Life>,
    /// `None` once the conversation has ended.
    conversation: Option<Conversation>,
    input: Input,
    /// Counts the operation, if it is one of a caller.
    measure: Option<Measure>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("resident", &self.operation.0)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Begins an operation, on an idle connection if there is one.
    ///
    /// # Errors
    /// `SandboxLost` when there is no connection to be had.
    pub(crate) async fn open(runtime: &dyn Runtime, resident: &Arc<Resident>) -> Result<Self> {
        Self::begin(runtime, resident.operate()).await
    }

    /// Begins an operation of the server's own, which is no activity.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub(crate) async fn visit(runtime: &dyn Runtime, resident: &Arc<Resident>) -> Result<Self> {
        Self::begin(runtime, resident.visit()).await
    }

    async fn begin(runtime: &dyn Runtime, operation: Operation) -> Result<Self> {
        let resident = Arc::clone(&operation.0);
        let mut session = Self {
            operation,
            life: resident.watch(),
            conversation: None,
            input: Input::none(),
            measure: None,
        };
        let stream = match resident.pool.take() {
            Some(stream) => stream,
            None => {
                let connect = runtime.connect(&resident.id);
                let connected = match tokio::time::timeout(CONNECT_TIME_MAX, connect).await {
                    Ok(connected) => connected.map_err(AgentError::Connect),
                    Err(_) => Err(AgentError::Silent(CONNECT_TIME_MAX)),
                };
                match connected {
                    Ok(stream) => stream,
                    Err(error) => return Err(session.explain(error).await),
                }
            }
        };
        session.conversation = Some(Conversation::new(stream));
        Ok(session)
    }

    /// Lets `measure` count this operation by how it ends.
    pub(crate) fn measured_by(mut self, measure: Measure) -> Self {
        self.measure = Some(measure);
        self
    }

    /// The sandbox that this is done in.
    pub(crate) fn resident(&self) -> &Arc<Resident> {
        &self.operation.0
    }

    /// Notes how the operation went, so far.
    fn note(&mut self, failure: Option<Kind>) {
        if let Some(measure) = &mut self.measure {
            measure.note(failure);
        }
    }

    /// Takes a request, to be sent by the next wait.
    ///
    /// # Errors
    /// `InvalidRequest` when it is too large.
    pub(super) fn ask(&mut self, request: &Request, input: Input) -> Result<()> {
        self.input = input;
        let Some(conversation) = &mut self.conversation else {
            return Err(self.over());
        };
        let asked = conversation.ask(request);
        asked.map_err(|error| {
            self.note(Some(Kind::InvalidRequest));
            Error::invalid(error.to_string())
        })
    }

    /// The next thing from the agent.
    ///
    /// # Errors
    /// As [`Conversation::next`], explained by the end of the sandbox if it has
    /// ended. The conversation is over then.
    pub(super) async fn next(&mut self, silence_max: Option<Duration>) -> Result<Incoming> {
        let Some(conversation) = &mut self.conversation else {
            return Err(self.over());
        };
        let next = tokio::select! {
            biased;
            next = conversation.next(&mut self.input, silence_max) => Some(next),
            _reason = ending(&mut self.life) => None,
        };
        let next = match next {
            Some(next) => next,
            None => {
                // What was said before the end is still on its way.
                let last = conversation.next(&mut self.input, None);
                let last = tokio::time::timeout(LAST_WORDS_TIME_MAX, last).await;
                last.unwrap_or(Err(AgentError::Closed))
            }
        };
        match next {
            Ok(Incoming::Reply(Reply::Failed(failure))) => {
                self.finish();
                let error = refusal(failure);
                self.note(Some(error.kind));
                Err(error)
            }
            Ok(incoming) => Ok(incoming),
            Err(error) => Err(self.fail(error).await),
        }
    }

    /// Ends the conversation properly: its connection can serve another one.
    pub(super) fn finish(&mut self) {
        let Some(conversation) = self.conversation.take() else {
            return;
        };
        if let Some(stream) = conversation.into_idle(&self.input) {
            self.operation.0.pool.put(stream);
        }
        self.input = Input::none();
        self.note(None);
    }

    /// The connection as raw bytes, what of them has come already, and what
    /// keeps the operation open.
    ///
    /// # Errors
    /// When the conversation is over.
    pub(super) fn into_raw(mut self) -> Result<(Operation, AgentStream, Bytes)> {
        let conversation = self.conversation.take().ok_or_else(|| self.over())?;
        let (stream, beyond) = conversation.into_raw();
        self.note(None);
        Ok((self.operation, stream, beyond))
    }

    /// Ends the conversation for a fault of the agent or of the connection.
    pub(super) async fn fail(&mut self, error: AgentError) -> Error {
        self.conversation = None;
        self.input = Input::none();
        let error = self.explain(error).await;
        self.note(Some(error.kind));
        error
    }

    fn over(&self) -> Error {
        Error::internal(format!(
            "the operation in sandbox `{}` is over",
            self.operation.0.name
        ))
    }

    /// The error for the world: how the sandbox ended, if that explains it.
    async fn explain(&mut self, error: AgentError) -> Error {
        let name = &self.operation.0.name;
        // Of one that is still being made or started, its owner learns from this error.
        let is_made = !matches!(
            self.life.borrow().state(),
            State::Creating | State::Starting
        );
        if is_made && let Some(time_max) = error.reason_time_max() {
            let known = tokio::time::timeout(time_max, ending(&mut self.life));
            if let Ok(life) = known.await {
                return self.operation.0.over(&life);
            }
            if self.life.borrow().state() == State::Paused {
                return Error::conflict(format!(
                    "sandbox `{name}` was paused meanwhile; resume it and try again"
                ));
            }
        }
        match error {
            AgentError::Input(error) => error,
            AgentError::Request(_) => Error::invalid(error.to_string()),
            AgentError::InputSilent(_) => Error::timeout(error.to_string()),
            AgentError::Connect(_)
            | AgentError::Closed
            | AgentError::Broken(_)
            | AgentError::Frame(_)
            | AgentError::Oversized(_)
            | AgentError::Unexpected(_)
            | AgentError::Silent(_) => {
                tracing::warn!(sandbox = %self.operation.0.id, %error, "lost an agent");
                Error::lost(format!("sandbox `{name}`: {error}")).with_source(error)
            }
        }
    }
}
