use std::sync::Arc;

use futures_util::StreamExt as _;
use sandbox::{Error, Fetch, Image, Kind, Result, Sink};
use tokio::io::AsyncWriteExt as _;

use crate::{
    ImageJobState,
    testing::{Bed, at},
};

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

/// Fetches images that exist, of any bytes.
#[derive(Debug)]
struct Fetches(&'static [&'static str]);

#[async_trait::async_trait]
impl Fetch for Fetches {
    async fn image(
        &self,
        image: &Image,
        archive: Sink<'_>,
        say: &(dyn Fn(String) + Send + Sync),
    ) -> Result<()> {
        if !self.0.contains(&image.as_str()) {
            return Err(Error::not_found(format!("no image {image} anywhere")));
        }
        say("layer 1 of 1".to_owned());
        // More than a pipe holds.
        archive.write_all(&[7; 300_000]).await.unwrap();
        Ok(())
    }

    async fn file(&self, _url: &str, _bytes_max: u64, content: Sink<'_>) -> Result<()> {
        content.write_all(b"from afar").await.unwrap();
        Ok(())
    }
}

async fn fetching(names: &'static [&'static str]) -> Bed {
    let mut bed = Bed::new().await;
    bed.control = bed.control.with_fetch(Arc::new(Fetches(names)));
    bed
}

#[tokio::test]
async fn an_image_that_is_not_here_is_pulled_once() {
    let bed = fetching(&["far/away:1"]).await;
    let control = &bed.control;
    let (a, b) = tokio::join!(
        control.ensure_image("far/away:1"),
        control.ensure_image("far/away:1")
    );
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(a, b);
    assert_eq!(a.name.as_deref(), Some("far/away:1"));
    assert_eq!(control.images().await.unwrap().len(), 1);
    let log: Vec<_> = control
        .image_job_log("far/away:1", true)
        .unwrap()
        .collect()
        .await;
    let log: Vec<u8> = log.into_iter().flat_map(|piece| piece.unwrap()).collect();
    let log = String::from_utf8(log).unwrap();
    assert!(log.starts_with("layer 1 of 1\nunpacking\npulled"), "{log}");
    let job = control.image_job("far/away:1").unwrap();
    assert_eq!(job.state, ImageJobState::Done(Box::new(a)));
}

#[tokio::test]
async fn what_cannot_be_pulled_is_told_and_ours_is_never_asked_for() {
    let bed = fetching(&[]).await;
    let error = bed.control.ensure_image("gone").await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    assert!(error.message.contains("anywhere"), "{error}");
    let error = bed.control.ensure_image("sandboxai/box").await.unwrap_err();
    assert!(error.message.contains("image build"), "{error}");
    assert!(bed.control.image_job("sandboxai/box").is_none());
    let bed = Bed::new().await;
    let error = bed.control.begin_pull("gone").await.unwrap_err();
    assert!(error.message.contains("images.fetch"), "{error}");
}
