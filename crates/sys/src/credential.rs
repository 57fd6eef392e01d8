//! Users, groups and capabilities of the calling process.
//!
//! The kernel keeps them per thread; all functions but [`become_user`] are for
//! programs with one thread and change the calling thread only.

use std::io;

use rustix::{
    process::{Gid, Uid},
    thread::{
        CapabilitySet, CapabilitySets, capability_is_in_bounding_set, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities,
        set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};

/// Gives the calling thread the ids `uid` and `gid` in all roles and no other group.
///
/// # Errors
/// The kernel's.
pub fn set_ids(uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

/// Like [`set_ids`], but keeps all permitted capabilities, effective ones included.
///
/// # Errors
/// The kernel's.
pub fn set_ids_keeping_capabilities(uid: u32, gid: u32) -> io::Result<()> {
    set_keep_capabilities(true)?;
    set_ids(uid, gid)?;
    let mut sets = rustix::thread::capabilities(None)?;
    sets.effective = sets.permitted;
    set_capabilities(None, sets)?;
    Ok(())
}

/// Leaves the calling thread `allowed` at most: in its bounding, permitted,
/// effective and inheritable sets; the ambient set becomes empty.
///
/// # Errors
/// The kernel's; the calling thread needs `CAP_SETPCAP`.
pub fn limit_capabilities(allowed: CapabilitySet) -> io::Result<()> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(capability) {
            Ok(true) if !allowed.contains(capability) => {
                remove_capability_from_bounding_set(capability)?;
            }
            Ok(_) => {}
            // The first number that the kernel does not know ends the list.
            Err(_) => break,
        }
    }
    clear_ambient_capability_set()?;
    let allowed = allowed & rustix::thread::capabilities(None)?.permitted;
    set_capabilities(
        None,
        CapabilitySets {
            effective: allowed,
            permitted: allowed,
            inheritable: allowed,
        },
    )?;
    Ok(())
}

/// Turns the whole process, all its threads, into `uid` and `gid` with no
/// other group and no capability, for good.
///
/// # Errors
/// The kernel's; `EPERM` when the process is not privileged.
pub fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    let check = |result: libc::c_int| {
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // SAFETY: a length of zero means that the pointer is not read.
    check(unsafe { libc::setgroups(0, std::ptr::null()) })?;
    // SAFETY: takes numbers only; the C library changes all threads.
    check(unsafe { libc::setresgid(gid, gid, gid) })?;
    // SAFETY: as above.
    check(unsafe { libc::setresuid(uid, uid, uid) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_set_leaves_nothing() {
        // Credentials belong to the thread, so a thread can be thrown away.
        std::thread::spawn(|| {
            limit_capabilities(CapabilitySet::empty()).unwrap();
            let sets = rustix::thread::capabilities(None).unwrap();
            assert!(sets.effective.is_empty() && sets.permitted.is_empty());
            assert!(!capability_is_in_bounding_set(CapabilitySet::SYS_ADMIN).unwrap());
        })
        .join()
        .unwrap();
    }
}
