//! The environment that SUNA is started with: lines of `NAME=value`.

use std::{collections::BTreeMap, fs, path::Path};

use crate::failure::Failure;

/// Longest file that is read, bytes.
const BYTES_MAX: u64 = 1 << 20;
/// What the adapter splits workspaces by when nothing is said.
const SHARE_DEFAULT: f64 = 10.0;

/// Variables by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct EnvFile(BTreeMap<String, String>);

/// Where Daytona's SDK is told to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DaytonaSettings {
    /// The variable that says it.
    pub(super) variable: &'static str,
    /// URL of the API.
    pub(super) url: String,
    /// The key.
    pub(super) key: Option<String>,
    /// The target, which SUNA must be told.
    pub(super) target: Option<String>,
}

impl EnvFile {
    /// Reads a file.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let wrong = |problem: String| Failure::usage(format!("{}: {problem}", path.display()));
        let metadata = fs::metadata(path).map_err(|error| wrong(error.to_string()))?;
        if metadata.len() > BYTES_MAX {
            return Err(wrong("too large for a file of variables".to_owned()));
        }
        let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        Ok(Self::parse(&text))
    }

    /// As `python-dotenv`, Docker and shells read it; the last one of a name counts.
    pub(super) fn parse(text: &str) -> Self {
        let variables = text.lines().filter_map(|line| {
            let line = line.trim();
            let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
            let (name, value) = line.split_once('=')?;
            let is_name = !name.is_empty() && !name.starts_with('#');
            is_name.then(|| (name.trim().to_owned(), unquoted(value.trim())))
        });
        Self(variables.collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name).map(String::as_str);
        value.filter(|value| !value.is_empty())
    }

    /// Where Daytona's SDK goes. SUNA hands on `DAYTONA_SERVER_URL`.
    pub(super) fn daytona(&self) -> Option<DaytonaSettings> {
        let (variable, url) = ["DAYTONA_SERVER_URL", "DAYTONA_API_URL"]
            .into_iter()
            .find_map(|name| Some((name, self.get(name)?)))?;
        Some(DaytonaSettings {
            variable,
            url: url.trim_end_matches('/').to_owned(),
            key: self.get("DAYTONA_API_KEY").map(str::to_owned),
            target: self.get("DAYTONA_TARGET").map(str::to_owned),
        })
    }

    /// The share that the adapter's rollout has, percent; none when it is off.
    pub(super) fn share(&self) -> Result<Option<f64>, String> {
        let on = self.get("SANDBOX_AB_TEST").unwrap_or_default();
        if !matches!(on.to_ascii_lowercase().as_str(), "true" | "1" | "yes") {
            return Ok(None);
        }
        const NAME: &str = "SANDBOX_AB_PERCENTAGE";
        let Some(text) = self.get(NAME) else {
            return Ok(Some(SHARE_DEFAULT));
        };
        match text.parse() {
            Ok(share) if (0.0..=100.0).contains(&share) => Ok(Some(share)),
            _ => Err(format!("{NAME} is {text:?}, not a number from 0 to 100")),
        }
    }
}

/// Without quotes around it, or without a comment behind it.
fn unquoted(value: &str) -> String {
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote)
            && let Some((inner, _)) = rest.split_once(quote)
        {
            return inner.to_owned();
        }
    }
    let value = value.split(" #").next().unwrap_or_default();
    value.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_their_readers_do() {
        let file = EnvFile::parse(
            "# SUNA\nexport DAYTONA_API_KEY=\"a # b\"\nDAYTONA_SERVER_URL='http://s:5266/api/' # ours\nDAYTONA_TARGET=us # x\nEMPTY=\nnonsense\nDAYTONA_TARGET=eu\n",
        );
        assert_eq!(
            file.daytona(),
            Some(DaytonaSettings {
                variable: "DAYTONA_SERVER_URL",
                url: "http://s:5266/api".to_owned(),
                key: Some("a # b".to_owned()),
                target: Some("eu".to_owned()),
            })
        );
        assert_eq!(file.get("EMPTY"), None);
        assert_eq!(EnvFile::parse("#DAYTONA_API_URL=x\n").daytona(), None);
    }

    #[test]
    fn the_share_is_that_of_the_adapter() {
        let share = |text: &str| EnvFile::parse(text).share();
        assert_eq!(share(""), Ok(None));
        assert_eq!(
            share("SANDBOX_AB_TEST=false\nSANDBOX_AB_PERCENTAGE=x"),
            Ok(None)
        );
        assert_eq!(share("SANDBOX_AB_TEST=True"), Ok(Some(10.0)));
        assert_eq!(
            share("SANDBOX_AB_TEST=true\nSANDBOX_AB_PERCENTAGE=50"),
            Ok(Some(50.0))
        );
        assert!(share("SANDBOX_AB_TEST=true\nSANDBOX_AB_PERCENTAGE=101").is_err());
    }
}
