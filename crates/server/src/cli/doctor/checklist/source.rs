//! What a backend's source says of Daytona, line by line.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::failure::Failure;

/// Most files that are looked at.
const FILES_MAX: usize = 50_000;
/// Longer files are data, bytes.
const FILE_BYTES_MAX: u64 = 8 << 20;
/// Deepest folder.
const DEPTH_MAX: usize = 32;
/// Lines of a finding that are told.
const TOLD_MAX: usize = 10;
/// Folders with the work of others.
const SKIPPED: [&str; 10] = [
    ".git",
    ".hg",
    ".next",
    ".tox",
    ".venv",
    "__pycache__",
    "node_modules",
    "site-packages",
    "target",
    "venv",
];

/// A line that was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// The file, below the folder.
    pub(super) path: PathBuf,
    /// Counted from 1.
    pub(super) number: usize,
}

/// What a file is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Python, JavaScript, TypeScript.
    Code,
    /// Names packages to install.
    Dependencies,
    /// Markdown.
    Document,
    /// Anything else.
    Other,
}

impl Kind {
    fn of(name: &str) -> Self {
        let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
        let is_list = name.starts_with("requirements") && ending == "txt";
        match name {
            "pyproject.toml" | "uv.lock" | "poetry.lock" | "Pipfile" | "Pipfile.lock"
            | "setup.py" | "setup.cfg" | "package.json" | "package-lock.json" | "yarn.lock"
            | "pnpm-lock.yaml" => Self::Dependencies,
            _ if is_list => Self::Dependencies,
            _ => match ending {
                "py" | "ts" | "tsx" | "js" | "jsx" | "mjs" | "cjs" => Self::Code,
                "md" | "mdx" | "rst" => Self::Document,
                _ => Self::Other,
            },
        }
    }
}

/// Lines of the files of a kind below `folder` for which `wanted` holds. Links
/// are not followed.
pub(super) fn lines(
    folder: &Path,
    kind: Kind,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Line>, Failure> {
    let mut found = Vec::new();
    let mut files = 0;
    let mut waiting = vec![(folder.to_owned(), 0)];
    while let Some((path, depth)) = waiting.pop() {
        let unreadable = Failure::to(format!("cannot read {}", path.display()));
        for entry in fs::read_dir(&path).map_err(unreadable)? {
            let entry = entry.map_err(Failure::to(format!("cannot read {}", path.display())))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() && depth < DEPTH_MAX && !SKIPPED.contains(&name.as_str()) {
                waiting.push((entry.path(), depth + 1));
            }
            let is_wanted = metadata.is_file() && Kind::of(&name) == kind;
            if !is_wanted || metadata.len() > FILE_BYTES_MAX {
                continue;
            }
            files += 1;
            if files > FILES_MAX {
                let more = format!("more than {FILES_MAX} files in {}", folder.display());
                return Err(Failure::general(more).hint("name the folder of the backend alone"));
            }
            let text = fs::read(entry.path()).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let path = entry.path();
            let path = path.strip_prefix(folder).unwrap_or(&path);
            found.extend(
                text.lines()
                    .enumerate()
                    .filter(|(_, line)| wanted(line))
                    .map(|(index, _)| Line {
                        path: path.to_owned(),
                        number: index + 1,
                    }),
            );
        }
    }
    found.sort_by(|a, b| (&a.path, a.number).cmp(&(&b.path, b.number)));
    Ok(found)
}

/// `file:line, file:line and 3 more`
pub(super) fn told(lines: &[Line]) -> String {
    let shown: Vec<_> = lines
        .iter()
        .take(TOLD_MAX)
        .map(|line| format!("{}:{}", line.path.display(), line.number))
        .collect();
    let more = match lines.len().saturating_sub(TOLD_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", shown.join(", "))
}

/// Whether a line of code imports Daytona's SDK, or the plan's class over it.
pub(super) fn imports_daytona(line: &str) -> bool {
    let line = line.trim_start();
    let modules = if let Some(rest) = line.strip_prefix("from ") {
        rest.split(' ').next().unwrap_or_default()
    } else {
        line.strip_prefix("import ").unwrap_or_default()
    };
    let of_sdk = |module: &str| module.trim_start().starts_with("daytona");
    let is_import = line.contains("import") || line.contains("require(");
    modules.split(',').any(of_sdk)
        || (is_import && (line.contains("\"@daytona") || line.contains("'@daytona")))
        || (line.starts_with("from ") && line.contains("DaytonaClient") && is_import)
}

/// Whether a line names one of Daytona's packages.
pub(super) fn names_daytona(line: &str) -> bool {
    names(line, "daytona")
}

/// Whether a line names our package.
pub(super) fn names_ours(line: &str) -> bool {
    names(line, "sandboxai")
}

/// Whether a word of the line begins with `package`, before a comment.
fn names(line: &str, package: &str) -> bool {
    let line = line.split('#').next().unwrap_or_default().to_lowercase();
    line.match_indices(package).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before
            .is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '-' | '_' | '/' | '.') || c == '@')
    })
}

/// Whether a line of a document leads to Daytona's service.
pub(super) fn leads_to_daytona(line: &str) -> bool {
    ["daytona.io", "daytona.work"]
        .iter()
        .any(|host| line.contains(host))
}

/// Whether a line of a document speaks of this product.
pub(super) fn speaks_of_us(line: &str) -> bool {
    line.to_lowercase().contains("sandboxai")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_found_in_every_form() {
        for line in [
            "from daytona_sdk import AsyncDaytona",
            "    import daytona",
            "import os, daytona_api_client",
            "from daytona.common import x",
            "from core.sandbox.sandbox import DaytonaClient",
            "import { Daytona } from \"@daytonaio/sdk\"",
            "const { Daytona } = require('@daytona/sdk')",
        ] {
            assert!(imports_daytona(line), "{line}");
        }
        for line in [
            "# from daytona import x",
            "from core.sandbox import get_sandbox_client",
            "import os",
            "logger.info('daytona')",
            "DaytonaClient = None",
            "from mydaytona import x",
        ] {
            assert!(!imports_daytona(line), "{line}");
        }
    }

    #[test]
    fn packages_are_found_in_every_list() {
        for line in [
            "daytona-sdk==0.21.0",
            "  \"daytona>=0.115\",",
            "name = \"daytona-api-client\"",
            "\"@daytonaio/sdk\": \"0.184.0\"",
            "'Daytona_SDK'",
        ] {
            assert!(names_daytona(line), "{line}");
        }
        for line in [
            "# daytona-sdk is gone",
            "sandboxai-client>=0.1.0",
            "my-daytona==1",
        ] {
            assert!(!names_daytona(line), "{line}");
        }
        assert!(names_ours("sandboxai-client>=0.1.0"));
    }

    #[test]
    fn the_work_of_others_is_not_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("core/sandbox/sandbox.py", "x = 1\nimport daytona\n"),
            ("core/tools/a.py", "import daytona\n"),
            (".venv/lib/daytona.py", "import daytona\n"),
            ("notes.txt", "import daytona\n"),
        ] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let found = lines(folder.path(), Kind::Code, imports_daytona).unwrap();
        assert_eq!(told(&found), "core/sandbox/sandbox.py:2, core/tools/a.py:1");
    }

    #[test]
    fn long_findings_are_cut() {
        let line = |number| Line {
            path: "a.py".into(),
            number,
        };
        let lines: Vec<_> = (1..=12).map(line).collect();
        assert!(told(&lines).ends_with("a.py:10 and 2 more"));
    }
}
