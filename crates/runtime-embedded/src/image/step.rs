//! Programs that a build runs: on the host, and inside the image being built.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Seek, SeekFrom, Write},
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    time::Instant,
};

use super::{ImageError, Progress, workspace::Workspace};

/// Longest time of one step, seconds: a slow mirror, not a hanging one.
const STEP_TIMEOUT_S: u32 = 3600;
/// How much of a failed step's output is shown.
const OUTPUT_LINES: usize = 25;
const OUTPUT_BYTES: u64 = 8 << 10;
/// Where a step inside finds what the host gives it.
pub(super) const SHARE: &str = "/run/build";

/// Makes the image's folder the root of a private mount namespace, with its own
/// /proc, /dev and /tmp, and runs the command there with few capabilities.
///
/// A recipe is as trusted as a makefile: this keeps its mistakes off the host,
/// and hides the host's files from what it installs; it is not the sandbox.
/// Before the root is changed only folders directly below it are touched, and
/// only when they are no links.
const ENTER: &str = r#"
set -euC
root=$1 share=$2 recipe=$3 temporary=$4 command=$5
for name in dev etc proc run tmp; do
    if [ -L "$root/$name" ] || [ ! -d "$root/$name" ]; then
        echo "/$name of the image is not a folder" >&2
        exit 1
    fi
done
mount --bind "$root" "$root"
mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs "$root/run"
mkdir "$root/run/build" "$root/run/lock"
mount --bind "$share" "$root/run/build"
mount --bind "$recipe" "$root/run/build/recipe"
mount -o remount,bind,ro "$root/run/build/recipe"
mount -o remount,bind,ro "$root/run/build"
mount --bind "$temporary" "$root/tmp"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount -t tmpfs -o mode=0755,nosuid,size=1m tmpfs "$root/dev"
for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
    numbers=${node#*:}
    mknod -m 0666 "$root/dev/${node%%:*}" c "${numbers%:*}" "${numbers#*:}"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/0 "$root/dev/stdin"
ln -s /proc/self/fd/1 "$root/dev/stdout"
ln -s /proc/self/fd/2 "$root/dev/stderr"
rm -f "$root/etc/resolv.conf"
cat /etc/resolv.conf >"$root/etc/resolv.conf"
cd "$root"
pivot_root . .
umount -l .
cd /
exec setpriv --no-new-privs --inh-caps=-all \
    --bounding-set=-all,+chown,+dac_override,+fowner,+fsetid,+kill,+net_bind_service,+setfcap,+setgid,+setuid \
    sh -euc "$command"
"#;

/// Runs the steps of one build and keeps their output.
#[derive(Debug)]
pub(super) struct Steps<'a> {
    pub(super) workspace: &'a Workspace,
    pub(super) environment: &'a BTreeMap<String, String>,
    /// The recipe's folder.
    pub(super) recipe: PathBuf,
    /// How many steps there will be.
    pub(super) count: usize,
    pub(super) done: usize,
}

impl Steps<'_> {
    /// The image's root folder while it is built.
    pub(super) fn root(&self) -> PathBuf {
        self.workspace.path("root")
    }

    /// Runs a shell command inside the image.
    pub(super) fn inside(
        &mut self,
        title: &str,
        command: &str,
        progress: &dyn Progress,
    ) -> Result<(), ImageError> {
        let mut program = contained();
        program
            .args(["--ipc", "--uts", "sh", "-c", ENTER, "sh"])
            .args([
                self.root(),
                self.workspace.path("share"),
                self.recipe.clone(),
                self.workspace.path("temporary"),
            ])
            .arg(command)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", "/root")
            .env("LANG", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .envs(self.environment);
        self.run(title, program, progress)
    }

    /// Runs a program on the host, in a mount and process namespace of its own.
    pub(super) fn outside(
        &mut self,
        title: &str,
        (name, package): (&'static str, &'static str),
        arguments: &[String],
        progress: &dyn Progress,
    ) -> Result<(), ImageError> {
        if !is_installed(name)? {
            return Err(ImageError::ToolMissing {
                program: name,
                package,
            });
        }
        let mut program = contained();
        program.args(["--mount-proc", name]).args(arguments);
        self.run(title, program, progress)
    }

    fn run(
        &mut self,
        title: &str,
        mut program: Command,
        progress: &dyn Progress,
    ) -> Result<(), ImageError> {
        self.done += 1;
        let title = format!("{}/{} {title}", self.done, self.count);
        progress.step(&title);
        let begin = Instant::now();
        let log_path = self.workspace.path("log");
        let mut log = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(&log_path)
            .map_err(ImageError::store("open", &log_path))?;
        let output = |error| ImageError::store("write", &log_path)(error);
        writeln!(log, "== {title}").map_err(output)?;
        let status = program
            .stdin(Stdio::from(self.workspace.lock()?))
            .stdout(Stdio::from(log.try_clone().map_err(output)?))
            .stderr(Stdio::from(log.try_clone().map_err(output)?))
            .status()
            .map_err(|source| missing_or("setpriv", "util-linux", source))?;
        if !status.success() {
            return Err(ImageError::BuildStep {
                step: title,
                how: ending(status),
                output: last_lines(log).map_err(output)?,
            });
        }
        progress.step(&format!("    took {:.1} s", begin.elapsed().as_secs_f64()));
        Ok(())
    }
}

/// A command in namespaces of its own. It ends with all its descendants after the
/// timeout at the latest, and when we end: the chain of death signals goes from
/// us to `timeout`, to `unshare`, and to the first process of the namespace.
fn contained() -> Command {
    let mut program = Command::new("setpriv");
    program.args(["--pdeathsig", "KILL", "timeout"]).args([
        // So that an interrupt from the terminal reaches the step too.
        "--foreground",
        "--kill-after=10",
        &STEP_TIMEOUT_S.to_string(),
    ]);
    program.args(["setpriv", "--pdeathsig", "KILL", "unshare"]);
    program.args(["--mount", "--propagation=private"]);
    program.args(["--pid", "--fork", "--kill-child"]);
    program
}

fn is_installed(program: &'static str) -> Result<bool, ImageError> {
    let status = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match status {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(source) => Err(ImageError::Tool { program, source }),
    }
}

/// Tells a program that is not installed from one that does not start.
pub(super) fn missing_or(
    program: &'static str,
    package: &'static str,
    source: std::io::Error,
) -> ImageError {
    if source.kind() == ErrorKind::NotFound {
        ImageError::ToolMissing { program, package }
    } else {
        ImageError::Tool { program, source }
    }
}

/// How a program ended, for people.
pub(super) fn ending(status: ExitStatus) -> String {
    /// What `timeout` says when the time is over.
    const TIMED_OUT: i32 = 124;
    match status.code() {
        Some(TIMED_OUT) => format!("was not done after {STEP_TIMEOUT_S} s"),
        Some(code) => format!("failed with exit code {code}"),
        None => format!("ended by a signal ({status})"),
    }
}

/// The end of the log.
fn last_lines(mut log: File) -> std::io::Result<String> {
    let length = log.seek(SeekFrom::End(0))?;
    log.seek(SeekFrom::Start(length.saturating_sub(OUTPUT_BYTES)))?;
    let mut bytes = Vec::new();
    log.take(OUTPUT_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(OUTPUT_LINES)..].join("\n"))
}
