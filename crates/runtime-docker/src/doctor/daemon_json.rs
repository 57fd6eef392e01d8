//! The engine's configuration file:
//! <https://docs.docker.com/reference/cli/dockerd/#daemon-configuration-file>.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

/// A limit of open files that browsers and package managers do not reach.
pub(super) const OPEN_FILES_MIN: i64 = 64_000;
/// Size at which a log file is begun anew, and how many are kept.
const LOG_SIZE_MAX: &str = "10m";
const LOG_FILES_MAX: &str = "3";

/// What to write into the file, and what to run then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The file.
    pub path: PathBuf,
    /// All of its new content: what was in it, and what was missing.
    pub content: String,
    /// Commands that make the engine take it, in this order.
    pub commands: Vec<String>,
}

/// The settings in the file that are of interest here, and all others untouched.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct DaemonJson(Map<String, Value>);

impl DaemonJson {
    /// Reads the file's text. An empty one sets nothing.
    ///
    /// # Errors
    /// `LINE: what is wrong`, for what the engine would refuse as well.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let settings: Value = serde_json::from_str(text)
            .map_err(|error| format!("{}: not JSON: {error}", error.line()))?;
        let Value::Object(settings) = settings else {
            return Err("1: not an object of settings, `{…}`".to_owned());
        };
        let line = |name: &str| line_of(text, name);
        if let Some(options) = settings.get("log-opts") {
            let options = options
                .as_object()
                .ok_or_else(|| format!("{}: `log-opts` is no object", line("log-opts")))?;
            // The engine refuses numbers here.
            for (name, value) in options {
                if !value.is_string() {
                    let (line, name) = (line(name), format!("log-opts.{name}"));
                    return Err(format!(
                        "{line}: `{name}` is {value}; write it as a text, \"{value}\""
                    ));
                }
            }
        }
        for name in ["log-driver", "storage-driver"] {
            if settings.get(name).is_some_and(|value| !value.is_string()) {
                return Err(format!("{}: `{name}` is no text", line(name)));
            }
        }
        for name in ["live-restore"] {
            if settings.get(name).is_some_and(|value| !value.is_boolean()) {
                return Err(format!(
                    "{}: `{name}` is neither true nor false",
                    line(name)
                ));
            }
        }
        if settings
            .get("default-ulimits")
            .is_some_and(|value| !value.is_object())
        {
            let name = "default-ulimits";
            return Err(format!("{}: `{name}` is no object", line(name)));
        }
        Ok(Self(settings))
    }

    /// An option of the log driver.
    pub(super) fn log_option(&self, name: &str) -> Option<&str> {
        self.0.get("log-opts")?.get(name)?.as_str()
    }

    /// The soft limit of open files that containers get.
    pub(super) fn open_files(&self) -> Option<i64> {
        let limit = self.0.get("default-ulimits")?.get("nofile")?;
        limit_of(limit, "Soft")
    }

    /// Whether containers shall go on without the engine.
    pub(super) fn live_restore(&self) -> bool {
        self.0
            .get("live-restore")
            .and_then(Value::as_bool)
            .unwrap_or(false)
    }

    /// The storage driver that was asked for.
    pub(super) fn storage_driver(&self) -> Option<&str> {
        self.0.get("storage-driver")?.as_str()
    }

    pub(super) fn rotate_logs(&mut self) {
        self.0.insert("log-driver".to_owned(), "json-file".into());
        let options = self.object("log-opts");
        options.insert("max-size".to_owned(), LOG_SIZE_MAX.into());
        options
            .entry("max-file")
            .or_insert_with(|| LOG_FILES_MAX.into());
    }

    pub(super) fn raise_open_files(&mut self) {
        let least = |limit: Option<i64>| match limit {
            Some(limit) if !(0..=OPEN_FILES_MIN).contains(&limit) => limit,
            _ => OPEN_FILES_MIN,
        };
        let limits = self.object("default-ulimits");
        let hard = limits
            .get("nofile")
            .and_then(|limit| limit_of(limit, "Hard"));
        let limit = json!({ "Name": "nofile", "Hard": least(hard), "Soft": OPEN_FILES_MIN });
        limits.insert("nofile".to_owned(), limit);
    }

    pub(super) fn keep_containers(&mut self) {
        self.0.insert("live-restore".to_owned(), true.into());
    }

    pub(super) fn store_in_overlays(&mut self) {
        self.0
            .insert("storage-driver".to_owned(), "overlay2".into());
    }

    /// The whole file.
    pub(super) fn text(&self) -> String {
        format!("{:#}\n", Value::Object(self.0.clone()))
    }

    fn object(&mut self, name: &str) -> &mut Map<String, Value> {
        let value = self.0.entry(name).or_insert_with(|| json!({}));
        value
            .as_object_mut()
            .expect("`parse` takes no other form of it")
    }
}

/// The engine does not mind the case of names.
fn limit_of(limit: &Value, wanted: &str) -> Option<i64> {
    let (_, value) = limit
        .as_object()?
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(wanted))?;
    value.as_i64()
}

/// The line where a name is first written, counted from 1.
fn line_of(text: &str, name: &str) -> usize {
    let quoted = format!("\"{name}\"");
    let line = text.lines().position(|line| line.contains(&quoted));
    line.map_or(1, |line| line + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        DaemonJson::parse(text).unwrap_err()
    }

    #[test]
    fn faults_are_named_with_their_line() {
        let said = problem("{\n  \"log-driver\": \"json-file\"\n  \"debug\": true\n}\n");
        assert!(
            said.starts_with("3: not JSON: expected `,` or `}`"),
            "{said}"
        );
        assert_eq!(
            problem("{\n  \"log-opts\": {\n    \"max-file\": 3\n  }\n}"),
            "3: `log-opts.max-file` is 3; write it as a text, \"3\""
        );
        assert_eq!(problem("[]"), "1: not an object of settings, `{…}`");
        assert_eq!(problem("{\"log-opts\": 1}"), "1: `log-opts` is no object");
        assert_eq!(
            problem("{\n\"live-restore\": \"yes\"}"),
            "2: `live-restore` is neither true nor false"
        );
    }

    #[test]
    fn an_empty_file_sets_nothing() {
        for text in ["", "\n", "{}"] {
            let file = DaemonJson::parse(text).unwrap();
            assert_eq!(
                (file.open_files(), file.log_option("max-size")),
                (None, None)
            );
        }
    }

    #[test]
    fn other_keys_are_kept() {
        let mut file = DaemonJson::parse(
            r#"{"registry-mirrors": ["https://m"], "log-opts": {"max-file": "7", "tag": "x"},
               "default-ulimits": {"nofile": {"name": "nofile", "hard": 100000, "soft": 1024},
                                   "nproc": {"Name": "nproc", "Hard": 9, "Soft": 9}}}"#,
        )
        .unwrap();
        assert_eq!(file.open_files(), Some(1024));
        file.rotate_logs();
        file.raise_open_files();
        file.keep_containers();
        let written: Value = serde_json::from_str(&file.text()).unwrap();
        assert_eq!(
            written,
            json!({
                "registry-mirrors": ["https://m"],
                "log-driver": "json-file",
                "log-opts": { "max-size": "10m", "max-file": "7", "tag": "x" },
                "default-ulimits": {
                    "nofile": { "Name": "nofile", "Hard": 100_000, "Soft": 64_000 },
                    "nproc": { "Name": "nproc", "Hard": 9, "Soft": 9 },
                },
                "live-restore": true,
            })
        );
    }
}
