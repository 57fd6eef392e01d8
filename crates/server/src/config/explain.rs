//! The configuration as people see it: `config --explain` and `docs/configuration.md`.

use std::fmt::Write as _;

use super::{
    Raw,
    table::{Form, KEYS, Key},
};

/// One key as it is in force.
#[derive(Debug, serde::Serialize)]
pub struct Explained {
    /// The key.
    pub key: &'static str,
    /// Its value; secrets are only counted.
    pub value: String,
    /// Where the value comes from.
    pub origin: String,
    /// The default.
    pub default: &'static str,
    /// How values are written.
    pub form: String,
    /// The environment variable that sets it.
    pub variable: String,
    /// What it is for.
    pub doc: &'static str,
}

/// Every key with its value and origin.
#[must_use]
pub fn explain(raw: &Raw) -> Vec<Explained> {
    KEYS.iter().map(|key| explained(key, raw)).collect()
}

fn explained(key: &Key, raw: &Raw) -> Explained {
    let given = raw.get(key.name);
    let value = match (key.form, &given.value) {
        (Form::Secrets, super::Value::List(keys)) => format!("({} hidden)", keys.len()),
        (Form::Secret, super::Value::Scalar(key)) if key.is_empty() => String::new(),
        (form, _) if form.is_secret() => "(hidden)".to_owned(),
        (_, value) => value.to_string(),
    };
    Explained {
        key: key.name,
        value,
        origin: given.origin.to_string(),
        default: key.default,
        form: key.form.describe(),
        variable: key.variable(),
        doc: key.doc,
    }
}

/// The text of `docs/configuration.md`.
#[must_use]
pub fn document() -> String {
    let mut text = String::from(INTRODUCTION);
    let mut section = "";
    for key in KEYS {
        if key.parts().0 != section {
            section = key.parts().0;
            let _ = write!(text, "\n## `[{section}]`\n");
        }
        let default = if key.default.is_empty() {
            "not set".to_owned()
        } else {
            format!("`{}`", key.default)
        };
        let other = key
            .other_variable
            .map(|variable| format!(", `{variable}`"))
            .unwrap_or_default();
        let _ = write!(
            text,
            "\n### `{}`\n{}\n\n- Value: {}. Default: {default}.\n- Environment: `{}`{other}.\n",
            key.name,
            key.doc,
            key.form.describe(),
            key.variable(),
        );
    }
    let _ = write!(
        text,
        "\n## Exit codes\n\n```text\n{}\n```\n",
        crate::exit_code::HELP
    );
    text
}

/// Everything above the first section.
const INTRODUCTION: &str = "\
# Configuration

Generated from the table in `crates/server/src/config/table.rs`; a test compares the two
(`UPDATE=1 cargo test -p sandboxai-server` writes this file anew).

Values come, from weak to strong, from:

1. the defaults below;
2. one TOML file: `--config FILE`, else `SANDBOXAI_CONFIG`, else `/etc/sandboxai/config.toml` if it exists;
3. environment variables, `SANDBOXAI_SECTION_KEY` (lists are separated by commas, tables written as
   `left=right,left=right`). The original server's `SANDBOXAID_…` variables work too and are weaker than ours;
4. flags of `sandboxai serve`: `--host`, `--port` and so on, and `--set section.key=value` for every key.

Unknown keys are errors. `sandboxai config --explain` prints every value with where it comes from.

Clients (`sandboxai run`, `exec`, …) read two more variables: `SANDBOXAI_URL`, the server's address, and
`SANDBOXAI_API_KEY`, the key to send.
";
