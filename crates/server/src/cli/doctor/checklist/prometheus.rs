//! What a Prometheus knows of this server:
//! <https://prometheus.io/docs/prometheus/latest/querying/api/>.

use serde_json::Value;

use crate::{cli::client::Client, failure::Failure};

/// The rules that are delivered.
const RULES: &str = include_str!("../../../../../../deploy/prometheus/alerts.yml");
/// How much two clocks and a scrape may differ about the start of a server, seconds.
const START_TOLERANCE_S: f64 = 10.0;
/// When each server that is scraped was started; the time of a sample is the scrape's.
const STARTS: &str = "timestamp(sandboxai_uptime_seconds) - sandboxai_uptime_seconds";

/// A Prometheus.
pub(super) struct Prometheus(Client);

impl Prometheus {
    pub(super) fn at(url: &str) -> Result<Self, Failure> {
        Client::new(url, sandbox::Space::default(), None).map(Self)
    }

    /// The instance that this server is there, by the time of its start.
    pub(super) async fn instance_started_at(
        &self,
        start_s: f64,
    ) -> Result<Option<String>, Failure> {
        let answer = self.query(STARTS).await?;
        Ok(instance_of(&answer, start_s))
    }

    /// Operations of the instance that it has counted.
    pub(super) async fn operations(&self, instance: &str) -> Result<f64, Failure> {
        let query = format!("sum(sandbox_operations_total{{instance=\"{instance}\"}})");
        let answer = self.query(&query).await?;
        Ok(vector(&answer).map(|(_, value)| value).sum())
    }

    /// Our rules that it has not, and those that it cannot evaluate.
    pub(super) async fn missing_rules(&self) -> Result<Vec<String>, Failure> {
        let answer = self
            .0
            .path("/api/v1/rules")
            .query("type", "alert")
            .get()
            .await?;
        Ok(missing(&answer))
    }

    /// Whether alerts are told to somebody.
    pub(super) async fn has_alertmanager(&self) -> Result<bool, Failure> {
        let answer = self.0.path("/api/v1/alertmanagers").get().await?;
        let active = answer["data"]["activeAlertmanagers"].as_array();
        Ok(active.is_some_and(|active| !active.is_empty()))
    }

    pub(super) fn url(&self) -> &str {
        self.0.base()
    }

    async fn query(&self, query: &str) -> Result<Value, Failure> {
        self.0
            .path("/api/v1/query")
            .query("query", query)
            .get()
            .await
    }
}

/// How many rules are delivered.
pub(super) fn rules_delivered() -> usize {
    names().count()
}

fn names() -> impl Iterator<Item = &'static str> {
    let names = RULES
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert:"));
    names.map(str::trim)
}

/// The series of an answer: its labels and its value.
fn vector(answer: &Value) -> impl Iterator<Item = (&Value, f64)> {
    let series = answer["data"]["result"].as_array().into_iter().flatten();
    series.filter_map(|series| {
        let value = series["value"][1].as_str()?.parse().ok()?;
        Some((&series["metric"], value))
    })
}

fn instance_of(answer: &Value, start_s: f64) -> Option<String> {
    vector(answer)
        .filter(|(_, started)| (started - start_s).abs() <= START_TOLERANCE_S)
        .find_map(|(labels, _)| labels["instance"].as_str().map(str::to_owned))
}

fn missing(answer: &Value) -> Vec<String> {
    let groups = answer["data"]["groups"].as_array().into_iter().flatten();
    let rules: Vec<&Value> = groups
        .flat_map(|group| group["rules"].as_array().into_iter().flatten())
        .collect();
    names()
        .filter_map(
            |name| match rules.iter().find(|rule| rule["name"] == name) {
                None => Some(name.to_owned()),
                Some(rule) if rule["health"] == "err" => {
                    let why = rule["lastError"]
                        .as_str()
                        .unwrap_or("it cannot be evaluated");
                    Some(format!("{name} ({why})"))
                }
                Some(_) => None,
            },
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_server_is_known_by_its_start() {
        let series = |instance: &str, value: &str| json!({ "metric": { "instance": instance }, "value": [1, value] });
        let answer =
            json!({ "data": { "result": [series("a:1", "1000"), series("b:1", "2000.4")] } });
        assert_eq!(instance_of(&answer, 2003.0).as_deref(), Some("b:1"));
        assert_eq!(instance_of(&answer, 1500.0), None);
        assert_eq!(instance_of(&json!({ "status": "error" }), 1.0), None);
    }

    #[test]
    fn rules_that_are_missing_or_broken_are_named() {
        let mut rules: Vec<Value> = names()
            .map(|name| json!({ "name": name, "health": "ok" }))
            .collect();
        assert!(rules.len() >= 5);
        let answer = |rules: &[Value]| json!({ "data": { "groups": [{ "rules": rules }] } });
        assert!(missing(&answer(&rules)).is_empty());
        rules[1]["health"] = "err".into();
        rules[1]["lastError"] = "no".into();
        rules.remove(0);
        let found = missing(&answer(&rules));
        assert_eq!(found[0], "SandboxAIDown");
        assert!(found[1].ends_with(" (no)"));
        assert_eq!(missing(&json!({})).len(), rules_delivered());
    }
}
