//! Images made of sandboxes that run and are hostile.

use std::time::Duration;

use sandbox::{Id, ImageConfig, Images as _, Kind, NewImage, Runtime as _};

use crate::support::{Place, shell, spec};

/// What a sandbox does before an image is made of it.
const DEEDS: &str = "
B=/bin/busybox
$B mkdir -p /new/deep; $B echo kept > /new/deep/file; $B ln /new/deep/file /new/twin
$B cp $B /new/su; $B chmod 4755 /new/su; $B chown 1000:1001 /new/deep/file
$B mkdir /new/.wh.tmp; $B echo odd > '/new/.wh.bin'; $B echo odd > /.wh.lib
$B mkfifo /new/fifo; $B dd if=/dev/zero of=/new/sparse bs=1 count=1 seek=9999999 2>/dev/null
$B rm -r /root; $B mv /lib /moved; $B ln -s /moved /lib
$B sh -c 'while true; do echo x >> /tmp/growing; $B sleep 0.01; done' >/dev/null 2>&1 </dev/null &
$B sleep 0.2; $B echo done
";

/// What must be there in a sandbox of that image.
const LOOKS: &str = "
B=/bin/busybox
$B cat /new/deep/file; $B stat -c '%u:%g %h' /new/deep/file; $B stat -c '%a' /new/su
$B stat -c '%F' /new/.wh.tmp /new/fifo; $B cat /new/.wh.bin /.wh.lib
$B test -e /bin/busybox && $B test -e /tmp && $B test ! -e /root && $B echo as meant
$B ls /moved | $B wc -l; $B readlink /lib
$B stat -c '%s' /new/sparse
";

fn new(name: Option<&str>) -> NewImage {
    NewImage {
        name: name.map(|name| name.parse().unwrap()),
        config: ImageConfig {
            env: [("FROM".to_owned(), "image".to_owned())].into(),
            workdir: "/new".to_owned(),
            ..ImageConfig::default()
        },
        built_from: None,
    }
}

#[tokio::test]
async fn a_running_sandbox_becomes_an_image_and_runs_on() {
    let place = Place::new();
    let embedded = place.start().await;
    let id = Id::random().unwrap();
    embedded.create(&id, &spec()).await.unwrap();
    let moved = shell(&embedded, &id, "/bin/busybox ls /lib | /bin/busybox wc -l").await;
    let output = shell(&embedded, &id, DEEDS).await;
    assert!(output.ends_with("done\n"), "{output}");
    let made = embedded.commit(&id, &new(Some("mine:1"))).await.unwrap();
    assert_eq!(made.config.workdir, "/new");
    // It goes on doing what it did.
    let size = "/bin/busybox stat -c %s /tmp/growing";
    let before = shell(&embedded, &id, size).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_ne!(shell(&embedded, &id, size).await, before);
    embedded.destroy(&id).await.unwrap();

    let mut spec = spec();
    spec.image = "mine:1".parse().unwrap();
    let id = Id::random().unwrap();
    embedded.create(&id, &spec).await.unwrap();
    assert_eq!(
        shell(&embedded, &id, LOOKS).await,
        format!(
            "kept\n1000:1001 2\n4755\ndirectory\nfifo\nodd\nodd\nas meant\n{moved}/moved\n10000000\n"
        )
    );
    assert_eq!(shell(&embedded, &id, "echo $FROM").await, "image\n");
    embedded.destroy(&id).await.unwrap();
    embedded.remove(&spec.image).await.unwrap();
    let error = embedded.find(&spec.image).await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    place.assert_nothing_left();
}

#[tokio::test]
async fn a_paused_sandbox_stays_paused_and_strangers_are_not_found() {
    let place = Place::new();
    let embedded = place.start().await;
    let id = Id::random().unwrap();
    embedded.create(&id, &spec()).await.unwrap();
    embedded.pause(&id).await.unwrap();
    let made = embedded.commit(&id, &new(None)).await.unwrap();
    assert_eq!(made.name, None);
    let answer = tokio::time::timeout(
        Duration::from_millis(300),
        shell(&embedded, &id, "echo awake"),
    );
    assert!(answer.await.is_err(), "it must still be frozen");
    embedded.resume(&id).await.unwrap();
    assert_eq!(shell(&embedded, &id, "echo awake").await, "awake\n");
    embedded.destroy(&id).await.unwrap();
    let error = embedded.commit(&id, &new(None)).await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    place.assert_nothing_left();
}
