//! Running `nft` and its like: short, with a deadline, with nothing of our environment.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};

/// Where administration programs live; the search path of the caller is not trusted.
const FOLDERS: [&str; 6] = [
    "/usr/sbin",
    "/sbin",
    "/usr/bin",
    "/bin",
    "/usr/local/sbin",
    "/run/current-system/sw/bin",
];
/// A whole table takes 5 ms; a host under load gets a thousand times that.
const DEADLINE: Duration = Duration::from_secs(5);
/// How much of the output is read; the list of all chains of a large host fits.
const OUTPUT_BYTES_MAX: u64 = 1024 * 1024;

/// What a program left behind.
#[derive(Debug)]
pub(super) struct Output {
    /// Whether it did what it was asked to.
    pub(super) success: bool,
    /// What it wrote to standard output.
    pub(super) text: String,
    /// What it wrote to standard error.
    pub(super) problem: String,
}

/// The program called `name`, if it is installed.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    FOLDERS
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.is_file())
}

/// Runs `program` with `input` on its standard input until it ends.
///
/// # Errors
/// When it cannot be started, or did not end within 5 seconds (it is killed then).
pub(super) fn run(program: &Path, arguments: &[&str], input: &str) -> io::Result<Output> {
    // Files in memory instead of pipes: nobody has to read and write at the same time.
    let mut stdin = memory_file("input")?;
    stdin.write_all(input.as_bytes())?;
    stdin.rewind()?;
    let (stdout, stderr) = (memory_file("output")?, memory_file("problem")?);
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(stdout.try_clone()?))
        .stderr(Stdio::from(stderr.try_clone()?))
        .spawn()?;
    let ended = wait_until_ended(child.id());
    if !matches!(ended, Ok(true)) {
        child.kill()?;
    }
    let exit_code = child.wait();
    if !ended? {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("it did not end within {} seconds", DEADLINE.as_secs()),
        ));
    }
    let problem = content(stderr)?;
    let success = match exit_code {
        Ok(status) => status.success(),
        // The calling process ignores SIGCHLD, so the kernel has thrown the exit code
        // away; the programs that are run here complain if and only if they fail.
        Err(error) if is(&error, Errno::CHILD) => problem.is_empty(),
        Err(error) => return Err(error),
    };
    Ok(Output {
        success,
        text: content(stdout)?,
        problem,
    })
}

fn content(mut file: File) -> io::Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn is(error: &io::Error, number: Errno) -> bool {
    error.raw_os_error() == Some(number.raw_os_error())
}

fn wait_until_ended(process: u32) -> io::Result<bool> {
    let process = i32::try_from(process)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(io::ErrorKind::InvalidInput)?;
    let descriptor = match pidfd_open(process, PidfdFlags::empty()) {
        Ok(descriptor) => descriptor,
        // Gone already, and nobody waits for its exit code: see `run`.
        Err(Errno::SRCH) => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    let timeout = Timespec::try_from(DEADLINE).map_err(|_| io::ErrorKind::InvalidInput)?;
    loop {
        let mut events = [PollFd::new(&descriptor, PollFlags::IN)];
        match poll(&mut events, Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            // Starts the deadline anew, which signals cannot do forever: we get none in numbers.
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn memory_file(name: &str) -> io::Result<File> {
    Ok(File::from(memfd_create(name, MemfdFlags::CLOEXEC)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Output {
        run(Path::new("/bin/sh"), &["-c", script], "text\n").unwrap()
    }

    #[test]
    fn input_goes_in_and_both_outputs_come_back() {
        let output = shell("cat; echo problem >&2; exit 3");
        assert!(!output.success);
        assert_eq!(output.text, "text\n");
        assert_eq!(output.problem, "problem\n");
        assert!(shell("exit 0").success);
    }

    #[test]
    fn it_works_where_the_exit_code_is_thrown_away() {
        let name = "network::program::tests::it_works_where_the_exit_code_is_thrown_away";
        let signals = std::fs::read_to_string("/proc/self/status").unwrap();
        let ignored = signals
            .lines()
            .find_map(|line| line.strip_prefix("SigIgn:\t"));
        let ignored = u64::from_str_radix(ignored.unwrap(), 16).unwrap();
        if ignored & (1 << 16) == 0 {
            let status = Command::new("env")
                .arg("--ignore-signal=CHLD")
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", "--nocapture", name])
                .status();
            assert!(status.unwrap().success());
            return;
        }
        for _ in 0..20 {
            assert!(shell("exit 0").success);
            assert!(!shell("echo problem >&2; exit 3").success);
        }
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let started = std::time::Instant::now();
        let error = run(Path::new("/bin/sleep"), &["60"], "").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}
