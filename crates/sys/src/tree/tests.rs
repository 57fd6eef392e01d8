use super::*;
use std::{
    fs::File,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use rustix::fs::CWD;

/// [`super::remove`] for a path.
fn remove_path(path: &Path) -> io::Result<()> {
    let parent = File::open(path.parent().unwrap()).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    remove(parent, &CString::new(name).unwrap())
}

/// Makes `levels` folders inside each other, each with a file.
fn deep(top: &Path, levels: usize) {
    let mut folder: OwnedFd = File::open(top).unwrap().into();
    for _ in 0..levels {
        fs::mkdirat(&folder, c"folder", Mode::RWXU).unwrap();
        let flags = OFlags::CREATE | OFlags::WRONLY;
        fs::openat(&folder, c"file", flags, Mode::RUSR).unwrap();
        folder = open_folder(folder.as_fd(), c"folder").unwrap().unwrap();
    }
}

#[test]
fn what_is_missing_is_a_success() {
    let top = tempfile::tempdir().unwrap();
    remove_path(&top.path().join("missing")).unwrap();
    for name in [c"", c".", c"..", c"a/b", c"/a"] {
        assert!(remove(File::open(top.path()).unwrap(), name).is_err());
    }
}

#[test]
fn trees_deeper_than_what_is_remembered_go() {
    let top = tempfile::tempdir().unwrap();
    let tree = top.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    deep(&tree, LEVELS_MAX + 4000);
    let before = open_descriptors_max();
    remove_path(&tree).unwrap();
    restore_descriptors_max(before);
    assert!(!tree.exists());
}

/// Few descriptors for this process, as a hostile limit would have it.
fn open_descriptors_max() -> rustix::process::Rlimit {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Nofile);
    let few = Rlimit {
        current: Some(256),
        maximum: before.maximum,
    };
    setrlimit(Resource::Nofile, few).unwrap();
    before
}

fn restore_descriptors_max(before: rustix::process::Rlimit) {
    rustix::process::setrlimit(rustix::process::Resource::Nofile, before).unwrap();
}

#[test]
fn wide_trees_go() {
    let top = tempfile::tempdir().unwrap();
    let tree = top.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    for number in 0..50_000 {
        if number % 10 == 0 {
            let folder = tree.join(format!("folder{number}"));
            std::fs::create_dir(&folder).unwrap();
            std::fs::create_dir(folder.join("inner")).unwrap();
        } else {
            File::create(tree.join(format!("file{number}"))).unwrap();
        }
    }
    let begun = std::time::Instant::now();
    remove_path(&tree).unwrap();
    println!("60,000 entries in {:?}", begun.elapsed());
    assert!(!tree.exists());
}

#[test]
fn links_are_removed_and_not_followed() {
    let top = tempfile::tempdir().unwrap();
    let (kept, tree) = (top.path().join("kept"), top.path().join("tree"));
    std::fs::create_dir(&kept).unwrap();
    std::fs::write(kept.join("file"), "x").unwrap();
    std::fs::create_dir(&tree).unwrap();
    symlink(&kept, tree.join("link")).unwrap();
    symlink("/nowhere", tree.join("dangling")).unwrap();
    symlink("..", tree.join("up")).unwrap();
    fs::mkfifoat(CWD, tree.join("pipe"), Mode::RUSR).unwrap();
    symlink(&tree, top.path().join("entrance")).unwrap();
    remove_path(&top.path().join("entrance")).unwrap();
    assert!(tree.exists());
    remove_path(&tree).unwrap();
    assert!(!tree.exists());
    assert_eq!(std::fs::read_to_string(kept.join("file")).unwrap(), "x");
}

/// Runs as an ordinary user, because root is not stopped by permissions.
#[test]
fn folders_without_permissions_go() {
    let top = tempfile::tempdir().unwrap();
    let tree = top.path().join("tree");
    std::fs::create_dir_all(tree.join("closed/inner")).unwrap();
    std::fs::write(tree.join("closed/inner/file"), "").unwrap();
    for folder in ["closed/inner", "closed", ""] {
        std::fs::set_permissions(tree.join(folder), PermissionsExt::from_mode(0o0)).unwrap();
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if rustix::process::geteuid().is_root() {
                chown_all(top.path());
                // For this thread only, as the system call does.
                let nobody = fs::Uid::from_raw(65534);
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            }
            assert!(
                std::fs::read_dir(&tree).is_err(),
                "not stopped by permissions"
            );
            remove_path(&tree).unwrap();
        });
    });
    assert!(!tree.exists());
}

fn chown_all(top: &Path) {
    let mut found = vec![top.to_owned()];
    while let Some(next) = found.pop() {
        if next.is_dir() {
            found.extend(std::fs::read_dir(&next).unwrap().map(|e| e.unwrap().path()));
        }
        std::os::unix::fs::chown(&next, Some(65534), None).unwrap();
    }
}

#[test]
fn the_way_up_is_checked() {
    let top = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(top.path().join("a/b")).unwrap();
    std::fs::create_dir(top.path().join("elsewhere")).unwrap();
    let a: OwnedFd = File::open(top.path().join("a")).unwrap().into();
    let b = open_folder(a.as_fd(), c"b").unwrap().unwrap();
    assert!(go_up(&b, identity(&a).unwrap()).unwrap().is_some());
    std::fs::rename(top.path().join("a/b"), top.path().join("elsewhere/b")).unwrap();
    assert!(go_up(&b, identity(&a).unwrap()).unwrap().is_none());
}

#[test]
fn removal_ends_while_others_rename_in_it() {
    let top = tempfile::tempdir().unwrap();
    let kept = top.path().join("kept");
    std::fs::create_dir(&kept).unwrap();
    std::fs::write(kept.join("file"), "x").unwrap();
    let tree = top.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    deep(&tree, 300);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (inner, outside) = (tree.join("folder/folder"), top.path().join("outside"));
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = std::fs::rename(&inner, &outside);
                let _ = std::fs::rename(&outside, &inner);
            }
        });
        let result = remove_path(&tree);
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        drop(result);
    });
    remove_path(&tree).unwrap();
    assert_eq!(std::fs::read_to_string(kept.join("file")).unwrap(), "x");
}
