//! Terminals for programs, from the sandbox's own terminal devices.

use std::{io, os::fd::OwnedFd};

use agent_protocol::{Failure, FailureKind, TtySize};
use rustix::{
    fs::{Gid, Uid},
    pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{InputModes, OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize},
};

use crate::{
    failure::{failure, invalid},
    program::Pipes,
    spawn::SpawnSpec,
};

/// What programs are told about the terminal unless the request says otherwise.
const TERM: &str = "xterm-256color";

/// A terminal as the standard streams of a program.
///
/// # Errors
/// When the size is none, or the sandbox has no more terminals.
pub(crate) fn open(size: TtySize, spec: &mut SpawnSpec) -> Result<Pipes, Failure> {
    check(size)?;
    if !spec.env.iter().any(|(name, _)| name == "TERM") {
        spec.env.push(("TERM".into(), TERM.into()));
    }
    let pair = make(size, spec).map_err(|error| {
        let message = format!(
            "no terminal can be made: {error}; the sandbox has too many, or its /dev/ptmx is broken"
        );
        failure(FailureKind::LimitReached, message)
    });
    let master = pair?;
    Ok(Pipes {
        stdout: Some(master),
        is_terminal: true,
        ..Pipes::default()
    })
}

/// Changes the size of a terminal, of which its program hears.
///
/// # Errors
/// When the size is none.
pub(crate) fn resize(master: &OwnedFd, size: TtySize) -> Result<(), Failure> {
    check(size)?;
    tcsetwinsize(master, winsize(size))
        .map_err(|error| failure(FailureKind::Internal, format!("resizing failed: {error}")))
}

fn check(size: TtySize) -> Result<(), Failure> {
    if size.cols == 0 || size.rows == 0 {
        return Err(invalid(
            "a terminal has at least one column and one row; give 80 and 24, say",
        ));
    }
    Ok(())
}

fn winsize(size: TtySize) -> Winsize {
    Winsize {
        ws_row: size.rows,
        ws_col: size.cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// Our side; the other becomes the program's streams.
fn make(size: TtySize, spec: &mut SpawnSpec) -> io::Result<OwnedFd> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    unlockpt(&master)?;
    // By the master, not by a path, which could be another's.
    let program = ioctl_tiocgptpeer(&master, flags)?;
    tcsetwinsize(&master, winsize(size))?;
    if let Ok(mut modes) = tcgetattr(&program) {
        // Erasing takes whole characters.
        modes.input_modes |= InputModes::IUTF8;
        let _ = tcsetattr(&program, OptionalActions::Now, &modes);
    }
    if let Some(user) = &spec.user {
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        rustix::fs::fchown(&program, Some(uid), Some(gid))?;
    }
    rustix::io::ioctl_fionbio(&master, true)?;
    spec.stdin = Some(program.try_clone()?);
    spec.stdout = Some(program.try_clone()?);
    spec.stderr = Some(program);
    spec.terminal = true;
    Ok(master)
}
