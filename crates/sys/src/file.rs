//! Opening and changing files without being led astray by links.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use rustix::{
    fs::{self, AtFlags, Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// `AT_EMPTY_PATH`: the descriptor itself is meant.
const EMPTY_PATH: AtFlags = AtFlags::from_bits_retain(libc::AT_EMPTY_PATH.unsigned_abs());

/// How often a lookup is tried again when a rename raced with it.
const RACE_ATTEMPTS_MAX: u32 = 16;

/// Opens a path that is not to lead through links of the kernel's making, such
/// as `/proc/self/fd/3` or `/proc/1/root`. The descriptor is close-on-exec,
/// never becomes the controlling terminal, and opening it does not wait.
///
/// # Errors
/// `ELOOP` for such a link; else as `openat`. On kernels before 5.6 the links
/// are followed.
pub fn open<Fd: AsFd>(
    directory: Fd,
    path: &CStr,
    flags: OFlags,
    mode: Mode,
) -> io::Result<OwnedFd> {
    open_with(directory, path, flags, mode, ResolveFlags::NO_MAGICLINKS)
}

/// Like [`open`], with more rules of resolution.
///
/// # Errors
/// As `openat2`; on kernels before 5.6 the rules are not applied.
pub fn open_with<Fd: AsFd>(
    directory: Fd,
    path: &CStr,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> io::Result<OwnedFd> {
    let flags = if flags.contains(OFlags::PATH) {
        flags | OFlags::CLOEXEC
    } else {
        flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK
    };
    for _ in 0..RACE_ATTEMPTS_MAX {
        match fs::openat2(directory.as_fd(), path, flags, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::NOSYS) => break,
            result => return Ok(result?),
        }
    }
    Ok(fs::openat(directory, path, flags, mode)?)
}

/// Changes the permission bits of what a descriptor refers to, which may have
/// been opened with `O_PATH`.
///
/// # Errors
/// As `chmod`.
pub fn change_mode<Fd: AsFd>(file: Fd, mode: Mode) -> io::Result<()> {
    let descriptor = file.as_fd().as_raw_fd();
    // SAFETY: a null-terminated literal; changes nothing but the file's mode.
    let result = unsafe {
        libc::syscall(
            SYS_FCHMODAT2,
            descriptor,
            c"".as_ptr(),
            mode.as_raw_mode(),
            libc::AT_EMPTY_PATH,
        )
    };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // Kernels before 6.6 lack the call; a seccomp filter may say EPERM instead.
    if !matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) {
        return Err(error);
    }
    let link = format!("/proc/self/fd/{descriptor}");
    Ok(fs::chmod(link, mode)?)
}

/// `fchmodat2` has the same number on every architecture.
const SYS_FCHMODAT2: libc::c_long = 452;

/// Changes the owner of what a descriptor refers to, which may have been
/// opened with `O_PATH`. A link itself is changed, not its target.
///
/// # Errors
/// As `chown`.
pub fn change_owner<Fd: AsFd>(
    file: Fd,
    owner: Option<fs::Uid>,
    group: Option<fs::Gid>,
) -> io::Result<()> {
    Ok(fs::chownat(file, c"", owner, group, EMPTY_PATH)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn links_of_the_kernels_making_are_refused() {
        for path in [
            c"/proc/self/exe",
            c"/proc/self/root/etc/passwd",
            c"/proc/self/cwd/x",
        ] {
            let error = open(CWD, path, OFlags::RDONLY, Mode::empty()).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ELOOP), "{path:?}");
        }
        open(CWD, c"/proc/self/status", OFlags::RDONLY, Mode::empty()).unwrap();
    }

    #[test]
    fn the_mode_of_an_unreadable_folder_can_be_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = std::ffi::CString::new(folder.path().to_str().unwrap()).unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o0)).unwrap();
        let opened = open(CWD, &path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        change_mode(&opened, Mode::from_raw_mode(0o750)).unwrap();
        change_owner(&opened, None, None).unwrap();
        let mode = std::fs::metadata(folder.path())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o750);
    }
}
