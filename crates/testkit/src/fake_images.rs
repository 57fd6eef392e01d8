//! The images of the fake runtime: names and words without any file.

use std::{collections::BTreeMap, fs::File, io::Read as _};

use async_trait::async_trait;
use sandbox::{Error, FoundImage, Id, Image, ImageConfig, Images, NewImage, Result};

use crate::FakeRuntime;

/// All images, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct FakeImages {
    images: Vec<FoundImage>,
    made: u64,
}

impl FakeImages {
    pub(crate) fn add(&mut self, name: &str) {
        let new = NewImage {
            name: name.parse().ok(),
            config: ImageConfig {
                env: BTreeMap::from([("FROM_IMAGE".to_owned(), name.to_owned())]),
                workdir: "/".to_owned(),
                ..ImageConfig::default()
            },
            built_from: None,
        };
        self.make(&new);
    }

    fn make(&mut self, new: &NewImage) -> FoundImage {
        self.made += 1;
        let name = new.name.as_ref().map(full_name);
        self.images
            .retain(|image| name.is_none() || image.name != name);
        let image = FoundImage {
            name,
            digest: format!("sha256:{:064x}", self.made),
            size_bytes: 1000,
            created_ms: i64::try_from(self.made).unwrap_or(i64::MAX),
            config: new.config.clone(),
            built_from: new.built_from.clone(),
        };
        self.images.push(image.clone());
        image
    }

    fn find(&self, image: &Image) -> Result<FoundImage> {
        let name = full_name(image);
        let found = self
            .images
            .iter()
            .find(|found| found.name.as_ref() == Some(&name) || found.digest == image.as_str());
        found
            .cloned()
            .ok_or_else(|| Error::not_found(format!("there is no image {name}")))
    }
}

fn full_name(image: &Image) -> Image {
    let (repository, tag) = image.parts();
    let full = format!("{repository}:{tag}").parse();
    full.unwrap_or_else(|_| image.clone())
}

#[async_trait]
impl Images for FakeRuntime {
    async fn list(&self) -> Result<Vec<FoundImage>> {
        Ok(self.with_images(|images| {
            let all = images.images.iter();
            let listed = all.filter(|image| image.name.is_some() || image.built_from.is_none());
            listed.cloned().collect()
        }))
    }

    async fn find(&self, image: &Image) -> Result<FoundImage> {
        self.with_images(|images| images.find(image))
    }

    async fn find_built(&self, key: &str) -> Result<Option<FoundImage>> {
        Ok(self.with_images(|images| {
            let kept = |image: &&FoundImage| image.built_from.as_deref() == Some(key);
            images.images.iter().find(kept).cloned()
        }))
    }

    async fn remove(&self, image: &Image) -> Result<()> {
        self.with_images(|images| {
            let digest = images.find(image)?.digest;
            images.images.retain(|image| image.digest != digest);
            Ok(())
        })
    }

    /// Takes any bytes for an image; its size is theirs.
    async fn import(&self, archive: File, name: Option<&Image>) -> Result<FoundImage> {
        let read = tokio::task::spawn_blocking(move || {
            let (mut archive, mut bytes) = (archive, Vec::new());
            archive.read_to_end(&mut bytes).map(|_| bytes.len())
        });
        let length = read
            .await
            .map_err(|error| Error::internal(error.to_string()))?;
        let length = length.map_err(|error| Error::invalid(error.to_string()))?;
        if length == 0 {
            return Err(Error::invalid("the archive is truncated"));
        }
        let new = NewImage {
            name: name.cloned(),
            ..NewImage::default()
        };
        Ok(self.with_images(|images| images.make(&new)))
    }

    async fn derive(&self, image: &Image, new: &NewImage) -> Result<FoundImage> {
        self.with_images(|images| {
            images.find(image)?;
            Ok(images.make(new))
        })
    }

    async fn commit(&self, id: &Id, new: &NewImage) -> Result<FoundImage> {
        if !self.list_ids().await?.contains(id) {
            return Err(Error::not_found(format!("there is no sandbox {id}")));
        }
        Ok(self.with_images(|images| images.make(new)))
    }
}

impl FakeRuntime {
    async fn list_ids(&self) -> Result<Vec<Id>> {
        let found = sandbox::Runtime::list(self).await?;
        Ok(found.into_iter().map(|found| found.id).collect())
    }
}
