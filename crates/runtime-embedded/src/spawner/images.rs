//! Requests about images, done in a worker.

use std::{fs::File, os::fd::OwnedFd};

use sandbox::{Error, FoundImage, Id, Image, NewImage, Result};

use super::{complain, host::Host, worker::owned};
use crate::{
    image::{ImageError, ImageRecord, Silent, Store, Writable},
    layout::{UPPER, open_folder},
    plan::uid_base,
    record::Record,
    wire::{Answer, ImageRequest},
};

/// One request about images, checked.
#[derive(Debug)]
pub(super) enum ImageJob {
    List,
    Find(Image),
    FindBuilt(String),
    Remove(Image),
    Import { archive: File, name: Option<Image> },
    Derive(Image, Box<NewImage>),
    Commit(Id, Box<NewImage>),
}

impl ImageJob {
    /// Checks the request; `attached` is the descriptor that came with it.
    pub(super) fn prepare(request: ImageRequest, attached: Option<OwnedFd>) -> Result<Self> {
        Ok(match request {
            ImageRequest::List => Self::List,
            ImageRequest::Find { image } => Self::Find(image.parse()?),
            ImageRequest::FindBuilt { key } => Self::FindBuilt(key),
            ImageRequest::Remove { image } => Self::Remove(image.parse()?),
            ImageRequest::Import { name } => Self::Import {
                archive: attached
                    .ok_or_else(|| Error::internal("the archive did not come with its request"))?
                    .into(),
                name: name.map(|name| name.parse()).transpose()?,
            },
            ImageRequest::Derive { image, new } => {
                Self::Derive(image.parse()?, Box::new(new.try_into()?))
            }
            ImageRequest::Commit { id, new } => {
                Self::Commit(id.parse()?, Box::new(new.try_into()?))
            }
        })
    }

    pub(super) fn run(self, host: &Host) -> Result<Answer> {
        // Folders that an archive does not name are open to all users inside.
        rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
        let store = Store::open(host.layout.state())?;
        let found = match self {
            Self::List => store.list().map(|mut records| {
                records.retain(|record| !record.is_step());
                records
            }),
            Self::FindBuilt(key) => store.find_built(&key).map(Vec::from_iter),
            Self::Find(image) => store.resolve(&image).map(|record| vec![record]),
            Self::Remove(image) => store.remove(&image).map(|()| Vec::new()),
            Self::Import { mut archive, name } => store
                .import(&mut archive, name.as_ref(), &Silent)
                .map(|record| vec![record]),
            Self::Derive(image, new) => store.derive(&image, &new).map(|record| vec![record]),
            Self::Commit(id, new) => return commit(host, &store, &id, &new),
        };
        Ok(answer(found.map_err(asked_for)?))
    }
}

fn answer(records: Vec<ImageRecord>) -> Answer {
    let words = |record| FoundImage::from(record).into();
    Answer::Images {
        images: records.into_iter().map(words).collect(),
    }
}

/// Whoever asks for an image by name wants to know that it is not there; for
/// everybody else that makes the request a wrong one.
fn asked_for(error: ImageError) -> Error {
    match error {
        ImageError::NotFound { .. } => Error::not_found(error.to_string()).with_source(error),
        _ => Error::from(error),
    }
}

/// Makes an image of the files of a sandbox. It may run, be paused or have no
/// process at all.
fn commit(host: &Host, store: &Store, id: &Id, new: &NewImage) -> Result<Answer> {
    let record = owned(host, id)?;
    let folder = host.layout.sandbox(id.as_str()).join(UPPER);
    let upper = open_folder(&folder).map_err(|error| {
        Error::conflict(format!(
            "sandbox {id} has no files at hand to make an image of; start it first"
        ))
        .with_source(error)
    })?;
    let still = Still::new(host, id, &record)?;
    let writable = Writable {
        upper: upper.into(),
        uid_base: uid_base(record.slot),
    };
    let made = store.commit(&record.layers, writable, new);
    drop(still);
    Ok(answer(vec![made.map_err(asked_for)?]))
}

/// While this lives no process of the sandbox changes a file.
struct Still<'a> {
    host: &'a Host,
    /// Whom to let run on afterwards; nobody if it stood still before.
    frozen: Option<&'a Id>,
}

impl<'a> Still<'a> {
    fn new(host: &'a Host, id: &'a Id, record: &Record) -> Result<Self> {
        let runs = record.is_of_this_boot(&host.boot_id)
            && record.init.is_some_and(crate::process::Identity::is_alive);
        if !runs || host.cgroups.is_frozen(id.as_str())? {
            return Ok(Self { host, frozen: None });
        }
        let still = Self {
            host,
            frozen: Some(id),
        };
        host.cgroups.freeze(id.as_str())?;
        Ok(still)
    }
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.frozen
            && let Err(error) = self.host.cgroups.thaw(id.as_str())
            // Destroyed meanwhile, it has no groups any more.
            && owned(self.host, id).is_ok()
        {
            complain(&error);
        }
    }
}
