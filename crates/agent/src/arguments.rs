//! The command line, which the runtime writes.

use std::{ffi::OsString, os::fd::RawFd, path::PathBuf};

/// What the runtime tells.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// Where the server comes from.
    pub(crate) listen: Listen,
    /// `--cgroup-fd N`, any number: `cgroup.procs` files of the workload's cgroups.
    pub(crate) cgroups: Vec<RawFd>,
    /// `--direct`: the agent starts programs itself, in its own cgroup.
    pub(crate) direct: bool,
    /// `--oom-fd N`: the counter of processes killed for lack of memory.
    pub(crate) out_of_memory: Option<RawFd>,
    /// `--workdir DIR`: working directory of commands; `/` when absent.
    pub(crate) workdir: PathBuf,
}

/// The listening socket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    /// `--listen-fd N`: a descriptor.
    Inherited(RawFd),
    /// `--listen-socket NAME`: to be made, in the abstract namespace.
    Socket(String),
}

/// Why the command line is not one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgumentError {
    #[error("{0} needs a value")]
    ValueMissing(String),
    #[error("{0} {1:?}: not a descriptor number")]
    NotANumber(String, OsString),
    #[error("unknown argument {0:?}")]
    Unknown(OsString),
    #[error("--listen-fd or --listen-socket is missing")]
    ListenMissing,
    #[error("--workdir must be absolute")]
    WorkdirRelative,
}

/// Reads the arguments, without the program's name.
pub(crate) fn parse(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Arguments, ArgumentError> {
    let mut arguments = arguments.into_iter();
    let (mut listen, mut cgroups, mut out_of_memory) = (None, Vec::new(), None);
    let mut workdir = PathBuf::from("/");
    let mut direct = false;
    while let Some(name) = arguments.next() {
        let known = [
            "--listen-fd",
            "--listen-socket",
            "--cgroup-fd",
            "--oom-fd",
            "--direct",
            "--workdir",
        ];
        let Some(name) = known.into_iter().find(|known| name == *known) else {
            return Err(ArgumentError::Unknown(name));
        };
        if name == "--direct" {
            direct = true;
            continue;
        }
        let value = arguments
            .next()
            .ok_or_else(|| ArgumentError::ValueMissing(name.to_owned()))?;
        if name == "--workdir" {
            workdir = value.into();
            continue;
        }
        if name == "--listen-socket" {
            listen = Some(Listen::Socket(value.to_string_lossy().into_owned()));
            continue;
        }
        let number = value.to_str().and_then(|text| text.parse().ok());
        let number =
            number.ok_or_else(|| ArgumentError::NotANumber(name.to_owned(), value.clone()))?;
        match name {
            "--listen-fd" => listen = Some(Listen::Inherited(number)),
            "--cgroup-fd" => cgroups.push(number),
            _ => out_of_memory = Some(number),
        }
    }
    if !workdir.is_absolute() {
        return Err(ArgumentError::WorkdirRelative);
    }
    Ok(Arguments {
        listen: listen.ok_or(ArgumentError::ListenMissing)?,
        cgroups,
        direct,
        out_of_memory,
        workdir,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(line: &str) -> Result<Arguments, ArgumentError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_runtimes_command_line_is_understood() {
        let line = "--listen-fd 3 --cgroup-fd 4 --cgroup-fd 5 --oom-fd 6 --workdir /work";
        assert_eq!(
            parse_words(line),
            Ok(Arguments {
                listen: Listen::Inherited(3),
                cgroups: vec![4, 5],
                direct: false,
                out_of_memory: Some(6),
                workdir: "/work".into(),
            })
        );
        let in_container = parse_words("--listen-socket name --direct").unwrap();
        assert_eq!(in_container.listen, Listen::Socket("name".to_owned()));
        assert!(in_container.direct);
        assert_eq!(
            parse_words("--listen-fd 3").unwrap().workdir,
            PathBuf::from("/")
        );
    }

    #[test]
    fn anything_else_is_refused() {
        for line in [
            "",
            "--listen-fd",
            "--listen-fd x",
            "--listen-fd 3 --oops 4",
            "--listen-fd 3 --workdir work",
        ] {
            assert!(parse_words(line).is_err(), "{line}");
        }
    }
}
