//! What `/metrics` tells.

use crate::{cli::client::Client, failure::Failure};

/// Kinds of errors that are not the caller's fault.
const OUR_ERRORS: [&str; 3] = ["internal", "unavailable", "sandbox_lost"];

/// One line of the page.
#[derive(Clone, Debug, PartialEq)]
struct Sample {
    name: String,
    /// As it is written: `a="b",c="d"`.
    labels: String,
    value: f64,
}

impl Sample {
    fn has(&self, label: &str, value: &str) -> bool {
        let wanted = format!("{label}=\"{value}\"");
        self.labels.split(',').any(|label| label == wanted)
    }
}

/// All lines of the page.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics(Vec<Sample>);

impl Metrics {
    pub(super) async fn read(client: &Client) -> Result<Self, Failure> {
        Ok(Self::parse(&client.path("/metrics").text().await?))
    }

    /// The text format of Prometheus; lines that are none are left out.
    pub(super) fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        Self(samples.filter_map(sample).collect())
    }

    fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| sample.name == name)
    }

    fn sum(&self, name: &str) -> f64 {
        self.of(name).map(|sample| sample.value).sum()
    }

    /// How long the server has run, seconds; none when the page is not ours.
    pub(super) fn uptime(&self) -> Option<f64> {
        self.of("sandboxai_uptime_seconds")
            .map(|sample| sample.value)
            .next()
    }

    /// Operations since the start of the server.
    pub(super) fn operations(&self) -> f64 {
        self.sum("sandbox_operations_total")
    }

    /// Operations that failed for a fault of the server or the host.
    pub(super) fn faults(&self) -> f64 {
        self.of("sandboxai_errors_total")
            .filter(|sample| OUR_ERRORS.iter().any(|kind| sample.has("kind", kind)))
            .map(|sample| sample.value)
            .sum()
    }

    /// How many creations there were, and a time that 95 of 100 did not take
    /// longer than, seconds: the bound of the histogram above it.
    pub(super) fn creations(&self) -> (f64, f64) {
        let mut buckets: Vec<(f64, f64)> = self
            .of("sandbox_operation_duration_seconds_bucket")
            .filter(|sample| sample.has("operation_type", "create"))
            .filter_map(|sample| {
                let bound = sample
                    .labels
                    .split(',')
                    .find_map(|label| label.strip_prefix("le=\""))?;
                let bound = bound.trim_end_matches('"');
                let bound = if bound == "+Inf" {
                    f64::INFINITY
                } else {
                    bound.parse().ok()?
                };
                Some((bound, sample.value))
            })
            .collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let all = buckets.last().map_or(0.0, |(_, count)| *count);
        let found = buckets.iter().find(|(_, count)| *count >= all * 0.95);
        (all, found.map_or(0.0, |(bound, _)| *bound))
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    Some(Sample {
        name: name.to_owned(),
        labels: labels.trim_end_matches('}').to_owned(),
        value: value.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
# TYPE sandbox_operations counter
sandbox_operations_total{operation_type=\"create\",status=\"success\"} 19
sandbox_operations_total{operation_type=\"create\",status=\"failure\"} 1
sandboxai_errors_total{kind=\"internal\"} 1
sandboxai_errors_total{kind=\"not_found\"} 7
sandboxai_uptime_seconds 12.5
sandbox_operation_duration_seconds_bucket{le=\"0.1\",operation_type=\"create\"} 10
sandbox_operation_duration_seconds_bucket{le=\"0.5\",operation_type=\"create\"} 19
sandbox_operation_duration_seconds_bucket{le=\"+Inf\",operation_type=\"create\"} 20
sandbox_operation_duration_seconds_bucket{le=\"0.1\",operation_type=\"delete\"} 99
# EOF
";

    #[test]
    fn the_page_is_understood() {
        let metrics = Metrics::parse(PAGE);
        assert_eq!(metrics.uptime(), Some(12.5));
        assert_eq!((metrics.operations(), metrics.faults()), (20.0, 1.0));
        assert_eq!(metrics.creations(), (20.0, 0.5));
    }

    #[test]
    fn other_pages_have_nothing() {
        let metrics = Metrics::parse("<html>\nup 1\n");
        assert_eq!((metrics.uptime(), metrics.operations()), (None, 0.0));
        assert_eq!(metrics.creations(), (0.0, 0.0));
    }
}
