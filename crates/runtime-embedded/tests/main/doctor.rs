//! What the doctor says about this host, and about what was left lying around.

use std::{fs, process::Command};

use sandbox::{Id, Runtime as _};

use crate::support::{INIT, Place, SERVER, SPAWNER, spec};

/// In a process with one thread, as the command line is.
fn doctor(place: &Place) -> String {
    let output = Command::new(SERVER)
        .arg(place.path())
        .args([SPAWNER, INIT, "doctor"])
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_host_that_makes_sandboxes_is_healthy() {
    let place = Place::new();
    let embedded = place.start().await;
    let id = Id::random().unwrap();
    embedded.create(&id, &spec()).await.unwrap();
    let found = doctor(&place);
    assert!(
        found.contains("Pass image layers: id-mapped overlayfs works"),
        "{found}"
    );
    assert!(found.contains("Pass limits: cgroup"), "{found}");
    assert!(
        !found.contains("Fail") && !found.contains("Leak"),
        "{found}"
    );
    embedded.destroy(&id).await.unwrap();
    place.assert_nothing_left();
    let rest = fs::read_dir(place.state()).unwrap().flatten();
    assert!(
        rest.into_iter()
            .all(|entry| !entry.file_name().to_string_lossy().contains("probe"))
    );
}

#[tokio::test]
async fn what_lies_around_is_listed_and_swept() {
    let place = Place::new();
    drop(place.start().await);
    let ids: Vec<String> = (0..4).map(|_| Id::random().unwrap().to_string()).collect();
    fs::create_dir(place.state().join("trash").join(&ids[0])).unwrap();
    fs::create_dir(place.state().join("sandboxes").join(&ids[1])).unwrap();
    fs::write(
        place
            .path()
            .join("run/agents")
            .join(format!("{}.sock", ids[2])),
        "",
    )
    .unwrap();
    // All sandboxes are in one group for devices.
    let groups = place.cgroups().into_iter();
    for group in groups.filter(|group| !group.starts_with("/sys/fs/cgroup/devices")) {
        fs::create_dir(group.join(&ids[3])).unwrap();
    }
    let found = doctor(&place);
    for (kind, id) in ["trash", "folder", "socket", "control group"]
        .iter()
        .zip(&ids)
    {
        let line = found
            .lines()
            .find(|line| line.contains(id.as_str()))
            .unwrap();
        assert!(line.starts_with(&format!("Leak {kind} ")), "{line}");
    }
    let _embedded = place.start().await;
    place.assert_nothing_left();
    let found = doctor(&place);
    // Servers with another folder may have sandboxes on this host, whose links are seen, too.
    let mut leaks = found.lines().filter(|line| line.starts_with("Leak "));
    assert!(leaks.all(|line| line.starts_with("Leak link ")), "{found}");
}
