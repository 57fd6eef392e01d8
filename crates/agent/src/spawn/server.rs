//! The spawner: the process that starts programs in the workload's cgroup.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
    process::ExitCode,
};

use rustix::process::Pid;
use sys::process::{Program, SpawnStep, UserIds};

use super::{DEFAULT_PATH, socket, wire};

/// The argument that makes this program the spawner.
pub(crate) const ARGUMENT: &str = "--spawner";

/// The number of its end of the socket.
const SOCKET: RawFd = 3;

/// How willingly the kernel ends programs for lack of memory: more than the
/// agent and the rest of the host.
const OOM_SCORE_ADJ: &CStr = c"500";

/// Most folders of a `PATH` that are tried.
const CANDIDATES_MAX: usize = 64;

/// What to start for a spawner: this program again.
pub(super) struct ServerProgram<'a> {
    descriptors: [(BorrowedFd<'a>, RawFd); 1],
    cgroups: &'a [BorrowedFd<'a>],
    open_files: Option<u64>,
}

pub(super) fn program<'a>(
    socket: BorrowedFd<'a>,
    cgroups: &'a [BorrowedFd<'a>],
    open_files: Option<u64>,
) -> ServerProgram<'a> {
    ServerProgram {
        descriptors: [(socket, SOCKET)],
        cgroups,
        open_files,
    }
}

impl ServerProgram<'_> {
    pub(super) fn borrow(&self) -> Program<'_> {
        Program {
            candidates: &[c"/proc/self/exe"],
            arguments: &[c"sandboxai-agent", c"--spawner"],
            environment: &[],
            directory: Some(c"/"),
            descriptors: &self.descriptors,
            cgroups: self.cgroups,
            oom_score_adj: None,
            open_files: self.open_files,
            new_session: true,
            sibling: false,
            user: None,
            terminal: false,
            announce: None,
        }
    }
}

/// Serves until the agent is gone.
pub(crate) fn run() -> ExitCode {
    let serve = || -> io::Result<()> {
        let socket = sys::process::take_inherited(SOCKET)?;
        while let Some((message, descriptors)) = socket::receive(&socket)? {
            let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            let started = start(&message, &descriptors, Parent::Agent(&socket), None);
            socket::send_answer(&socket, started.map(drop))?;
        }
        Ok(())
    };
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Whose child a program becomes.
#[derive(Clone, Copy)]
pub(super) enum Parent<'a> {
    /// The process that starts it.
    Caller,
    /// The agent, as whose spawner this process starts it; the program says its number there.
    Agent(&'a OwnedFd),
}

/// Starts the program of a message.
///
/// # Errors
/// The step that failed, and the OS error.
pub(super) fn start(
    message: &[u8],
    descriptors: &[BorrowedFd<'_>],
    parent: Parent<'_>,
    open_files: Option<u64>,
) -> Result<Pid, (SpawnStep, i32)> {
    let malformed = (SpawnStep::Clone, rustix::io::Errno::INVAL.raw_os_error());
    let message = wire::decode(message).ok_or(malformed)?;
    if message.targets.len() != descriptors.len() {
        return Err(malformed);
    }
    let user = match message.user.as_slice() {
        [] => None,
        [uid, gid, groups @ ..] => Some(UserIds {
            uid: *uid,
            gid: *gid,
            groups,
        }),
        [_] => return Err(malformed),
    };
    let candidates = candidates(&message);
    let descriptors: Vec<_> = descriptors
        .iter()
        .copied()
        .zip(message.targets.iter().copied())
        .collect();
    let announce = match parent {
        Parent::Caller => None,
        Parent::Agent(socket) => Some(socket.as_fd()),
    };
    let program = Program {
        candidates: &texts(&candidates),
        arguments: &texts(&message.argv),
        environment: &texts(&message.env),
        directory: Some(&message.cwd),
        descriptors: &descriptors,
        cgroups: &[],
        oom_score_adj: Some(OOM_SCORE_ADJ),
        open_files,
        new_session: true,
        sibling: announce.is_some(),
        user,
        terminal: message.terminal,
        announce,
    };
    sys::process::spawn(&program).map_err(|error| {
        let errno = error.source.raw_os_error();
        (error.step, errno.unwrap_or(malformed.1))
    })
}

fn texts(owned: &[CString]) -> Vec<&CStr> {
    owned.iter().map(CString::as_c_str).collect()
}

/// The paths a program's name can mean.
fn candidates(message: &wire::Message) -> Vec<CString> {
    let Some(name) = message.argv.first() else {
        return Vec::new();
    };
    if name.as_bytes().contains(&b'/') {
        return vec![name.clone()];
    }
    let path = message
        .env
        .iter()
        .rev()
        .find_map(|variable| variable.as_bytes().strip_prefix(b"PATH="))
        .unwrap_or(DEFAULT_PATH.as_bytes());
    path.split(|byte| *byte == b':')
        .take(CANDIDATES_MAX)
        .filter_map(|folder| {
            // An empty entry means the working directory.
            let folder = if folder.is_empty() { b"." } else { folder };
            CString::new([folder, b"/", name.as_bytes()].concat()).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(argv: &CStr, env: &[&CStr]) -> Vec<String> {
        let message = wire::Message {
            cwd: c"/".to_owned(),
            targets: vec![],
            argv: vec![argv.to_owned()],
            env: env.iter().map(|text| (*text).to_owned()).collect(),
            user: vec![],
            terminal: false,
        };
        let found = candidates(&message);
        found
            .into_iter()
            .map(|c| c.into_string().unwrap())
            .collect()
    }

    #[test]
    fn names_are_looked_up_as_shells_do() {
        assert_eq!(names(c"./a", &[c"PATH=/bin"]), ["./a"]);
        assert_eq!(names(c"a", &[c"PATH=/x::/y"]), ["/x/a", "./a", "/y/a"]);
        assert_eq!(names(c"a", &[c"PATH=/x", c"PATH=/y"]), ["/y/a"]);
        assert_eq!(names(c"a", &[c"XPATH=/x"])[0], "/usr/local/sbin/a");
    }
}
