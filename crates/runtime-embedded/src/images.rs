//! Images, as the server asks the spawner about them: they belong to root.

use std::{
    fs::File,
    os::fd::{AsFd as _, BorrowedFd},
    time::Duration,
};

use async_trait::async_trait;
use sandbox::{FoundImage, Id, Image, Images, NewImage, Result};

use crate::{
    Embedded,
    embedded::unexpected,
    wire::{Answer, ImageRequest, Request},
};

/// How long a look at images may take.
const LOOK_DEADLINE: Duration = Duration::from_secs(15);
/// How long removing an image may take: many small files.
const REMOVE_DEADLINE: Duration = Duration::from_secs(120);
/// How long making one may take, an archive that arrives slowly included. Who
/// sends it has shorter deadlines of its own.
const MAKE_DEADLINE: Duration = Duration::from_secs(2 * 3600);

impl Embedded {
    async fn ask_images(
        &self,
        request: ImageRequest,
        attached: Option<BorrowedFd<'_>>,
        deadline: Duration,
    ) -> Result<Vec<FoundImage>> {
        let request = Request::Images { request };
        match self.ask_with(&request, attached, deadline).await? {
            (Answer::Images { images }, _) => images.into_iter().map(TryInto::try_into).collect(),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// As [`Embedded::ask_images`], for what answers with one image.
    async fn ask_image(
        &self,
        request: ImageRequest,
        attached: Option<BorrowedFd<'_>>,
        deadline: Duration,
    ) -> Result<FoundImage> {
        let mut images = self.ask_images(request, attached, deadline).await?;
        images
            .pop()
            .ok_or_else(|| sandbox::Error::internal("the spawner's answer names no image"))
    }
}

#[async_trait]
impl Images for Embedded {
    async fn list(&self) -> Result<Vec<FoundImage>> {
        self.ask_images(ImageRequest::List, None, LOOK_DEADLINE)
            .await
    }

    async fn find(&self, image: &Image) -> Result<FoundImage> {
        let image = image.to_string();
        self.ask_image(ImageRequest::Find { image }, None, LOOK_DEADLINE)
            .await
    }

    async fn find_built(&self, key: &str) -> Result<Option<FoundImage>> {
        let request = ImageRequest::FindBuilt {
            key: key.to_owned(),
        };
        let mut found = self.ask_images(request, None, LOOK_DEADLINE).await?;
        Ok(found.pop())
    }

    async fn remove(&self, image: &Image) -> Result<()> {
        self.forget(image);
        let image = image.to_string();
        self.ask_images(ImageRequest::Remove { image }, None, REMOVE_DEADLINE)
            .await?;
        Ok(())
    }

    async fn import(&self, archive: File, name: Option<&Image>) -> Result<FoundImage> {
        let name = name.map(ToString::to_string);
        let request = ImageRequest::Import { name };
        self.ask_image(request, Some(archive.as_fd()), MAKE_DEADLINE)
            .await
    }

    async fn derive(&self, image: &Image, new: &NewImage) -> Result<FoundImage> {
        let request = ImageRequest::Derive {
            image: image.to_string(),
            new: new.into(),
        };
        self.ask_image(request, None, MAKE_DEADLINE).await
    }

    async fn commit(&self, id: &Id, new: &NewImage) -> Result<FoundImage> {
        let request = ImageRequest::Commit {
            id: id.to_string(),
            new: new.into(),
        };
        self.ask_image(request, None, MAKE_DEADLINE).await
    }
}
