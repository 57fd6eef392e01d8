//! Root is needed to start, and given up right after.

use std::fs;

use rustix::{
    process::{Gid, Uid, geteuid},
    thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use crate::{config::User, failure::Failure};

/// Refuses to go on without root.
pub(super) fn require_root() -> Result<(), Failure> {
    if geteuid().is_root() {
        return Ok(());
    }
    Err(
        Failure::general("the server needs root to start")
            .hint("start it with `sudo sandboxai serve`; only a small part keeps root, the server itself runs as a user without rights"),
    )
}

/// Becomes `user` for good: ids, groups and the right to gain others. Of all
/// groups those in `kept` stay.
pub(super) fn drop_to(user: User, kept: &[Gid]) -> Result<(), Failure> {
    let User::Id(id) = user else {
        tracing::info!("`server.user` is root: the server keeps root");
        return Ok(());
    };
    let step =
        |step: &str| Failure::to::<std::io::Error>(format!("cannot become user {id}: {step}"));
    // The calls below change one thread; that is the process only while it has no other.
    let threads = fs::read_dir("/proc/self/task")
        .map_err(step("reading /proc/self/task"))?
        .count();
    if threads != 1 {
        return Err(Failure::general(format!(
            "cannot become user {id}: the process has {threads} threads already"
        )));
    }
    let io = std::io::Error::from;
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    set_thread_groups(kept)
        .map_err(io)
        .map_err(step("setgroups"))?;
    set_thread_res_gid(gid, gid, gid)
        .map_err(io)
        .map_err(step("setresgid"))?;
    set_thread_res_uid(uid, uid, uid)
        .map_err(io)
        .map_err(step("setresuid"))?;
    set_no_new_privs(true)
        .map_err(io)
        .map_err(step("no_new_privs"))
}
