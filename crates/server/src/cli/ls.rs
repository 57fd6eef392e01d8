//! `sandboxai ls`

use jiff::Timestamp;
use serde_json::Value;

use super::Context;
use crate::{exit_code::ExitCode, failure::Failure};

/// Arguments of `ls`.
#[derive(Debug, clap::Args)]
pub(super) struct Ls {
    /// Only those with this label; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = super::variable)]
    labels: Vec<(String, String)>,
}

pub(super) async fn main(context: &Context, ls: &Ls) -> Result<ExitCode, Failure> {
    let client = context.client()?;
    let labels: Vec<String> = ls
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut target = client.sandboxes();
    if !labels.is_empty() {
        target = target.query("labels", labels.join(","));
    }
    let answer = target.get().await?;
    let sandboxes = &answer["sandboxes"];
    if context.output.json {
        context.output.json(sandboxes)?;
        return Ok(ExitCode::Ok);
    }
    let rows = sandboxes
        .as_array()
        .map(|sandboxes| sandboxes.iter().map(row).collect())
        .unwrap_or_default();
    context.output.table(
        &["NAME", "IMAGE", "STATE", "CREATED", "NETWORK", "CLASS"],
        rows,
    )?;
    Ok(ExitCode::Ok)
}

fn row(sandbox: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    vec![
        text(&sandbox["name"]),
        text(&sandbox["spec"]["image"]),
        text(&sandbox["status"]["state"]),
        sandbox["status"]["created_at"]
            .as_str()
            .and_then(|text| text.parse::<Timestamp>().ok())
            .map_or_else(|| "-".to_owned(), |then| ago(Timestamp::now(), then)),
        text(&sandbox["spec"]["network"]),
        text(&sandbox["spec"]["runtime_class"]),
    ]
}

/// How long ago that was, in one unit.
fn ago(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs().max(0);
    for (unit, length) in [("day", 86_400), ("hour", 3600), ("minute", 60)] {
        let count = seconds / length;
        if count > 0 {
            let plural = if count == 1 { "" } else { "s" };
            return format!("{count} {unit}{plural} ago");
        }
    }
    format!("{seconds} s ago")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_one_unit() {
        let then: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let after = |text: &str| ago(text.parse().unwrap(), then);
        assert_eq!(after("2026-01-01T00:00:59Z"), "59 s ago");
        assert_eq!(after("2026-01-01T00:01:00Z"), "1 minute ago");
        assert_eq!(after("2026-01-01T05:59:00Z"), "5 hours ago");
        assert_eq!(after("2026-01-03T05:59:00Z"), "2 days ago");
        assert_eq!(after("2025-12-31T00:00:00Z"), "0 s ago");
    }
}
