//! What a sandbox may use, and what it has used.

/// Upper bounds of one sandbox. They hold for everything that runs inside it
/// together; the agent has a small reserve of its own beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory in bytes, page cache of its own files included.
    pub memory_bytes: u64,
    /// CPU time per second in thousandths of one CPU: 1500 is one and a half CPUs.
    pub cpu_millis: u32,
    /// Processes and threads.
    pub pids: u32,
}

impl Default for Limits {
    /// 2 GiB, 2 CPUs, 1024 processes: enough for pip, a compiler or a browser.
    fn default() -> Self {
        Self {
            memory_bytes: 2 << 30,
            cpu_millis: 2000,
            pids: 1024,
        }
    }
}

/// What a sandbox uses now and has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory in use, bytes.
    pub memory_bytes: u64,
    /// CPU time since creation, microseconds.
    pub cpu_us: u64,
    /// Processes and threads now.
    pub pids: u32,
    /// How often the kernel killed a process for lack of memory.
    pub oom_kills: u64,
}
