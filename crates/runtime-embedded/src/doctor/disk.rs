//! The disk that images and sandboxes lie on.

use std::path::Path;

use rustix::fs::{StatVfs, statfs, statvfs};
use sandbox::check::Check;

/// Less free space than this makes sandboxes fail soon.
const SPACE_BYTES_MIN: u64 = 1 << 30;
/// Less free files than this, too: an image alone has 50 000.
const FILES_MIN: u64 = 100_000;

/// What is known of a kind of file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Carries the writable layers of sandboxes.
    Good(&'static str),
    /// Carries them, and loses them with the power.
    Memory(&'static str),
    /// Cannot: no whiteouts, no attributes, or no id-mapped mounts.
    Bad(&'static str),
    /// Trying tells.
    Unknown,
}

/// By the numbers in `linux/magic.h`; that of ZFS is from its source.
fn kind(magic: u64) -> Kind {
    match magic {
        0xef53 => Kind::Good("ext4"),
        0x5846_5342 => Kind::Good("xfs"),
        0x9123_683e => Kind::Good("btrfs"),
        0xf2f5_2010 => Kind::Good("f2fs"),
        0x0102_1994 => Kind::Memory("tmpfs"),
        0x794c_7630 => Kind::Bad("overlayfs, as in a container"),
        0x6969 => Kind::Bad("NFS"),
        0xff53_4d42 | 0xfe53_4d42 => Kind::Bad("SMB"),
        0x0102_1997 => Kind::Bad("9p"),
        0x4d44 => Kind::Bad("FAT"),
        0x6573_5546 => Kind::Bad("FUSE"),
        _ => Kind::Unknown,
    }
}

pub(super) fn checks(state_dir: &Path) -> Vec<Check> {
    const NAME: &str = "disk space";
    // The folder appears with the first start; until then its parent counts.
    let existing = state_dir.ancestors().find(|path| path.exists());
    let found = existing.and_then(|path| Some((statfs(path).ok()?, statvfs(path).ok()?)));
    let Some((kind_of, space_of)) = found else {
        return vec![Check::warn(
            NAME,
            format!("cannot look at {}", state_dir.display()),
        )];
    };
    #[expect(
        clippy::cast_sign_loss,
        reason = "a number without a sign, whatever its type"
    )]
    let magic = kind_of.f_type as u64 & 0xffff_ffff;
    vec![
        file_system(kind(magic), magic, state_dir),
        space(&space_of, state_dir),
    ]
}

fn file_system(kind: Kind, magic: u64, state_dir: &Path) -> Check {
    const NAME: &str = "file system";
    let folder = state_dir.display();
    let fix = "set `server.state_dir` to a folder on ext4, xfs or btrfs";
    match kind {
        Kind::Good(name) => Check::pass(NAME, format!("{name} in {folder}")),
        Kind::Memory(name) => Check::warn(
            NAME,
            format!("{name} in {folder}: images and sandboxes are lost when the host restarts"),
        )
        .fix(fix),
        Kind::Bad(name) => Check::fail(
            NAME,
            format!("{name} in {folder}, which cannot carry the writable layers of sandboxes"),
        )
        .fix(fix),
        Kind::Unknown => Check::pass(
            NAME,
            format!("of kind {magic:#x} in {folder}; the check of image layers tries it"),
        ),
    }
}

fn space(info: &StatVfs, state_dir: &Path) -> Check {
    const NAME: &str = "disk space";
    let folder = state_dir.display();
    let bytes = info.f_bavail * info.f_frsize;
    // Some file systems do not count files.
    let few_files = info.f_files > 0 && info.f_favail < FILES_MIN;
    let problem = if bytes < SPACE_BYTES_MIN {
        format!("only {} MiB free in {folder}", bytes >> 20)
    } else if few_files {
        format!("room for only {} more files in {folder}", info.f_favail)
    } else {
        return Check::pass(NAME, format!("{} GiB free in {folder}", bytes >> 30));
    };
    Check::warn(NAME, problem).fix(
        "remove images (`sandboxai image ls`, `sandboxai image rm`) and sandboxes (`sandboxai rm`), or configure another `server.state_dir`",
    )
}

#[cfg(test)]
mod tests {
    use sandbox::check::Status;

    use super::*;

    #[test]
    fn kinds_are_told_by_their_number() {
        let status = |magic| file_system(kind(magic), magic, Path::new("/s")).status;
        assert_eq!(status(0xef53), Status::Pass);
        assert_eq!(status(0x0102_1994), Status::Warn);
        assert_eq!(status(0x794c_7630), Status::Fail);
        assert_eq!(status(0x6969), Status::Fail);
        assert_eq!(status(0x2fc1_2fc1), Status::Pass);
    }

    #[test]
    fn the_disk_of_a_folder_that_is_to_come_is_its_parents() {
        let folder = tempfile::tempdir().unwrap();
        let names: Vec<_> = checks(&folder.path().join("not/yet"))
            .into_iter()
            .map(|check| check.name)
            .collect();
        assert_eq!(names, ["file system", "disk space"]);
    }

    #[test]
    fn a_disk_may_be_full_of_files() {
        let mut info = statvfs("/").unwrap();
        (info.f_bavail, info.f_frsize) = (1 << 30, 4096);
        (info.f_files, info.f_favail) = (1_000_000, 200_000);
        assert_eq!(space(&info, Path::new("/s")).finding, "4096 GiB free in /s");
        info.f_favail = 99;
        assert_eq!(
            space(&info, Path::new("/s")).finding,
            "room for only 99 more files in /s"
        );
        info.f_bavail = 5;
        assert_eq!(
            space(&info, Path::new("/s")).finding,
            "only 0 MiB free in /s"
        );
        info.f_files = 0;
        info.f_bavail = 1 << 30;
        assert_eq!(space(&info, Path::new("/s")).status, Status::Pass);
    }
}
