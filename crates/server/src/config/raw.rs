//! What file, environment and flags say, before anything is checked but the names.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

use super::{
    Problem,
    table::{self, Form, KEYS},
};

/// A value as it was written; numbers and switches are kept as text, since the
/// environment and flags cannot tell them apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// One text, number or switch.
    Scalar(String),
    /// Several.
    List(Vec<String>),
    /// Pairs.
    Map(BTreeMap<String, String>),
}

impl Value {
    /// A value from the environment or a flag.
    #[must_use]
    pub fn from_text(form: Form, text: &str) -> Self {
        let parts = || {
            text.split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
        };
        match form {
            Form::List | Form::Secrets => Self::List(parts().map(str::to_owned).collect()),
            Form::Map => Self::Map(
                parts()
                    .map(|part| match part.split_once('=') {
                        Some((left, right)) => (left.trim().to_owned(), right.trim().to_owned()),
                        None => (part.to_owned(), String::new()),
                    })
                    .collect(),
            ),
            _ => Self::Scalar(text.trim().to_owned()),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scalar(text) => f.write_str(text),
            Self::List(items) => f.write_str(&items.join(",")),
            Self::Map(pairs) => {
                let pairs: Vec<_> = pairs.iter().map(|(k, v)| format!("{k}={v}")).collect();
                f.write_str(&pairs.join(","))
            }
        }
    }
}

/// Where a value comes from, from low to high precedence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The table of defaults.
    Default,
    /// The configuration file.
    File {
        /// Which file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// A value and where it comes from.
#[derive(Clone, Debug)]
pub struct Given {
    /// The value.
    pub value: Value,
    /// Its origin.
    pub origin: Origin,
}

/// A value given by a flag.
#[derive(Clone, Debug)]
pub struct FlagValue {
    /// Key that it sets.
    pub key: String,
    /// The flag as it is written, e.g. `--port`.
    pub flag: String,
    /// Its value.
    pub value: String,
}

/// Everything that configuration is read from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A file that must exist.
    pub file: Option<PathBuf>,
    /// A file that is read if it exists and no other is named.
    pub default_file: Option<PathBuf>,
    /// The environment.
    pub environment: BTreeMap<String, String>,
    /// Flags, weakest first.
    pub flags: Vec<FlagValue>,
}

/// Every key with its strongest value.
#[derive(Debug)]
pub struct Raw {
    values: BTreeMap<&'static str, Given>,
}

impl Raw {
    /// Reads all sources; problems with names and syntax are added to `problems`.
    #[must_use]
    pub fn read(sources: &Sources, problems: &mut Vec<Problem>) -> Self {
        let mut raw = Self {
            values: KEYS
                .iter()
                .map(|key| {
                    let given = Given {
                        value: key.default_value(),
                        origin: Origin::Default,
                    };
                    (key.name, given)
                })
                .collect(),
        };
        if let Some(path) = &sources.file {
            raw.read_file(path, problems);
        } else if let Some(path) = &sources.default_file
            && path.exists()
        {
            raw.read_file(path, problems);
        }
        raw.read_environment(&sources.environment, problems);
        raw.read_flags(&sources.flags, problems);
        raw
    }

    /// The strongest value of a key of the table.
    #[must_use]
    pub fn get(&self, name: &str) -> &Given {
        self.values
            .get(name)
            .expect("every key of the table has at least its default")
    }

    fn set(&mut self, name: &'static str, value: Value, origin: Origin) {
        self.values.insert(name, Given { value, origin });
    }

    fn read_file(&mut self, path: &Path, problems: &mut Vec<Problem>) {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(source) => {
                problems.push(Problem::ReadFile {
                    path: path.to_owned(),
                    source,
                });
                return;
            }
        };
        let table = match DeTable::parse(&text) {
            Ok(table) => table,
            Err(error) => {
                let line = error.span().map_or(1, |span| line_of(&text, span.start));
                problems.push(Problem::Syntax {
                    path: path.to_owned(),
                    line,
                    message: error.message().to_owned(),
                });
                return;
            }
        };
        for (section, content) in table.get_ref() {
            let name = section.get_ref().as_ref();
            let origin = |start| Origin::File {
                path: path.to_owned(),
                line: line_of(&text, start),
            };
            let Some(entries) = content.get_ref().as_table().filter(|_| is_section(name)) else {
                problems.push(unknown(name, origin(section.span().start), &sections()));
                continue;
            };
            for (key, value) in entries {
                let name = format!("{name}.{}", key.get_ref());
                let origin = origin(key.span().start);
                match table::find(&name) {
                    Some(key) => match from_toml(value.get_ref()) {
                        Ok(value) => self.set(key.name, value, origin),
                        Err(problem) => problems.push(Problem::Invalid {
                            key: key.name,
                            value: String::new(),
                            origin,
                            problem: problem.to_owned(),
                            form: key.form.describe(),
                        }),
                    },
                    None => problems.push(unknown(&name, origin, &names())),
                }
            }
        }
    }

    fn read_environment(
        &mut self,
        environment: &BTreeMap<String, String>,
        problems: &mut Vec<Problem>,
    ) {
        let mut known = BTreeSet::new();
        for key in KEYS {
            let other = key.other_variable.map(str::to_owned);
            for variable in other.into_iter().chain([key.variable()]) {
                if let Some(text) = environment.get(&variable) {
                    let value = Value::from_text(key.form, text);
                    self.set(key.name, value, Origin::Environment(variable.clone()));
                }
                known.insert(variable);
            }
        }
        // Other programs may have variables of their own below SANDBOXAI_; those
        // that begin with one of our sections are meant for us.
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        for variable in environment.keys() {
            let ours = variable
                .strip_prefix("SANDBOXAI_")
                .and_then(|rest| rest.split_once('_'))
                .is_some_and(|(section, _)| is_section(&section.to_lowercase()))
                || variable.starts_with("SANDBOXAID_");
            if ours && !known.contains(&variable.as_str()) {
                problems.push(unknown(
                    variable,
                    Origin::Environment(variable.clone()),
                    &known,
                ));
            }
        }
    }

    fn read_flags(&mut self, flags: &[FlagValue], problems: &mut Vec<Problem>) {
        for given in flags {
            let origin = Origin::Flag(given.flag.clone());
            match table::find(&given.key) {
                Some(key) => {
                    self.set(key.name, Value::from_text(key.form, &given.value), origin);
                }
                None => problems.push(unknown(&given.key, origin, &names())),
            }
        }
    }
}

fn names() -> Vec<&'static str> {
    KEYS.iter().map(|key| key.name).collect()
}

fn sections() -> Vec<&'static str> {
    let sections: BTreeSet<_> = KEYS.iter().map(|key| key.parts().0).collect();
    sections.into_iter().collect()
}

fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.parts().0 == name)
}

/// An unknown name with the nearest known one.
fn unknown(name: &str, origin: Origin, known: &[&str]) -> Problem {
    /// Names further away than this are no help.
    const SIMILARITY_MIN: f64 = 0.75;
    let nearest = known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), *candidate))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    Problem::Unknown {
        name: name.to_owned(),
        origin,
        suggestion: nearest.map(|(_, candidate)| candidate.to_owned()),
    }
}

fn line_of(text: &str, byte: usize) -> usize {
    text.as_bytes()[..byte.min(text.len())]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
        + 1
}

fn from_toml(value: &DeValue<'_>) -> Result<Value, &'static str> {
    Ok(match value {
        DeValue::Array(items) => Value::List(
            items
                .iter()
                .map(|item| scalar(item.get_ref()))
                .collect::<Result<_, _>>()?,
        ),
        DeValue::Table(pairs) => Value::Map(
            pairs
                .iter()
                .map(|(key, value)| Ok((key.get_ref().to_string(), scalar(value.get_ref())?)))
                .collect::<Result<_, &'static str>>()?,
        ),
        other => Value::Scalar(scalar(other)?),
    })
}

fn scalar(value: &DeValue<'_>) -> Result<String, &'static str> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => Ok(number.as_str().to_owned()),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        DeValue::Boolean(switch) => Ok(switch.to_string()),
        DeValue::Datetime(_) => Err("a date is not expected here"),
        DeValue::Array(_) | DeValue::Table(_) => Err("a nested list or table is not expected here"),
    }
}
