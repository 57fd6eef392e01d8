//! `sandboxai rollout`

use facade_daytona::rollout::Share;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Context;
use crate::{exit_code::ExitCode, failure::Failure};

/// Changes shown by `status`; `--json` has all that are remembered.
const CHANGES_SHOWN: usize = 5;

/// The subcommands.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Rollout {
    /// Show the share, and what both sides did lately
    Status,
    /// Set the share of new sandboxes that is made on this server
    Set {
        /// From 0 to 100
        #[arg(value_name = "PERCENT", value_parser = share, allow_negative_numbers = true)]
        share: f64,
    },
    /// Make all new sandboxes at the upstream; those that are here go on
    Rollback {
        /// What to remember as the reason
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
}

fn share(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').parse().ok();
    number
        .and_then(Share::new)
        .map(Share::percent)
        .ok_or_else(|| "a number from 0 to 100 is expected".to_owned())
}

pub(super) async fn main(context: &Context, rollout: &Rollout) -> Result<ExitCode, Failure> {
    let client = context.client()?;
    let status = match rollout {
        Rollout::Status => client.path("/v1/rollout").get().await?,
        Rollout::Set { share } => {
            let body = json!({ "share": share });
            client.path("/v1/rollout").put(&body).await?
        }
        Rollout::Rollback { reason } => {
            let body = json!({ "reason": reason });
            client.path("/v1/rollout/rollback").post(&body).await?
        }
    };
    if context.output.json {
        context.output.json(&status)?;
    } else {
        show(context, &status)?;
    }
    Ok(ExitCode::Ok)
}

fn show(context: &Context, status: &Value) -> Result<(), Failure> {
    let output = context.output;
    output.line(format!(
        "{} % of new sandboxes are made here, since {} ({})",
        number(&status["share"]),
        moment(&status["since"]),
        text(&status["reason"]),
    ))?;
    output.line(format!(
        "the others at {}; measured: the last {} s",
        text(&status["upstream"]),
        number(&status["window_seconds"])
    ))?;
    output.line("")?;
    output.table(&["", "SANDBOXAI", "DAYTONA"], rows(&status["sides"]))?;
    output.line("")?;
    let changes = status["history"].as_array();
    let changes = changes.into_iter().flatten().take(CHANGES_SHOWN);
    let changes = changes.map(|change| {
        vec![
            moment(&change["at"]),
            format!("{} %", number(&change["share"])),
            text(&change["reason"]),
        ]
    });
    output.table(&["CHANGED", "SHARE", "REASON"], changes.collect())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

/// A time, to the second.
fn moment(value: &Value) -> String {
    let time = value.as_str().and_then(|time| time.parse().ok());
    time.map_or_else(
        || text(value),
        |time: Timestamp| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
    )
}

/// A number without needless zeros.
fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

/// Both sides side by side.
fn rows(sides: &Value) -> Vec<Vec<String>> {
    type Shown = fn(&Value) -> String;
    let count: Shown = Value::to_string;
    let percent: Shown = |value: &Value| format!("{:.2} %", number(value) * 100.0);
    let seconds: Shown = |value: &Value| {
        value
            .as_f64()
            .map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.3} s"))
    };
    let lines: [(&str, &str, Shown); 8] = [
        ("made since the start", "sandboxes_created_total", count),
        ("requests", "requests", count),
        ("failed", "failures", count),
        ("error rate", "error_rate", percent),
        ("creations", "creations", count),
        ("creations failed", "creation_failures", count),
        ("creation, median", "create_p50_seconds", seconds),
        ("creation, 95 of 100", "create_p95_seconds", seconds),
    ];
    let lines = lines.map(|(title, field, shown)| {
        let side = |name: &str| shown(&sides[name][field]);
        vec![title.to_owned(), side("sandboxai"), side("daytona")]
    });
    lines.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_to_the_second() {
        assert_eq!(
            moment(&"2026-11-27T17:55:31.54459233Z".into()),
            "2026-11-27 17:55:31Z"
        );
        assert_eq!(moment(&Value::Null), "-");
    }

    #[test]
    fn a_share_may_have_its_sign() {
        assert_eq!(share("50").ok(), Some(50.0));
        assert_eq!(share("12.5%").ok(), Some(12.5));
        for bad in ["", "%", "-1", "100.1", "NaN", "half"] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn both_sides_stand_beside_each_other() {
        let side = |created: u32, seconds: Value| {
            json!({
                "sandboxes_created_total": created, "requests": 40, "failures": 1,
                "error_rate": 0.025, "creations": 3, "creation_failures": 0,
                "create_p50_seconds": seconds, "create_p95_seconds": null,
            })
        };
        let sides = json!({ "sandboxai": side(7, json!(0.25)), "daytona": side(8, json!(null)) });
        let rows = rows(&sides);
        assert_eq!(rows[0], ["made since the start", "7", "8"]);
        assert_eq!(rows[3], ["error rate", "2.50 %", "2.50 %"]);
        assert_eq!(rows[6], ["creation, median", "0.250 s", "-"]);
    }
}
