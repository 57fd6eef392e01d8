//! The layer that measures both sides.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::Response,
};

use super::{
    Rollout,
    operation::{Operation, Outcome},
    window::Measured,
};
use crate::{Facade, error::ApiError, side::Side, toolbox::TRANSPORT_FAILED};

/// Where a creation goes since when, once that is decided; an extension of the
/// request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Goes(Arc<Mutex<Option<(Side, Instant)>>>);

impl Goes {
    /// Notes the side, which it goes to now.
    pub(crate) fn to(&self, side: Side) {
        *self.lock() = Some((side, Instant::now()));
    }

    /// How long it has been where it is.
    pub(crate) fn elapsed(&self) -> Option<Duration> {
        self.get().map(|(_, since)| since.elapsed())
    }

    fn get(&self) -> Option<(Side, Instant)> {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Side, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Measures a request, where there is a rollout.
pub(crate) async fn measure(
    State(facade): State<Facade>,
    mut request: Request,
    next: Next,
) -> Response {
    let operation = Operation::of(request.method(), request.uri().path());
    let (Some(rollout), Some(operation)) = (&facade.rollout, operation) else {
        return next.run(request).await;
    };
    let mut pending = Pending {
        rollout,
        operation,
        goes: Goes::default(),
        started: Instant::now(),
        is_open: true,
    };
    request.extensions_mut().insert(pending.goes.clone());
    let response = next.run(request).await;
    pending.answered(&response);
    response
}

/// A request without an answer yet. Dropped as such, it is one that the caller
/// did not wait for, or the victim of a fault.
struct Pending<'a> {
    rollout: &'a Rollout,
    operation: Operation,
    goes: Goes,
    started: Instant,
    is_open: bool,
}

impl Pending<'_> {
    fn answered(&mut self, response: &Response) {
        self.is_open = false;
        let side = response.extensions().get::<Side>();
        let mut side = side.copied().unwrap_or(Side::SandboxAi);
        let mut outcome = Outcome::of(self.operation, response.status());
        match response.extensions().get::<ApiError>() {
            Some(error) if error.code == TRANSPORT_FAILED => outcome = Some(Outcome::Refused),
            // What both sides are asked for, a list, fails when the upstream does
            // not answer. That is no reason to make new sandboxes there.
            Some(error) if error.status == StatusCode::BAD_GATEWAY => side = Side::Daytona,
            _ => {}
        }
        if let Some(outcome) = outcome {
            self.take_in(side, outcome, self.elapsed());
        }
    }

    /// The time that the side has had which the request is at.
    fn elapsed(&self) -> Duration {
        self.goes
            .elapsed()
            .unwrap_or_else(|| self.started.elapsed())
    }

    fn take_in(&self, side: Side, outcome: Outcome, duration: Duration) {
        let measured = Measured {
            operation: self.operation,
            outcome,
            duration,
        };
        self.rollout.take_in(side, &measured);
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if !self.is_open {
            return;
        }
        let elapsed = self.elapsed();
        if std::thread::panicking() {
            return self.take_in(Side::SandboxAi, Outcome::Failure, elapsed);
        }
        // Callers give up on a creation that takes too long: it must count, or
        // the slowest would be those that nobody sees.
        if let Some((side, _)) = self.goes.get()
            && elapsed > self.rollout.0.config.limits.create_p95_max
        {
            self.take_in(side, Outcome::Failure, elapsed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::rollout::{Limits, RolloutConfig, Share};

    fn rollout(folder: &tempfile::TempDir) -> Rollout {
        let config = RolloutConfig {
            upstream: "https://daytona.test/api".to_owned(),
            share: Share::ALL,
            sticky_label: "id".to_owned(),
            fallback: true,
            window: Duration::from_secs(300),
            limits: Limits {
                create_p95_max: Duration::from_secs(2),
                ..Limits::default()
            },
            state_file: folder.path().join("rollout.json"),
        };
        Rollout::open(config).unwrap()
    }

    fn pending(rollout: &Rollout) -> Pending<'_> {
        Pending {
            rollout,
            operation: Operation::Create,
            goes: Goes::default(),
            started: Instant::now(),
            is_open: true,
        }
    }

    #[test]
    fn a_fault_of_ours_is_a_failure_here() {
        let folder = tempfile::tempdir().unwrap();
        let rollout = rollout(&folder);
        let fault = || {
            let _pending = pending(&rollout);
            panic!("shown by the test runner, as it should be");
        };
        assert!(catch_unwind(AssertUnwindSafe(fault)).is_err());
        assert_eq!(rollout.status().sides.sandboxai.creation_failures, 1);
    }

    #[test]
    fn who_answered_and_whose_fault_it_was_is_told_by_the_answer() {
        use axum::response::IntoResponse as _;

        let folder = tempfile::tempdir().unwrap();
        let rollout = rollout(&folder);
        let answered = |answer: Response| pending(&rollout).answered(&answer);
        answered(StatusCode::OK.into_response());
        answered(StatusCode::UNAUTHORIZED.into_response());
        // A repository elsewhere that is not there.
        let error = ApiError::new(StatusCode::BAD_GATEWAY, "").with_code(TRANSPORT_FAILED);
        answered(error.into_response());
        let mut there = StatusCode::BAD_GATEWAY.into_response();
        there.extensions_mut().insert(Side::Daytona);
        answered(there);
        // A list that lacks the upstream's part.
        answered(ApiError::new(StatusCode::BAD_GATEWAY, "").into_response());
        let sides = rollout.status().sides;
        assert_eq!((sides.sandboxai.requests, sides.sandboxai.failures), (2, 0));
        assert_eq!((sides.daytona.requests, sides.daytona.failures), (2, 2));
    }

    #[test]
    fn a_creation_that_nobody_waited_for_counts_for_its_side_when_it_took_too_long() {
        let folder = tempfile::tempdir().unwrap();
        let rollout = rollout(&folder);
        let since = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds));
        let mut undecided = pending(&rollout);
        undecided.started = since(5).unwrap();
        drop(undecided);
        let fresh = pending(&rollout);
        fresh.goes.to(Side::Daytona);
        drop(fresh);
        assert_eq!(rollout.status().sides.daytona.requests, 0);
        let late = pending(&rollout);
        *late.goes.lock() = Some((Side::Daytona, since(5).unwrap()));
        drop(late);
        let sides = rollout.status().sides;
        assert_eq!(sides.sandboxai.requests, 0);
        assert_eq!((sides.daytona.requests, sides.daytona.failures), (1, 1));
    }
}
