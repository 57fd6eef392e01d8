//! From a sandbox in whatever state to an open connection, or a quick answer why not.

use std::time::Duration;

use axum::http::StatusCode;
use control::{PortStream, Sandbox};
use sandbox::{Kind, State};

use super::{Previews, refusal::Refusal};

/// How long a sandbox may take to connect to one of its own ports.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a visit waits for a sandbox to start.
const START_TIME_MAX: Duration = Duration::from_secs(60);

impl Previews {
    /// Connects to a port of a sandbox, which is started first if that is configured.
    pub(super) async fn connect(
        &self,
        sandbox: &Sandbox,
        port: u16,
    ) -> Result<PortStream, Refusal> {
        match sandbox.state {
            State::Running => {}
            State::Paused | State::Stopped | State::Archived if self.config.auto_start => {
                self.start(sandbox).await?;
            }
            State::Paused | State::Stopped | State::Archived => {
                return Err(Refusal::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!(
                        "This sandbox is {}. Its ports answer when it is started again.",
                        sandbox.state
                    ),
                ));
            }
            State::Gone | State::Failed => {
                return Err(Refusal::new(
                    StatusCode::NOT_FOUND,
                    "This sandbox was deleted.",
                ));
            }
            State::Creating
            | State::Starting
            | State::Restoring
            | State::Stopping
            | State::Archiving => return Err(not_ready(sandbox.state)),
        }
        let connecting = self
            .control
            .connect_port(&sandbox.space, &sandbox.name, port);
        let Ok(connected) = tokio::time::timeout(CONNECT_TIME_MAX, connecting).await else {
            return Err(Refusal::transient(
                StatusCode::GATEWAY_TIMEOUT,
                format!("Port {port} inside the sandbox did not take a connection in time."),
            ));
        };
        connected.map_err(|error| match error.kind {
            Kind::NotFound => Refusal::transient(
                StatusCode::BAD_GATEWAY,
                format!(
                    "Nothing listens on port {port} inside the sandbox. If a program is starting there, it is not ready."
                ),
            ),
            Kind::Conflict | Kind::Unavailable | Kind::SandboxLost | Kind::LimitReached => {
                Refusal::transient(
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("Port {port} is temporarily unavailable: {}", error.message),
                )
            }
            _ => {
                if error.kind == Kind::Internal {
                    tracing::error!(%error, port, "cannot connect to a port");
                }
                Refusal::transient(
                    StatusCode::BAD_GATEWAY,
                    format!("Port {port} cannot be reached: {}", error.message),
                )
            }
        })
    }

    async fn start(&self, sandbox: &Sandbox) -> Result<(), Refusal> {
        let starting = self.control.start_again(&sandbox.space, &sandbox.name);
        match tokio::time::timeout(START_TIME_MAX, starting).await {
            Ok(Ok(_)) => Ok(()),
            Err(_) => Err(not_ready(State::Starting)),
            // Another visit starts it.
            Ok(Err(error)) if error.kind == Kind::Conflict => Err(not_ready(State::Starting)),
            Ok(Err(error)) => Err(Refusal::transient(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("This sandbox could not be started: {}", error.message),
            )),
        }
    }
}

fn not_ready(state: State) -> Refusal {
    Refusal::transient(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("This sandbox is {state} and not ready."),
    )
}
