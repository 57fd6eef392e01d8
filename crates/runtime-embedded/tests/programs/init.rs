//! A first process for tests: runs each connection's shell script in the
//! workload's control groups and sends back what it prints.

use std::{
    io::{self, Read as _, Write as _},
    net::Shutdown,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    process::{Command, Stdio},
    sync::Mutex,
    thread,
};

/// What must stay open.
static KEPT: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());

fn main() -> io::Result<()> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    let arguments: Vec<String> = std::env::args().collect();
    let mut groups = Vec::new();
    let mut listen = None;
    for pair in arguments[1..].chunks(2) {
        match pair {
            [name, value] if name == "--cgroup-fd" => groups.push(value.clone()),
            [name, value] if name == "--listen-fd" => listen = value.parse().ok(),
            _ => {}
        }
    }
    let listen = listen.ok_or(io::ErrorKind::InvalidInput)?;
    let listener = UnixListener::from(sys::process::take_inherited(listen)?);
    for connection in listener.incoming() {
        let (connection, groups) = (connection?, groups.clone());
        thread::spawn(move || run(connection, &groups));
    }
    Ok(())
}

/// Takes as many instances of inotify as the kernel gives, and keeps them.
fn take_watches(mut connection: UnixStream) -> io::Result<()> {
    use rustix::fs::inotify::{CreateFlags, init};
    let taken: Vec<OwnedFd> = std::iter::from_fn(|| init(CreateFlags::empty()).ok())
        .take(1000)
        .collect();
    write!(connection, "{}", taken.len())?;
    connection.shutdown(Shutdown::Both)?;
    KEPT.lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
        .extend(taken);
    Ok(())
}

fn run(mut connection: UnixStream, groups: &[String]) -> io::Result<()> {
    let mut script: String = groups
        .iter()
        .map(|fd| format!("echo 0 >&{fd}; exec {fd}>&-; "))
        .collect();
    let mut order = String::new();
    connection.read_to_string(&mut order)?;
    if order == "take watches" {
        return take_watches(connection);
    }
    script.push_str(&order);
    let output = OwnedFd::from(connection.try_clone()?);
    let errors = OwnedFd::from(connection.try_clone()?);
    let status = Command::new("/bin/busybox")
        .args(["sh", "-c", &script])
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .status();
    if let Err(error) = status {
        writeln!(connection, "cannot run: {error}")?;
    }
    connection.shutdown(Shutdown::Both)
}
