use sandbox::Kind;

use crate::testing::{Bed, at};

#[tokio::test]
async fn images_are_found_by_alias_then_by_name_and_removed_by_name_only() {
    let bed = Bed::with(|config| {
        let target = "me/app:1".parse().unwrap();
        config.image_aliases.insert("daytona/*".to_owned(), target);
    })
    .await;
    bed.runtime.add_image("me/app:1");
    bed.runtime.add_image("other");
    let control = &bed.control;
    let found = control.find_image("daytona/anything:2").await.unwrap();
    assert_eq!(found.name.as_deref(), Some("me/app:1"));
    assert_eq!(found.env["FROM_IMAGE"], "me/app:1");
    assert_eq!(control.images().await.unwrap().len(), 2);
    let error = control.find_image("missing").await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    let error = control.remove_image("daytona/x").await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    control.remove_image("me/app:1").await.unwrap();
    assert_eq!(control.images().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_committed_image_keeps_what_its_base_said_and_no_name_is_taken_twice() {
    let bed = Bed::new().await;
    bed.runtime.add_image("sandboxai/box");
    bed.create("one").await.unwrap();
    let (space, name) = at("one");
    let control = &bed.control;
    let made = control.commit_image(&space, &name, "mine").await.unwrap();
    assert_eq!(made.name.as_deref(), Some("mine:latest"));
    assert_eq!(made.env["FROM_IMAGE"], "sandboxai/box");
    let again = control.commit_image(&space, &name, "mine:latest").await;
    assert_eq!(again.unwrap_err().kind, Kind::AlreadyExists);
    let (space, name) = at("missing");
    let error = control.commit_image(&space, &name, "more").await;
    assert_eq!(error.unwrap_err().kind, Kind::NotFound);
}
