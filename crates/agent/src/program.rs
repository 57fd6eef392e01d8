//! The program of a command, its surroundings and its pipes.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use agent_protocol::{Command, Exec, Failure, FailureKind};
use rustix::{
    fs::{Access, FileType, Gid, Uid},
    pipe::{PipeFlags, pipe_with},
};

use crate::{
    account::{self, User},
    context::Context,
    failure::failure,
    spawn::{DEFAULT_PATH, SpawnSpec},
};

/// The program and its surroundings for a command.
///
/// # Errors
/// When there is no such user.
pub(crate) fn spec(context: &Context, exec: &Exec) -> Result<SpawnSpec, Failure> {
    let user = exec.user.as_deref().map(find_user).transpose()?;
    let mut env = exec.env.clone();
    if let Some(user) = &user {
        let own = [
            ("HOME", &user.home),
            ("USER", &user.name),
            ("LOGNAME", &user.name),
        ];
        for (name, value) in own {
            env.entry(name.to_owned()).or_insert_with(|| value.clone());
        }
    }
    let env = context.env_with(&env);
    let argv = match &exec.command {
        Command::Shell(line) => vec!["/bin/sh".into(), "-c".into(), line.into()],
        Command::Script(line) => vec![best_shell(&env), "-c".into(), line.into()],
        Command::Argv(argv) => argv.iter().map(Into::into).collect(),
    };
    let cwd = exec.cwd.as_deref().unwrap_or_default();
    Ok(SpawnSpec {
        argv,
        env,
        cwd: context.absolute(cwd),
        user,
        ..SpawnSpec::default()
    })
}

fn find_user(text: &str) -> Result<User, Failure> {
    account::find_user(text).ok_or_else(|| {
        let message = format!(
            "field `user`: there is no user {text:?} in the sandbox's /etc/passwd; create it or name another"
        );
        failure(FailureKind::InvalidRequest, message)
    })
}

/// The shell for scripts: bash where the image has it, as people expect it.
pub(crate) fn best_shell(env: &[(OsString, OsString)]) -> OsString {
    let path = env.iter().rev().find(|(name, _)| name == "PATH");
    let path = path.map_or(OsStr::new(DEFAULT_PATH), |(_, value)| value.as_os_str());
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join("bash"))
        .find(|bash| is_program(bash))
        .map_or_else(|| "/bin/sh".into(), PathBuf::into_os_string)
}

fn is_program(path: &Path) -> bool {
    rustix::fs::stat(path)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
        && rustix::fs::access(path, Access::EXEC_OK).is_ok()
}

/// Our ends of a command's pipes. They do not block.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    pub(crate) stdin: Option<OwnedFd>,
    /// Also what is read and written when it is a terminal.
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    pub(crate) is_terminal: bool,
}

/// Pipes as the command wants them, the other ends put into `spec`.
pub(crate) fn make_pipes(exec: &Exec, spec: &mut SpawnSpec) -> io::Result<Pipes> {
    let pipe = || -> io::Result<(OwnedFd, OwnedFd)> { Ok(pipe_with(PipeFlags::CLOEXEC)?) };
    let mut pipes = Pipes::default();
    let (reader, writer) = pipe()?;
    rustix::io::ioctl_fionbio(&reader, true)?;
    pipes.stdout = Some(reader);
    if exec.merge_output {
        spec.stderr = Some(writer.try_clone()?);
    } else {
        let (reader, writer) = pipe()?;
        rustix::io::ioctl_fionbio(&reader, true)?;
        pipes.stderr = Some(reader);
        spec.stderr = Some(writer);
    }
    spec.stdout = Some(writer);
    if exec.stdin {
        let (reader, writer) = pipe()?;
        rustix::io::ioctl_fionbio(&writer, true)?;
        pipes.stdin = Some(writer);
        spec.stdin = Some(reader);
    }
    if let Some(user) = &spec.user {
        // Programs open their streams again by `/dev/stdout` and the like.
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        for end in [&spec.stdin, &spec.stdout, &spec.stderr]
            .into_iter()
            .flatten()
        {
            rustix::fs::fchown(end, Some(uid), Some(gid))?;
        }
    }
    Ok(pipes)
}
