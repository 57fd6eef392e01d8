//! Reads Dockerfiles: pure, no I/O. Variables are put in when a step is carried
//! out, since they depend on what came before.
//!
//! Syntax: <https://docs.docker.com/reference/dockerfile/>. What is read but has
//! no meaning in a sandbox (`EXPOSE`, `VOLUME`, `STOPSIGNAL`, `HEALTHCHECK`) is kept
//! as [`Instruction::Nothing`]; what is not understood is an error with its line.

mod lines;
mod words;

use lines::{Document, Line};
pub(crate) use words::{expand, expand_text};

/// Largest Dockerfile, bytes.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// Instructions of one Dockerfile.
const INSTRUCTIONS_MAX: usize = 1000;

/// What is wrong with a Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Dockerfile, line {line}: {what}")]
pub(crate) struct Problem {
    line: usize,
    what: String,
}

impl Problem {
    pub(crate) fn new(line: usize, what: impl Into<String>) -> Self {
        Self {
            line,
            what: what.into(),
        }
    }
}

impl From<Problem> for sandbox::Error {
    fn from(problem: Problem) -> Self {
        Self::invalid(problem.to_string())
    }
}

/// A Dockerfile.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Dockerfile {
    /// The letter before which others mean themselves.
    pub(crate) escape: char,
    /// `ARG`s before the first `FROM`.
    pub(crate) args: Vec<(String, Option<String>)>,
    /// At least one.
    pub(crate) stages: Vec<Stage>,
}

/// What begins with a `FROM`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stage {
    pub(crate) line: usize,
    /// The image, variables not yet put in.
    pub(crate) base: String,
    /// In lower case.
    pub(crate) name: Option<String>,
    pub(crate) steps: Vec<Step>,
}

/// One instruction with its place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) line: usize,
    /// As it is written, for the log.
    pub(crate) shown: String,
    pub(crate) instruction: Instruction,
}

/// Words are as written, variables and quotes still in them, unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Instruction {
    Run(Program),
    Copy(Copy),
    Env(Vec<(String, String)>),
    Workdir(String),
    User(String),
    Entrypoint(Program),
    Cmd(Program),
    Arg(Vec<(String, Option<String>)>),
    Label(Vec<(String, String)>),
    /// Literal.
    Shell(Vec<String>),
    /// Accepted without an effect; the text says why.
    Nothing(&'static str),
}

/// What is run, in one of its two forms; literal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Shell(String),
    Exec(Vec<String>),
}

/// A `COPY` or an `ADD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    /// Whether archives are unpacked and URLs fetched.
    pub(crate) is_add: bool,
    /// Stage or image to take the files from.
    pub(crate) from: Option<String>,
    pub(crate) owner: Option<String>,
    /// Literal.
    pub(crate) mode: Option<u32>,
    pub(crate) sources: Vec<Source>,
    pub(crate) target: String,
}

/// What a `COPY` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Path(String),
    /// A file that is written in the Dockerfile.
    Inline {
        name: String,
        text: String,
        expands: bool,
    },
}

impl Dockerfile {
    /// Reads a Dockerfile.
    ///
    /// # Errors
    /// The first thing that is not understood, with its line.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        if text.len() > TEXT_BYTES_MAX {
            let what = format!("it has more than {TEXT_BYTES_MAX} bytes");
            return Err(Problem::new(1, what));
        }
        let escape = lines::escape_of(text);
        let mut file = Self {
            escape,
            args: Vec::new(),
            stages: Vec::new(),
        };
        for (index, line) in lines::lines(text, escape)?.into_iter().enumerate() {
            if index == INSTRUCTIONS_MAX {
                let what = format!("it has more than {INSTRUCTIONS_MAX} instructions");
                return Err(Problem::new(line.number, what));
            }
            file.take(line)?;
        }
        if file.stages.is_empty() {
            return Err(Problem::new(1, "there is no FROM instruction"));
        }
        Ok(file)
    }

    fn take(&mut self, line: Line) -> Result<(), Problem> {
        if line.keyword == "FROM" {
            self.stages.push(from(&line, self.escape)?);
            return Ok(());
        }
        let instruction = instruction(&line, self.escape)?;
        let Some(stage) = self.stages.last_mut() else {
            let Instruction::Arg(args) = instruction else {
                let what = format!("{} comes before the first FROM", line.keyword);
                return Err(Problem::new(line.number, what));
            };
            self.args.extend(args);
            return Ok(());
        };
        stage.steps.push(Step {
            line: line.number,
            shown: format!("{} {}", line.keyword, line.rest),
            instruction,
        });
        Ok(())
    }
}

fn from(line: &Line, escape: char) -> Result<Stage, Problem> {
    let (flags, rest) = flags(&line.rest);
    if let Some((flag, _)) = flags.iter().find(|(name, _)| *name != "platform") {
        return Err(unknown_flag(line, flag));
    }
    let words = words::split(rest, escape);
    let (base, name) = match words.as_slice() {
        [base] => (base, None),
        [base, word, name] if word.eq_ignore_ascii_case("as") => (base, Some(name)),
        _ => {
            let what = "FROM is written as `FROM image` or `FROM image AS name`";
            return Err(Problem::new(line.number, what));
        }
    };
    Ok(Stage {
        line: line.number,
        base: base.clone(),
        name: name.map(|name| name.to_ascii_lowercase()),
        steps: Vec::new(),
    })
}

fn instruction(line: &Line, escape: char) -> Result<Instruction, Problem> {
    let problem = |what: String| Problem::new(line.number, what);
    if line.rest.is_empty() {
        return Err(problem(format!("{} says nothing", line.keyword)));
    }
    Ok(match line.keyword.as_str() {
        "RUN" => Instruction::Run(run(line)?),
        "COPY" | "ADD" => Instruction::Copy(copy(line, escape)?),
        "ENV" => Instruction::Env(pairs(line, escape)?),
        "LABEL" => Instruction::Label(pairs(line, escape)?),
        "WORKDIR" => Instruction::Workdir(line.rest.clone()),
        "USER" => Instruction::User(line.rest.clone()),
        "ENTRYPOINT" => Instruction::Entrypoint(program(&line.rest)),
        "CMD" => Instruction::Cmd(program(&line.rest)),
        "ARG" => Instruction::Arg(
            words::split(&line.rest, escape)
                .iter()
                .map(|word| match word.split_once('=') {
                    Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                    None => (word.clone(), None),
                })
                .map(|(name, value)| match is_name(&name) {
                    true => Ok((name, value)),
                    false => Err(problem(format!("{name:?} is not a name of a variable"))),
                })
                .collect::<Result<_, _>>()?,
        ),
        "SHELL" => match json(&line.rest) {
            Some(words) if !words.is_empty() => Instruction::Shell(words),
            _ => {
                let what = "SHELL is written as `SHELL [\"program\", \"argument\"]`";
                return Err(problem(what.to_owned()));
            }
        },
        "EXPOSE" => Instruction::Nothing("every port of a sandbox can be reached by its owner"),
        "VOLUME" => Instruction::Nothing("files of a sandbox are its own anyway"),
        "STOPSIGNAL" => Instruction::Nothing("sandboxes are ended by the server"),
        "HEALTHCHECK" => Instruction::Nothing("sandboxes are watched by the server"),
        "MAINTAINER" => Instruction::Label(vec![("maintainer".to_owned(), line.rest.clone())]),
        "ONBUILD" => return Err(problem("ONBUILD is not supported".to_owned())),
        other => {
            let shown: String = other.chars().take(40).collect();
            return Err(problem(format!("there is no instruction {shown}")));
        }
    })
}

/// Flags before the words of an instruction: name and value.
fn flags(rest: &str) -> (Vec<(&str, &str)>, &str) {
    let (mut found, mut rest) = (Vec::new(), rest);
    while let Some(after) = rest.strip_prefix("--") {
        let (flag, after) = after.split_once(char::is_whitespace).unwrap_or((after, ""));
        found.push(flag.split_once('=').unwrap_or((flag, "")));
        rest = after.trim_start();
    }
    (found, rest)
}

fn unknown_flag(line: &Line, flag: &str) -> Problem {
    let what = format!("`--{flag}` of {} is not supported", line.keyword);
    Problem::new(line.number, what)
}

/// Runs its only argument as a script of its own, for texts that begin with `#!`.
const RUN_AS_FILE: &str = "f=$(mktemp) && printf %s \"$0\" >\"$f\" && chmod 700 \"$f\" && { \"$f\"; s=$?; rm -f \"$f\"; exit $s; }";

fn run(line: &Line) -> Result<Program, Problem> {
    let (flags, rest) = flags(&line.rest);
    for (name, value) in flags {
        let kind = value
            .split(',')
            .find_map(|part| part.strip_prefix("type="))
            .unwrap_or("bind");
        match name {
            // Without their cache commands only take longer.
            "mount" if matches!(kind, "cache" | "tmpfs") => {}
            "mount" => {
                let what = format!("a mount of type {kind} is not supported; use COPY");
                return Err(Problem::new(line.number, what));
            }
            "network" => {}
            other => return Err(unknown_flag(line, other)),
        }
    }
    Ok(match line.documents.as_slice() {
        [] => program(rest),
        [only] if rest == only.word && only.text.starts_with("#!") => Program::Exec(
            ["/bin/sh", "-c", RUN_AS_FILE, &only.text]
                .map(str::to_owned)
                .into(),
        ),
        [only] if rest == only.word => Program::Shell(only.text.clone()),
        documents => {
            let mut script = format!("{rest}\n");
            for Document { end, text, .. } in documents {
                script.push_str(text);
                script.push_str(end);
                script.push('\n');
            }
            Program::Shell(script)
        }
    })
}

fn program(rest: &str) -> Program {
    match json(rest) {
        Some(words) => Program::Exec(words),
        None => Program::Shell(rest.to_owned()),
    }
}

/// A list of texts in JSON; anything else is meant for a shell.
fn json(rest: &str) -> Option<Vec<String>> {
    if rest.starts_with('[') {
        serde_json::from_str(rest).ok()
    } else {
        None
    }
}

fn copy(line: &Line, escape: char) -> Result<Copy, Problem> {
    let problem = |what: String| Problem::new(line.number, what);
    let (flags, rest) = flags(&line.rest);
    let mut copy = Copy {
        is_add: line.keyword == "ADD",
        from: None,
        owner: None,
        mode: None,
        sources: Vec::new(),
        target: String::new(),
    };
    for (name, value) in flags {
        match name {
            "from" if !copy.is_add => copy.from = Some(value.to_owned()),
            "chown" => copy.owner = Some(value.to_owned()),
            "chmod" => {
                let mode = u32::from_str_radix(value, 8).ok();
                let mode = mode.filter(|mode| *mode <= 0o7777).ok_or_else(|| {
                    problem(format!("{value:?} is not a mode in octal digits, e.g. 755"))
                })?;
                copy.mode = Some(mode);
            }
            "link" => {}
            other => return Err(unknown_flag(line, other)),
        }
    }
    let mut words = json(rest).unwrap_or_else(|| words::split(rest, escape));
    let target = words.pop().filter(|_| !words.is_empty());
    copy.target = target.ok_or_else(|| {
        problem(format!(
            "{} needs at least a source and a target",
            line.keyword
        ))
    })?;
    let mut documents = line.documents.iter();
    for word in words {
        let inline = documents
            .as_slice()
            .first()
            .filter(|next| next.word == word);
        copy.sources.push(match inline {
            Some(document) => {
                documents.next();
                Source::Inline {
                    name: document.end.clone(),
                    text: document.text.clone(),
                    expands: document.expands,
                }
            }
            None => Source::Path(word),
        });
    }
    Ok(copy)
}

/// `NAME=value …`, or the old `NAME the rest of the line`.
fn pairs(line: &Line, escape: char) -> Result<Vec<(String, String)>, Problem> {
    let problem = |what: String| Problem::new(line.number, what);
    let words = words::split(&line.rest, escape);
    if words.first().is_some_and(|word| !word.contains('=')) {
        let (name, value) = line
            .rest
            .split_once(char::is_whitespace)
            .ok_or_else(|| problem(format!("{} needs a name and a value", line.keyword)))?;
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    words
        .iter()
        .map(|word| match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(problem(format!("{word:?} is not of the form NAME=value"))),
        })
        .collect()
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests;
