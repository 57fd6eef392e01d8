//! What the first process of a sandbox may rely on.
//!
//! The runtime knows the agent as bytes only. It starts them from a sealed file
//! in memory, as process 1 of the sandbox, with:
//!
//! * **arguments** `agent --listen-fd 3 [--cgroup-fd N]… [--oom-fd M] --workdir DIR`
//! * **descriptors** 0, 1 and 2: the sandbox's `/dev/null`; [`LISTEN_FD`]: a
//!   listening Unix stream socket that only the server can connect to; each
//!   `--cgroup-fd`: a file of a control group opened for writing, into which a child
//!   that has one thread writes `0` to leave the agent's group for the workload's
//!   (there is one per tree of the first interface, or one in all); `--oom-fd`: a file opened
//!   for reading, with a line `oom_kill N`. No other descriptor is open.
//! * **environment** that of the image, over it that of the request, and
//!   `PATH`, `HOME` and `LANG` in any case. It is meant for the workload: the
//!   agent must not obey it.
//! * **working directory** `DIR`, checked to lie inside the sandbox.
//! * **identity** user and group 0 of the sandbox's own user namespace, no
//!   supplementary group, ten capabilities in all sets but the ambient one,
//!   `no_new_privs`, system call filters installed; default signal dispositions,
//!   no signal blocked, umask 022, a session of its own.
//! * **control group** the agent's own, with memory and processes apart from
//!   the workload's.
//!
//! In return it must call `prctl(PR_SET_DUMPABLE, 0)` before it starts anything,
//! because the workload has the same user and could trace it otherwise, must move
//! every child out of its control group, and must reap orphans. When it ends the
//! sandbox has ended.

/// The listening socket.
pub const LISTEN_FD: i32 = 3;
/// Name by which the agent sees itself.
pub const PROGRAM_NAME: &str = "agent";

/// The arguments for an agent with this many control groups.
///
/// Descriptors follow [`LISTEN_FD`] in the order of the arguments.
#[must_use]
pub(crate) fn arguments(cgroups: usize, oom: bool, workdir: &str) -> Vec<String> {
    let mut arguments = vec![
        PROGRAM_NAME.to_owned(),
        "--listen-fd".to_owned(),
        LISTEN_FD.to_string(),
    ];
    let mut next = LISTEN_FD + 1;
    let mut descriptor = |name: &str| {
        arguments.extend([name.to_owned(), next.to_string()]);
        next += 1;
    };
    for _ in 0..cgroups {
        descriptor("--cgroup-fd");
    }
    if oom {
        descriptor("--oom-fd");
    }
    arguments.extend(["--workdir".to_owned(), workdir.to_owned()]);
    arguments
}

#[cfg(test)]
mod tests {
    #[test]
    fn descriptors_are_numbered_in_order() {
        assert_eq!(
            super::arguments(2, true, "/w").join(" "),
            "agent --listen-fd 3 --cgroup-fd 4 --cgroup-fd 5 --oom-fd 6 --workdir /w"
        );
    }
}
