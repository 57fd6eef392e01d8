//! What a request asks for, and how it went, as far as a rollout wants to know.

use axum::http::{Method, StatusCode};

/// What is told apart in what is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Operation {
    /// A new sandbox.
    Create,
    /// Starting one that was stopped.
    Start,
    /// Stopping one.
    Stop,
    /// Deleting one.
    Delete,
    /// The rest of the control plane.
    Other,
    /// Work inside a sandbox.
    Toolbox,
}

impl Operation {
    /// All of them.
    pub(crate) const ALL: [Self; 6] = [
        Self::Create,
        Self::Start,
        Self::Stop,
        Self::Delete,
        Self::Other,
        Self::Toolbox,
    ];

    /// Its name in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Delete => "delete",
            Self::Other => "other",
            Self::Toolbox => "toolbox",
        }
    }

    /// What a request asks for; `None` for what says nothing about either side:
    /// the check of health, events, files for builds.
    pub(crate) fn of(method: &Method, path: &str) -> Option<Self> {
        if path.starts_with("/toolbox/") || path.starts_with("/api/toolbox/") {
            return Some(Self::Toolbox);
        }
        let mut components = path.strip_prefix("/api/")?.split('/');
        let first = components.next()?;
        if matches!(first, "health" | "socket.io") {
            return None;
        }
        let (second, third) = (components.next(), components.next());
        let is = |wanted: Method| *method == wanted;
        Some(match (first, second, third) {
            ("sandbox", None | Some(""), None) if is(Method::POST) => Self::Create,
            ("sandbox", Some(_), None | Some("")) if is(Method::DELETE) => Self::Delete,
            ("sandbox", Some(_), Some("start" | "recover")) if is(Method::POST) => Self::Start,
            ("sandbox", Some(_), Some("stop")) if is(Method::POST) => Self::Stop,
            _ => Self::Other,
        })
    }
}

/// How a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    /// Done.
    Success,
    /// Not done, for a reason that lies with the caller.
    Refused,
    /// Not done, for a reason that lies with the side that was asked.
    Failure,
}

impl Outcome {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Success, Self::Refused, Self::Failure];

    /// Its name in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Refused => "refused",
            Self::Failure => "failure",
        }
    }

    /// By the status of an answer; `None` for callers without a key, who could
    /// else make failures look rare.
    pub(crate) fn of(operation: Operation, status: StatusCode) -> Option<Self> {
        Some(match status {
            StatusCode::UNAUTHORIZED => return None,
            // What is not there on purpose is no fault.
            StatusCode::NOT_IMPLEMENTED => Self::Refused,
            // A sandbox was lost with what it was working at.
            StatusCode::GONE => Self::Failure,
            // There is no place for another sandbox, or it was not made in time.
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
                if operation == Operation::Create =>
            {
                Self::Failure
            }
            status if status.is_server_error() => Self::Failure,
            status if status.is_client_error() => Self::Refused,
            _ => Self::Success,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_told_by_method_and_path() {
        let of = |text: &str| {
            let (method, path) = text.split_once(' ').unwrap();
            Operation::of(&method.parse().unwrap(), path).map(Operation::as_str)
        };
        for (request, operation) in [
            ("POST /api/sandbox", Some("create")),
            ("GET /api/sandbox", Some("other")),
            ("GET /api/sandbox/paginated", Some("other")),
            ("DELETE /api/sandbox/x", Some("delete")),
            ("POST /api/sandbox/x/start", Some("start")),
            ("POST /api/sandbox/x/recover", Some("start")),
            ("POST /api/sandbox/x/stop", Some("stop")),
            ("POST /api/sandbox/x/autostop/5", Some("other")),
            ("DELETE /api/snapshots/x", Some("other")),
            ("POST /toolbox/x/process/execute", Some("toolbox")),
            ("GET /api/toolbox/x/toolbox/files", Some("toolbox")),
            ("GET /api/health", None),
            ("GET /api/socket.io/", None),
            ("PUT /s3/daytona/x", None),
            ("GET /v1/rollout", None),
        ] {
            assert_eq!(of(request), operation, "{request}");
        }
    }

    #[test]
    fn the_fault_of_a_side_is_told_from_the_callers() {
        let of = |operation, status: u16| Outcome::of(operation, status.try_into().unwrap());
        for (status, create, toolbox) in [
            (200, Outcome::Success, Outcome::Success),
            (101, Outcome::Success, Outcome::Success),
            (400, Outcome::Refused, Outcome::Refused),
            (404, Outcome::Refused, Outcome::Refused),
            (408, Outcome::Failure, Outcome::Refused),
            (410, Outcome::Failure, Outcome::Failure),
            (429, Outcome::Failure, Outcome::Refused),
            (500, Outcome::Failure, Outcome::Failure),
            (501, Outcome::Refused, Outcome::Refused),
            (502, Outcome::Failure, Outcome::Failure),
            (503, Outcome::Failure, Outcome::Failure),
        ] {
            assert_eq!(of(Operation::Create, status), Some(create), "{status}");
            assert_eq!(of(Operation::Toolbox, status), Some(toolbox), "{status}");
        }
        assert_eq!(of(Operation::Other, 401), None);
    }
}
