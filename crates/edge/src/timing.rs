//! `Server-Timing`: where the time of a request went.

use std::{fmt::Write, time::Duration};

use axum::http::{HeaderName, HeaderValue};
use sandbox::StepTime;

/// The header.
pub const HEADER: HeaderName = HeaderName::from_static("server-timing");

/// Most phases told of one request; a creation has about ten.
const PHASES_MAX: usize = 32;

/// Phases that a handler measured, in order; an extension of the response.
#[derive(Clone, Debug, Default)]
pub struct Phases(pub Vec<StepTime>);

/// `total;dur=12.345, mounts;dur=0.400`, durations in milliseconds.
#[must_use]
pub fn header(total: Duration, phases: &Phases) -> HeaderValue {
    let mut text = format!("total;dur={}", milliseconds(total));
    for phase in phases.0.iter().take(PHASES_MAX) {
        // Writing to a String does not fail.
        let _ = write!(
            text,
            ", {};dur={}",
            token(&phase.step),
            milliseconds(phase.duration)
        );
    }
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("total"))
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.3}", duration.as_secs_f64() * 1000.0)
}

/// The name of a step as an HTTP token.
fn token(step: &str) -> String {
    let replaced = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') {
            c
        } else {
            '_'
        }
    };
    step.chars().map(replaced).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_has_the_standard_form() {
        let phases = Phases(vec![StepTime {
            step: "first ping, \"x\"".into(),
            duration: Duration::from_micros(1500),
        }]);
        assert_eq!(
            header(Duration::from_millis(12), &phases).to_str().unwrap(),
            "total;dur=12.000, first_ping___x_;dur=1.500"
        );
    }
}
