//! What the rollout in the server tells, `GET /v1/rollout`.

use jiff::Timestamp;
use sandbox::check::Check;
use serde::Deserialize;

use crate::{cli::client::Client, exit_code::ExitCode, failure::Failure};

/// The shares that a rollout goes through, percent.
const STAGES: [f64; 3] = [10.0, 50.0, 100.0];
/// How a change begins that was a step back.
const ROLLED_BACK: &str = "rolled back";

/// The answer, as far as it is of interest here.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Rollout {
    pub(super) upstream: String,
    pub(super) share: f64,
    window_seconds: f64,
    limits: Limits,
    sides: Sides,
    history: Vec<Change>,
}

#[derive(Clone, Debug, Deserialize)]
struct Limits {
    error_rate_max: f64,
    requests_min: u64,
    create_p95_max_seconds: f64,
    creations_min: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct Sides {
    sandboxai: Side,
    daytona: Side,
}

#[derive(Clone, Debug, Deserialize)]
struct Side {
    requests: u64,
    error_rate: f64,
    creations: u64,
    create_p95_seconds: Option<f64>,
}

#[derive(Clone, Debug, Deserialize)]
struct Change {
    at: Timestamp,
    share: f64,
    reason: String,
}

impl Rollout {
    /// None when the server has no upstream.
    pub(super) async fn read(client: &Client) -> Result<Option<Self>, Failure> {
        match client.path("/v1/rollout").get().await {
            Ok(answer) => serde_json::from_value(answer)
                .map(Some)
                .map_err(Failure::to(
                    "the server tells its rollout in other words than this program knows",
                )),
            Err(failure) if failure.code == ExitCode::NotFound => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// 10, 50 and 100 percent in this order, each for a window at least, in which
    /// the server could have gone back by itself, and no step back since.
    pub(super) fn stages(&self, name: &str, now: Timestamp) -> Check {
        let mut reached: Vec<String> = Vec::new();
        let mut note = String::new();
        // The oldest first, each with the time of the next.
        let ends = std::iter::once(now).chain(self.history.iter().map(|change| change.at));
        let course: Vec<_> = self.history.iter().zip(ends).collect();
        for (change, end) in course.into_iter().rev() {
            let at = change.at.strftime("%Y-%m-%dT%H:%M:%SZ");
            let lasted = end.duration_since(change.at).as_secs_f64();
            if change.share <= 0.0 || change.reason.starts_with(ROLLED_BACK) {
                if !reached.is_empty() {
                    note = format!("; begun anew: {} at {at}", change.reason);
                }
                reached.clear();
            } else if STAGES
                .get(reached.len())
                .is_some_and(|stage| change.share >= *stage)
            {
                if lasted < self.window_seconds {
                    note = format!(
                        "; {} % has lasted only {lasted:.0} s, and failures are counted over {:.0} s",
                        change.share, self.window_seconds
                    );
                    continue;
                }
                reached.push(format!("{} % since {at}", change.share));
            }
        }
        let told = reached.join(", ");
        if reached.len() == STAGES.len() && self.share >= 100.0 {
            return Check::pass(name, told);
        }
        let next = STAGES.get(reached.len()).copied().unwrap_or(100.0);
        let finding = match reached.is_empty() {
            true => format!("no stage was passed; the share is {} %{note}", self.share),
            false => format!("only {told}; the share is {} %{note}", self.share),
        };
        Check::fail(name, finding).fix(format!(
            "when the stage before has run long enough: `sandboxai rollout set {next}`; `sandboxai rollout status` shows both sides"
        ))
    }

    /// Whether our side fails no more than it may.
    pub(super) fn errors(&self, name: &str) -> Check {
        let (ours, theirs, limits) = (&self.sides.sandboxai, &self.sides.daytona, &self.limits);
        let percent = |rate: f64| format!("{:.1} %", rate * 100.0);
        let finding = format!(
            "{} of {} requests here failed in the last {:.0} s, {} of {} at Daytona; at most {} may",
            percent(ours.error_rate),
            ours.requests,
            self.window_seconds,
            percent(theirs.error_rate),
            theirs.requests,
            percent(limits.error_rate_max),
        );
        if ours.requests < limits.requests_min {
            return Check::fail(name, format!("too few to judge: {finding}")).fix(format!(
                "run this while SUNA is in use: it takes {} requests",
                limits.requests_min
            ));
        }
        if ours.error_rate > limits.error_rate_max {
            return Check::fail(name, finding)
                .fix("the log names each with its request id: `journalctl -u sandboxai --grep 'WARN|ERROR'`; `sandboxai rollout rollback` sends new sandboxes to Daytona meanwhile");
        }
        Check::pass(name, finding)
    }

    /// Whether our side makes sandboxes as fast as it must.
    pub(super) fn speed(&self, name: &str) -> Check {
        let (ours, limits) = (&self.sides.sandboxai, &self.limits);
        let seconds =
            |p95: Option<f64>| p95.map_or("nothing".to_owned(), |p95| format!("{p95:.3} s"));
        let finding = format!(
            "95 of 100 of {} creations here took {} at most in the last {:.0} s, {} at Daytona; at most {} s may be taken",
            ours.creations,
            seconds(ours.create_p95_seconds),
            self.window_seconds,
            seconds(self.sides.daytona.create_p95_seconds),
            limits.create_p95_max_seconds,
        );
        match ours.create_p95_seconds {
            Some(p95) if ours.creations >= limits.creations_min => {
                if p95 <= limits.create_p95_max_seconds {
                    Check::pass(name, finding)
                } else {
                    Check::fail(name, finding).fix("`sandboxai_creation_phase_seconds` in /metrics tells which phase takes the time; look at CPU and disk")
                }
            }
            _ => Check::fail(name, format!("too few to judge: {finding}")).fix(format!(
                "run this while SUNA is in use: it takes {} creations",
                limits.creations_min
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use sandbox::check::Status;
    use serde_json::{Value, json};

    use super::*;

    /// With a history told from the oldest to the newest, ten minutes apart.
    fn rollout(history: &[(f64, &str)], sides: &Value) -> Rollout {
        let share = history.last().map_or(0.0, |(share, _)| *share);
        let changes: Vec<Value> = (0..)
            .zip(history)
            .map(|(number, (share, reason))| {
                let at = Timestamp::from_second(number * 600).unwrap();
                json!({ "at": at.to_string(), "share": share, "reason": reason })
            })
            .collect();
        let newest_first: Vec<Value> = changes.into_iter().rev().collect();
        serde_json::from_value(json!({
            "upstream": "https://daytona.example/api", "share": share, "since": "1970-01-01T00:00:00Z",
            "reason": "set by a client", "window_seconds": 300.0,
            "limits": { "error_rate_max": 0.05, "requests_min": 20, "create_p95_max_seconds": 10.0, "creations_min": 10 },
            "sides": sides, "history": newest_first,
        }))
        .unwrap()
    }

    fn side(requests: u64, error_rate: f64, creations: u64, p95: Option<f64>) -> Value {
        json!({ "sandboxes_created_total": 1, "requests": requests, "failures": 0, "error_rate": error_rate,
                "creations": creations, "creation_failures": 0, "create_p50_seconds": p95, "create_p95_seconds": p95 })
    }

    fn with(ours: Value) -> Rollout {
        rollout(
            &[(10.0, "configured")],
            &json!({ "sandboxai": ours, "daytona": side(0, 0.0, 0, None) }),
        )
    }

    /// Ten minutes after the last change.
    fn stages(history: &[(f64, &str)]) -> Check {
        stages_at(history, 600 * i64::try_from(history.len()).unwrap())
    }

    fn stages_at(history: &[(f64, &str)], now_s: i64) -> Check {
        let idle = side(0, 0.0, 0, None);
        let sides = json!({ "sandboxai": idle, "daytona": idle });
        rollout(history, &sides).stages("stages", Timestamp::from_second(now_s).unwrap())
    }

    #[test]
    fn every_stage_must_have_been_reached_in_order() {
        let set = "set by a client";
        let good = stages(&[(0.0, "configured"), (10.0, set), (50.0, set), (100.0, set)]);
        assert_eq!(good.status, Status::Pass, "{good:?}");
        assert_eq!(
            good.finding,
            "10 % since 1970-01-01T00:10:00Z, 50 % since 1970-01-01T00:20:00Z, 100 % since 1970-01-01T00:30:00Z"
        );
        let jumped = stages(&[(0.0, "configured"), (100.0, set)]);
        assert_eq!(jumped.status, Status::Fail);
        assert!(jumped.fix.unwrap().contains("sandboxai rollout set 50"));
        let back = stages(&[
            (10.0, set),
            (50.0, set),
            (0.0, "rolled back: 9 of 20 failed"),
        ]);
        assert_eq!(
            back.finding,
            "no stage was passed; the share is 0 %; begun anew: rolled back: 9 of 20 failed at 1970-01-01T00:20:00Z"
        );
        let again = stages(&[
            (50.0, set),
            (0.0, "rolled back: x"),
            (10.0, set),
            (50.0, set),
            (100.0, set),
        ]);
        assert_eq!(again.status, Status::Pass);
        let lowered = stages(&[(10.0, set), (50.0, set), (100.0, set), (20.0, set)]);
        assert_eq!(lowered.status, Status::Fail);
        assert_eq!(stages(&[]).finding, "no stage was passed; the share is 0 %");
    }

    #[test]
    fn a_stage_must_have_lasted_for_a_window() {
        let history = [(10.0, ""), (50.0, ""), (100.0, "")];
        assert_eq!(stages_at(&history, 1500).status, Status::Pass);
        let short = stages_at(&history, 1499);
        assert_eq!(short.status, Status::Fail);
        assert!(
            short
                .finding
                .ends_with("; 100 % has lasted only 299 s, and failures are counted over 300 s"),
            "{short:?}"
        );
    }

    #[test]
    fn errors_are_judged_by_the_rollouts_own_limits() {
        assert_eq!(
            with(side(100, 0.05, 0, None)).errors("e").status,
            Status::Pass
        );
        let bad = with(side(100, 0.06, 0, None)).errors("e");
        assert!(
            bad.finding
                .starts_with("6.0 % of 100 requests here failed in the last 300 s"),
            "{bad:?}"
        );
        let few = with(side(19, 0.0, 0, None)).errors("e");
        assert_eq!(few.status, Status::Fail);
        assert!(few.finding.starts_with("too few to judge"));
    }

    #[test]
    fn creations_are_judged_by_the_rollouts_own_limits() {
        assert_eq!(
            with(side(0, 0.0, 10, Some(9.9))).speed("s").status,
            Status::Pass
        );
        assert_eq!(
            with(side(0, 0.0, 10, Some(10.1))).speed("s").status,
            Status::Fail
        );
        assert_eq!(
            with(side(0, 0.0, 9, Some(0.1))).speed("s").status,
            Status::Fail
        );
        assert_eq!(with(side(0, 0.0, 0, None)).speed("s").status, Status::Fail);
    }
}
