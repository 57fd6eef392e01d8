//! The engine's images.

use std::{collections::HashMap, fs::File};

use async_trait::async_trait;
use bollard::{
    models::{ContainerConfig, ContainerCreateBody, ImageInspect},
    query_parameters::{
        CommitContainerOptionsBuilder, CreateContainerOptions, ImportImageOptions,
        ListImagesOptions, ListImagesOptionsBuilder, RemoveContainerOptionsBuilder,
        RemoveImageOptions,
    },
};
use futures_util::StreamExt as _;
use sandbox::{Error, FoundImage, Id, Image, ImageConfig, Images, NewImage, Result};
use tokio_util::io::ReaderStream;

use crate::{
    Docker,
    container::{SCOPE_LABEL, running_name, stopped_name},
    error::{failed, is_missing},
};

/// What an image was made from, as [`NewImage::built_from`].
const BUILT_FROM_LABEL: &str = "dev.sandboxai.built-from";
/// Bytes of an archive sent at once.
const PIECE_BYTES: usize = 256 << 10;

/// An image in the words of the product.
fn told(found: ImageInspect, name: Option<&str>) -> FoundImage {
    let config = found.config.unwrap_or_default();
    let mut labels: std::collections::BTreeMap<String, String> =
        config.labels.unwrap_or_default().into_iter().collect();
    let built_from = labels.remove(BUILT_FROM_LABEL);
    let named = name.map(str::to_owned);
    let named = named.or_else(|| found.repo_tags.unwrap_or_default().into_iter().next());
    FoundImage {
        name: named.and_then(|name| name.parse().ok()),
        digest: found.id.unwrap_or_default(),
        size_bytes: found
            .size
            .and_then(|size| u64::try_from(size).ok())
            .unwrap_or(0),
        // The engine leaves it out where the image does not say it.
        created_ms: found.created.as_deref().map_or(0, milliseconds),
        config: ImageConfig {
            env: config
                .env
                .unwrap_or_default()
                .iter()
                .filter_map(|line| line.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            workdir: config.working_dir.unwrap_or_default(),
            user: config.user.filter(|user| !user.is_empty()),
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            labels,
        },
        built_from,
    }
}

/// A time as the engine writes it, RFC 3339, in milliseconds since the epoch; 0 for
/// what is no time.
fn milliseconds(time: &str) -> i64 {
    time.parse().map_or(0, jiff::Timestamp::as_millisecond)
}

fn config_of(new: &NewImage) -> ContainerConfig {
    let config = &new.config;
    let mut labels: HashMap<String, String> = config.labels.clone().into_iter().collect();
    if let Some(built_from) = &new.built_from {
        labels.insert(BUILT_FROM_LABEL.to_owned(), built_from.clone());
    }
    ContainerConfig {
        env: Some(
            config
                .env
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
        ),
        working_dir: Some(config.workdir.clone()),
        user: config.user.clone(),
        entrypoint: Some(config.entrypoint.clone()),
        cmd: Some(config.cmd.clone()),
        labels: Some(labels),
        ..ContainerConfig::default()
    }
}

impl Docker {
    async fn find_image(&self, name: &str) -> Result<FoundImage> {
        match self.engine.inspect_image(name).await {
            Ok(found) => Ok(told(
                found,
                Some(name).filter(|name| !name.starts_with("sha256:")),
            )),
            Err(error) if is_missing(&error) => Err(Error::not_found(format!(
                "the engine has no image {name}; `docker image ls` lists what is there"
            ))),
            Err(error) => Err(failed("look at the image", error)),
        }
    }

    async fn commit_container(&self, container: &str, new: &NewImage) -> Result<FoundImage> {
        let mut options = CommitContainerOptionsBuilder::default()
            .container(container)
            .pause(true);
        if let Some(name) = &new.name {
            let (repository, tag) = name.parts();
            options = options.repo(repository).tag(tag);
        }
        let made = self
            .engine
            .commit_container(options.build(), config_of(new))
            .await
            .map_err(|error| failed("make an image of the container", error))?;
        self.find_image(&made.id).await
    }
}

#[async_trait]
impl Images for Docker {
    async fn list(&self) -> Result<Vec<FoundImage>> {
        let images = self.engine.list_images(None::<ListImagesOptions>).await;
        let images = images.map_err(|error| failed("list the images", error))?;
        let mut told = Vec::new();
        for image in images {
            let names = match image.repo_tags.is_empty() {
                true => vec![image.id.clone()],
                false => image.repo_tags,
            };
            for name in names {
                match self.find_image(&name).await {
                    Ok(found) => told.push(found),
                    // Removed meanwhile.
                    Err(error) if error.kind == sandbox::Kind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        told.sort_by(|a, b| (a.name.is_none(), &a.name).cmp(&(b.name.is_none(), &b.name)));
        Ok(told)
    }

    async fn find(&self, image: &Image) -> Result<FoundImage> {
        self.find_image(image.as_str()).await
    }

    async fn find_built(&self, key: &str) -> Result<Option<FoundImage>> {
        let label = format!("{BUILT_FROM_LABEL}={key}");
        let options = ListImagesOptionsBuilder::default()
            .filters(&HashMap::from([("label", vec![label])]))
            .build();
        let images = self.engine.list_images(Some(options)).await;
        let images = images.map_err(|error| failed("list the images", error))?;
        match images.into_iter().next() {
            None => Ok(None),
            Some(image) => self.find_image(&image.id).await.map(Some),
        }
    }

    async fn remove(&self, image: &Image) -> Result<()> {
        let removed = self
            .engine
            .remove_image(image.as_str(), None::<RemoveImageOptions>, None)
            .await;
        match removed {
            Ok(_) => Ok(()),
            Err(error) => Err(failed("remove the image", error)),
        }
    }

    async fn import(&self, archive: File, name: Option<&Image>) -> Result<FoundImage> {
        let pieces = ReaderStream::with_capacity(tokio::fs::File::from_std(archive), PIECE_BYTES);
        let mut loading =
            self.engine
                .import_image_stream(ImportImageOptions::default(), pieces, None);
        let mut loaded = None;
        while let Some(told) = loading.next().await {
            let told = told.map_err(|error| failed("load the archive", error))?;
            let line = told.stream.unwrap_or_default();
            if let Some((_, image)) = line.trim().split_once("Loaded image") {
                loaded = image
                    .split_once(": ")
                    .map(|(_, image)| image.trim().to_owned());
            }
        }
        let loaded = loaded.ok_or_else(|| Error::invalid("the archive holds no image"))?;
        let found = self.find_image(&loaded).await?;
        match name {
            None => Ok(found),
            Some(name) => {
                let new = NewImage {
                    name: Some(name.clone()),
                    config: found.config.clone(),
                    built_from: found.built_from.clone(),
                };
                self.derive(&loaded.parse()?, &new).await
            }
        }
    }

    async fn derive(&self, image: &Image, new: &NewImage) -> Result<FoundImage> {
        let body = ContainerCreateBody {
            image: Some(image.to_string()),
            entrypoint: Some(vec!["/never-started".to_owned()]),
            // So that it is found should this server be killed before it is removed.
            labels: Some(HashMap::from([(
                SCOPE_LABEL.to_owned(),
                self.config.scope.clone(),
            )])),
            ..ContainerCreateBody::default()
        };
        let made = self
            .engine
            .create_container(None::<CreateContainerOptions>, body)
            .await
            .map_err(|error| failed("make a container of the image", error))?;
        let derived = self.commit_container(&made.id, new).await;
        let options = RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        let removed = self.engine.remove_container(&made.id, Some(options)).await;
        let derived = derived?;
        removed.map_err(|error| failed("remove a container", error))?;
        Ok(derived)
    }

    async fn commit(&self, id: &Id, new: &NewImage) -> Result<FoundImage> {
        match self.commit_container(&running_name(id), new).await {
            Err(error) if error.kind == sandbox::Kind::NotFound => {
                self.commit_container(&stopped_name(id), new).await
            }
            committed => committed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::milliseconds;

    #[test]
    fn times_of_the_engine_are_understood() {
        assert_eq!(
            milliseconds("2026-01-31T12:00:00.123456789Z"),
            1_769_860_800_123
        );
        assert_eq!(milliseconds("2026-01-31T13:00:00+01:00"), 1_769_860_800_000);
        assert_eq!(milliseconds("yesterday"), 0);
    }
}
