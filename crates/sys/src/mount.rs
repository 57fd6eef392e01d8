//! The one call of the mount interface that `rustix` does not have.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

/// Properties of one mount, set by [`set_attributes`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Nothing can be written through it.
    pub read_only: bool,
    /// Set-user-id bits and file capabilities have no effect.
    pub no_set_uid: bool,
    /// Device nodes cannot be opened.
    pub no_devices: bool,
    /// Programs cannot be started from it.
    pub no_execute: bool,
}

/// Kernel layout of `struct mount_attr`, first version.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets `attributes` on the mount that `mount` refers to, and, with `user_namespace`,
/// shows its owners through the id map of that namespace.
///
/// An id map can be given once, and only to a mount that is not attached yet.
///
/// # Errors
/// The kernel's; `EINVAL` with a `user_namespace` means that the file system
/// or the kernel (before 5.12, overlayfs layers before 5.19) has no id-mapped mounts.
pub fn set_attributes(
    mount: impl AsFd,
    attributes: Attributes,
    user_namespace: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut attr = MountAttr {
        attr_set: attribute_bits(attributes),
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    if let Some(namespace) = user_namespace {
        attr.attr_set |= libc::MOUNT_ATTR_IDMAP;
        attr.userns_fd = u64::try_from(namespace.as_raw_fd())
            .expect("the descriptor of an open file is not negative");
    }
    // SAFETY: `attr` is a live `struct mount_attr` of the size given, the path
    // is a terminated empty string, and the descriptor is borrowed for the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn attribute_bits(attributes: Attributes) -> u64 {
    [
        (attributes.read_only, libc::MOUNT_ATTR_RDONLY),
        (attributes.no_set_uid, libc::MOUNT_ATTR_NOSUID),
        (attributes.no_devices, libc::MOUNT_ATTR_NODEV),
        (attributes.no_execute, libc::MOUNT_ATTR_NOEXEC),
    ]
    .into_iter()
    .filter_map(|(wanted, bit)| wanted.then_some(bit))
    .fold(0, |bits, bit| bits | bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_become_their_bits() {
        assert_eq!(attribute_bits(Attributes::default()), 0);
        let all = Attributes {
            read_only: true,
            no_set_uid: true,
            no_devices: true,
            no_execute: true,
        };
        assert_eq!(attribute_bits(all), 0b1111);
    }

    #[test]
    fn a_file_that_is_no_mount_is_refused() {
        let file = tempfile::tempfile().unwrap();
        let attributes = Attributes {
            read_only: true,
            ..Attributes::default()
        };
        assert!(set_attributes(&file, attributes, None).is_err());
    }
}
