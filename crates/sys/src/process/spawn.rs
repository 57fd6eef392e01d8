//! Starting programs.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    fmt, io,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    ptr,
};

use rustix::process::Pid;

use super::{close_on_exec_from, reap};

/// Stack of a child between its creation and its `execve`: it calls nothing deep.
const CHILD_STACK_BYTES: usize = 64 << 10;

/// Unmapped bytes below that stack, so that an overflow faults instead of corrupting.
const GUARD_BYTES: usize = 4 << 10;

/// First signal number and the last one Linux has.
const SIGNALS: std::ops::RangeInclusive<c_int> = 1..=64;

/// A program to start and what to set up for it.
#[derive(Debug)]
pub struct Program<'a> {
    /// Paths to try in turn, as `execvp` does with `PATH`.
    pub candidates: &'a [&'a CStr],
    /// The arguments, the program's name first.
    pub arguments: &'a [&'a CStr],
    /// The environment, each as `NAME=value`.
    pub environment: &'a [&'a CStr],
    /// Working directory; the caller's when absent.
    pub directory: Option<&'a CStr>,
    /// Descriptors it gets, with their numbers; 0 to 2 are inherited when not
    /// named, others not.
    pub descriptors: &'a [(BorrowedFd<'a>, RawFd)],
    /// `cgroup.procs` files to join before anything else.
    pub cgroups: &'a [BorrowedFd<'a>],
    /// `oom_score_adj` as text; a failure to set it is ignored.
    pub oom_score_adj: Option<&'a CStr>,
    /// How many files it may have open, at most what the caller could allow itself;
    /// as the caller when absent. A failure to set it is ignored.
    pub open_files: Option<u64>,
    /// Whether it leads a session and process group of its own.
    pub new_session: bool,
    /// Whether it becomes a child of the caller's parent instead of the caller.
    pub sibling: bool,
    /// The ids it runs under; the caller's when absent.
    pub user: Option<UserIds<'a>>,
    /// Whether its standard input becomes its controlling terminal; it must
    /// lead a session of its own.
    pub terminal: bool,
    /// Where it writes its process id (`i32`, little endian) right before it is
    /// executed: once it runs, it may end the caller before the caller can tell.
    pub announce: Option<BorrowedFd<'a>>,
}

/// The ids of a user.
#[derive(Clone, Copy, Debug)]
pub struct UserIds<'a> {
    /// The user, in all roles.
    pub uid: u32,
    /// The group, in all roles.
    pub gid: u32,
    /// The groups besides.
    pub groups: &'a [u32],
}

/// The steps of [`spawn`], in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SpawnStep {
    /// Making the process.
    Clone = 1,
    /// Joining the cgroups.
    Cgroup = 2,
    /// Leading a session.
    Session = 3,
    /// Entering the working directory.
    Directory = 4,
    /// Becoming the user.
    User = 5,
    /// Arranging the descriptors.
    Descriptors = 6,
    /// Taking the controlling terminal.
    Terminal = 7,
    /// Executing the program.
    Execute = 8,
}

impl SpawnStep {
    /// The step with this number, as sent between processes.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        [
            Self::Clone,
            Self::Cgroup,
            Self::Session,
            Self::Directory,
            Self::User,
            Self::Descriptors,
            Self::Terminal,
            Self::Execute,
        ]
        .into_iter()
        .find(|step| *step as i32 == number)
    }
}

impl fmt::Display for SpawnStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clone => "make the process",
            Self::Cgroup => "join the cgroup",
            Self::Session => "start a session",
            Self::Directory => "enter the working directory",
            Self::User => "become the user",
            Self::Descriptors => "arrange the descriptors",
            Self::Terminal => "take the terminal",
            Self::Execute => "execute the program",
        })
    }
}

/// Why a program was not started.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}: {source}")]
pub struct SpawnError {
    /// The step that failed.
    pub step: SpawnStep,
    /// The OS error.
    pub source: io::Error,
}

/// What the child needs, laid out before it exists, because between its
/// creation and `execve` it may not allocate. Pointers lead into [`Program`].
struct Prepared {
    candidates: Vec<*const c_char>,
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    directory: *const c_char,
    descriptors: Vec<(RawFd, RawFd)>,
    cgroups: Vec<RawFd>,
    oom_score_adj: Option<(*const c_void, usize)>,
    open_files: Option<u64>,
    new_session: bool,
    user: Option<(u32, u32, *const u32, usize)>,
    terminal: bool,
    announce: Option<RawFd>,
    /// Written by the child: which step failed, and the OS error.
    failure: Option<(SpawnStep, c_int)>,
}

/// Starts a program. All signals have their default action and none is
/// blocked in it. It returns once the program is executed or has failed to be.
///
/// The child borrows the caller's memory and the calling thread waits meanwhile
/// (as with `vfork`), so that the cost does not grow with the caller's memory.
///
/// # Errors
/// With the step that failed.
pub fn spawn(program: &Program<'_>) -> Result<Pid, SpawnError> {
    let fail = |source| SpawnError {
        step: SpawnStep::Clone,
        source,
    };
    let mut prepared = prepare(program);
    let stack = Stack::new().map_err(fail)?;
    let mut flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    if program.sibling {
        flags |= libc::CLONE_PARENT;
    }
    // A signal handler must not run in the child: it would see the caller's
    // memory in a process it does not know.
    let mask = block_signals();
    // SAFETY: `child` has the type `clone` asks for; the stack is mapped, ours
    // alone, and outlives the call, because with CLONE_VFORK `clone` returns
    // only when the child has executed its program or ended; `prepared` lives
    // as long, and nobody else touches it meanwhile.
    let result = unsafe {
        libc::clone(
            child,
            stack.top(),
            flags,
            ptr::from_mut(&mut prepared).cast(),
        )
    };
    let clone_error = io::Error::last_os_error();
    restore_signals(&mask);
    // `from_raw` takes no negative numbers.
    let pid = Pid::from_raw(result.max(0)).ok_or_else(|| fail(clone_error))?;
    match prepared.failure {
        None => Ok(pid),
        Some((step, errno)) => {
            if !program.sibling {
                // It has ended or is about to: nothing else will wait for it.
                let _ = reap(pid);
            }
            Err(SpawnError {
                step,
                source: io::Error::from_raw_os_error(errno),
            })
        }
    }
}

fn prepare(program: &Program<'_>) -> Prepared {
    let pointers = |texts: &[&CStr]| -> Vec<*const c_char> {
        let ends = std::iter::once(ptr::null());
        texts.iter().map(|text| text.as_ptr()).chain(ends).collect()
    };
    Prepared {
        candidates: program
            .candidates
            .iter()
            .map(|path| path.as_ptr())
            .collect(),
        arguments: pointers(program.arguments),
        environment: pointers(program.environment),
        directory: program.directory.map_or(ptr::null(), CStr::as_ptr),
        descriptors: program
            .descriptors
            .iter()
            .map(|(descriptor, target)| (descriptor.as_raw_fd(), *target))
            .collect(),
        cgroups: program
            .cgroups
            .iter()
            .map(|file| file.as_raw_fd())
            .collect(),
        oom_score_adj: program
            .oom_score_adj
            .map(|text| (text.as_ptr().cast(), text.count_bytes())),
        open_files: program.open_files,
        new_session: program.new_session,
        user: program
            .user
            .map(|user| (user.uid, user.gid, user.groups.as_ptr(), user.groups.len())),
        terminal: program.terminal,
        announce: program.announce.map(|file| file.as_raw_fd()),
        failure: None,
    }
}

/// The child, from its first instruction to `execve`. It shares the caller's
/// memory: only calls that neither allocate nor lock.
extern "C" fn child(argument: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes a pointer to its `Prepared`, which it does not
    // touch until this process has executed a program or ended.
    let prepared = unsafe { &mut *argument.cast::<Prepared>() };
    let (step, errno) = become_program(prepared);
    prepared.failure = Some((step, errno));
    // SAFETY: ends this process without running anything of the caller's.
    unsafe { libc::_exit(127) }
}

/// Returns only on failure.
fn become_program(prepared: &mut Prepared) -> (SpawnStep, c_int) {
    for file in &prepared.cgroups {
        // SAFETY: one byte of a literal is read.
        if unsafe { libc::write(*file, c"0".as_ptr().cast(), 1) } != 1 {
            return (SpawnStep::Cgroup, errno());
        }
    }
    if let Some((text, length)) = prepared.oom_score_adj {
        set_oom_score_adj(text, length);
    }
    if let Some(number) = prepared.open_files {
        limit_open_files(number);
    }
    reset_signals();
    // SAFETY: changes only this process.
    if prepared.new_session && unsafe { libc::setsid() } < 0 {
        return (SpawnStep::Session, errno());
    }
    // SAFETY: a null-terminated text that outlives the call.
    if !prepared.directory.is_null() && unsafe { libc::chdir(prepared.directory) } != 0 {
        return (SpawnStep::Directory, errno());
    }
    // After the directory, which may be one that only the caller can enter.
    if let Some(user) = prepared.user
        && let Err(errno) = become_user(user)
    {
        return (SpawnStep::User, errno);
    }
    // Before the descriptors are arranged, which may replace this one.
    if let Some(file) = prepared.announce {
        announce(file);
    }
    if let Err(errno) = place_descriptors(&mut prepared.descriptors) {
        return (SpawnStep::Descriptors, errno);
    }
    // SAFETY: an argument of zero takes no terminal away from anybody else.
    if prepared.terminal && unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } != 0 {
        return (SpawnStep::Terminal, errno());
    }
    (SpawnStep::Execute, execute(prepared))
}

fn errno() -> c_int {
    // Does not allocate. The thread whose errno it is waits while the child runs.
    io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO)
}

/// Groups first: afterwards the right to change them is gone. By system calls,
/// because the C library would change all threads of the caller as well.
fn become_user((uid, gid, groups, length): (u32, u32, *const u32, usize)) -> Result<(), c_int> {
    let check = |result: libc::c_long| if result == 0 { Ok(()) } else { Err(errno()) };
    // SAFETY: `groups` points to `length` numbers that live on, see `prepare`.
    check(unsafe { libc::syscall(libc::SYS_setgroups, length, groups) })?;
    // SAFETY: takes numbers only; changes this process alone.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })
}

/// Who does not read it misses nothing but the early word.
fn announce(file: RawFd) {
    // SAFETY: has no preconditions. A system call, so that it is the child's own number.
    let pid = unsafe { libc::getpid() }.to_le_bytes();
    // SAFETY: the bytes of a local array.
    unsafe { libc::write(file, pid.as_ptr().cast(), pid.len()) };
}

fn limit_open_files(number: u64) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: writes to a local variable.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0 {
        limit.rlim_cur = number.min(limit.rlim_max);
        // SAFETY: reads a local variable; changes this process alone, since limits
        // belong to processes and this is one of its own (no CLONE_THREAD).
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}

fn set_oom_score_adj(text: *const c_void, length: usize) {
    let path = c"/proc/self/oom_score_adj".as_ptr();
    // SAFETY: a null-terminated literal.
    let file = unsafe { libc::open(path, libc::O_WRONLY | libc::O_CLOEXEC) };
    if file >= 0 {
        // SAFETY: `text` has `length` bytes, see `prepare`.
        unsafe { libc::write(file, text, length) };
        // SAFETY: opened above, known to nobody else.
        unsafe { libc::close(file) };
    }
}

/// Default action for every signal, none blocked. By the system call, because
/// the C library keeps two signals to itself that a parent may have ignored.
fn reset_signals() {
    // The kernel's `struct sigaction` is at most this long; all zero is the default action.
    const DEFAULT: [u64; 4] = [0; 4];
    const SET_BYTES: usize = 8;
    let (default, none) = (DEFAULT.as_ptr(), ptr::null::<u64>());
    for signal in SIGNALS {
        // SAFETY: no handler is installed; without CLONE_SIGHAND the table is
        // the child's own. Signals that cannot be changed fail, harmlessly.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default, none, SET_BYTES) };
    }
    restore_signals(&empty_set());
}

/// Moves every descriptor out of the way of the targets, then to its target.
fn place_descriptors(descriptors: &mut [(RawFd, RawFd)]) -> Result<(), c_int> {
    let free = descriptors
        .iter()
        .map(|(_, target)| target + 1)
        .fold(3, RawFd::max);
    for (descriptor, _) in &mut *descriptors {
        // SAFETY: makes a new descriptor at or above `free`, clobbering none.
        let moved = unsafe { libc::fcntl(*descriptor, libc::F_DUPFD_CLOEXEC, free) };
        if moved < 0 {
            return Err(errno());
        }
        *descriptor = moved;
    }
    // What is not named does not go along, even if it was opened carelessly. A
    // kernel without this (before 5.11) leaves it to close-on-exec flags.
    let _ = close_on_exec_from(3);
    for (descriptor, target) in descriptors {
        // SAFETY: replaces a descriptor of this process alone (no CLONE_FILES).
        if unsafe { libc::dup2(*descriptor, *target) } < 0 {
            return Err(errno());
        }
    }
    Ok(())
}

/// Tries the candidates as `execvp` does; returns the error.
fn execute(prepared: &Prepared) -> c_int {
    let mut worst = libc::ENOENT;
    for path in &prepared.candidates {
        // SAFETY: null-terminated texts in null-terminated arrays that live on.
        unsafe {
            libc::execve(
                *path,
                prepared.arguments.as_ptr(),
                prepared.environment.as_ptr(),
            )
        };
        match errno() {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => worst = libc::EACCES,
            other => return other,
        }
    }
    worst
}

fn empty_set() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: writes the whole set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: written above.
    unsafe { set.assume_init() }
}

fn block_signals() -> libc::sigset_t {
    let (mut all, mut before) = (empty_set(), empty_set());
    // SAFETY: a valid set.
    unsafe { libc::sigfillset(&raw mut all) };
    // SAFETY: valid sets; it changes the calling thread's mask only.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) };
    before
}

fn restore_signals(mask: &libc::sigset_t) {
    // SAFETY: a valid set; it changes the calling thread's mask only.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, ptr::null_mut()) };
}

/// A mapped stack with a guard below.
struct Stack {
    base: *mut c_void,
}

impl Stack {
    const BYTES: usize = CHILD_STACK_BYTES + GUARD_BYTES;

    fn new() -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        // SAFETY: a new mapping at an address the kernel chooses.
        let base = unsafe { libc::mmap(ptr::null_mut(), Self::BYTES, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Self { base };
        // SAFETY: the first page of the mapping made above.
        if unsafe { libc::mprotect(base, GUARD_BYTES, libc::PROT_NONE) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(stack)
    }

    /// Stacks grow downwards from here; page-aligned, so aligned for any ABI.
    fn top(&self) -> *mut c_void {
        self.base.wrapping_byte_add(Self::BYTES)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, whose user has ended (see `spawn`).
        unsafe { libc::munmap(self.base, Self::BYTES) };
    }
}
