//! The host's package sources, as far as they are for the release of a recipe.
//!
//! Understood are both forms of `sources.list(5)`: lines in `*.list` and
//! paragraphs in `*.sources`. Sources of other vendors are left out: an image is
//! made of Debian's packages alone.

use std::{
    fs, io,
    path::Path,
    process::{Command, Stdio},
};

use super::{ImageError, step::missing_or};

const LIST: &str = "/etc/apt/sources.list";
const FOLDER: &str = "/etc/apt/sources.list.d";
/// Settings of the host's `apt` that downloads need; others would change the image.
const DOWNLOAD_OPTIONS: [&str; 5] = [
    "Acquire::http::",
    "Acquire::https::",
    "Acquire::Retries",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
];

/// Files with the sources for the suite: name and content. None when the host
/// has no such sources; `mmdebstrap` then uses Debian's own servers.
pub(super) fn of_suite(suite: &str) -> Result<Vec<(String, String)>, ImageError> {
    let mut paths = vec![Path::new(LIST).to_owned()];
    match fs::read_dir(FOLDER) {
        Ok(entries) => {
            for entry in entries {
                paths.push(entry.map_err(ImageError::store("list", FOLDER))?.path());
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(ImageError::store("list", FOLDER)(error)),
    }
    paths.sort_unstable();
    let (mut lines, mut paragraphs) = (String::new(), String::new());
    for path in paths {
        let extension = path.extension().unwrap_or_default();
        if extension != "list" && extension != "sources" {
            continue;
        }
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            text => text.map_err(ImageError::store("read", &path))?,
        };
        if extension == "list" {
            lines.push_str(&lines_of(&text, suite));
        } else {
            paragraphs.push_str(&paragraphs_of(&text, suite));
        }
    }
    Ok([("host.list", lines), ("host.sources", paragraphs)]
        .into_iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(name, text)| (name.to_owned(), text))
        .collect())
}

/// The host's settings of downloads (proxies above all), as lines of `apt.conf`.
pub(super) fn download_options() -> Result<Vec<String>, ImageError> {
    let output = Command::new("apt-config")
        .arg("dump")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| missing_or("apt-config", "apt", source))?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| {
            DOWNLOAD_OPTIONS
                .iter()
                .any(|option| line.starts_with(option))
        })
        .map(|line| line.trim_end_matches(';').to_owned())
        .collect())
}

/// The lines of a `*.list` file for the suite.
fn lines_of(text: &str, suite: &str) -> String {
    text.lines()
        .filter(|line| {
            let line = line.split('#').next().unwrap_or_default();
            let Some(rest) = line.trim().strip_prefix("deb ") else {
                return false;
            };
            // Options stand in brackets before the address.
            let rest = match rest.trim_start().strip_prefix('[') {
                Some(options) => options.split_once(']').map_or("", |(_, rest)| rest),
                None => rest,
            };
            let mut words = rest.split_whitespace().skip(1);
            words.next().is_some_and(|found| belongs(found, suite))
                && words.any(|component| component == "main")
        })
        .map(|line| format!("{line}\n"))
        .collect()
}

/// The paragraphs of a `*.sources` file for the suite.
fn paragraphs_of(text: &str, suite: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines
        .split(|line| line.trim().is_empty())
        .filter(|paragraph| {
            let words = |name: &str| field(paragraph, name);
            words("Enabled").first().is_none_or(|word| word != "no")
                && words("Types").iter().any(|word| word == "deb")
                && words("Components").iter().any(|word| word == "main")
                && !words("Suites").is_empty()
                && words("Suites").iter().all(|word| belongs(word, suite))
        })
        .map(|paragraph| format!("{}\n\n", paragraph.join("\n")))
        .collect()
}

/// The words of a field, its continuation lines included.
fn field(paragraph: &[&str], name: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut inside = false;
    for line in paragraph {
        let value = if line.starts_with([' ', '\t']) {
            Some(*line).filter(|_| inside)
        } else {
            let (key, value) = line.split_once(':').unwrap_or((line, ""));
            inside = key.eq_ignore_ascii_case(name);
            Some(value).filter(|_| inside)
        };
        words.extend(
            value
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned),
        );
    }
    words
}

/// Whether the archive is the suite itself, its updates or its security fixes.
fn belongs(found: &str, suite: &str) -> bool {
    found
        .strip_prefix(suite)
        .is_some_and(|rest| matches!(rest, "" | "-updates" | "-security" | "/updates"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_release_itself_is_taken_from_lists() {
        let text = "# deb http://a bookworm main\n\
            deb http://a bookworm main contrib\n\
            deb-src http://a bookworm main\n\
            deb [arch=amd64 signed-by=/k] http://a bookworm-security main # note\n\
            deb http://b bookworm stable\n\
            deb http://c bookworm-pgdg main\n\
            deb http://d trixie main\n";
        let found = lines_of(text, "bookworm");
        assert_eq!(found.lines().count(), 2, "{found}");
        assert!(found.contains("contrib") && found.contains("security"));
    }

    #[test]
    fn only_the_release_itself_is_taken_from_paragraphs() {
        let text = "Types: deb\n# note\nURIs: http://a\nSuites: bookworm\n bookworm-updates\nComponents: main\nSigned-By: /k\n\n\
            Types: deb\nURIs: http://b\nSuites: bookworm\nComponents: main\nEnabled: no\n\n\
            Types: deb\nURIs: http://c\nSuites: nodistro\nComponents: main\n\n\
            Types: deb-src\nURIs: http://d\nSuites: bookworm\nComponents: main\n";
        let found = paragraphs_of(text, "bookworm");
        assert!(found.contains("http://a") && found.contains("Signed-By: /k"));
        for other in ["http://b", "http://c", "http://d"] {
            assert!(!found.contains(other), "{found}");
        }
    }
}
