//! What the server and its spawner say about images: names and words, never a path.

use std::collections::BTreeMap;

use sandbox::{FoundImage, ImageConfig, NewImage};
use serde::{Deserialize, Serialize};

/// What the server asks for about images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "images", rename_all = "snake_case")]
pub(crate) enum ImageRequest {
    List,
    Find {
        image: String,
    },
    FindBuilt {
        key: String,
    },
    Remove {
        image: String,
    },
    /// The archive is a descriptor beside the request.
    Import {
        name: Option<String>,
    },
    Derive {
        image: String,
        new: NewWords,
    },
    Commit {
        id: String,
        new: NewWords,
    },
}

/// An image to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NewWords {
    name: Option<String>,
    built_from: Option<String>,
    config: ConfigWords,
}

/// What an image says about processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConfigWords {
    env: BTreeMap<String, String>,
    workdir: String,
    user: Option<String>,
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    labels: BTreeMap<String, String>,
}

/// An image that exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageWords {
    name: Option<String>,
    digest: String,
    size_bytes: u64,
    created_ms: i64,
    built_from: Option<String>,
    config: ConfigWords,
}

impl From<&NewImage> for NewWords {
    fn from(new: &NewImage) -> Self {
        Self {
            name: new.name.as_ref().map(ToString::to_string),
            built_from: new.built_from.clone(),
            config: new.config.clone().into(),
        }
    }
}

impl TryFrom<NewWords> for NewImage {
    type Error = sandbox::Error;

    fn try_from(words: NewWords) -> sandbox::Result<Self> {
        Ok(Self {
            name: words.name.map(|name| name.parse()).transpose()?,
            config: words.config.into(),
            built_from: words.built_from,
        })
    }
}

impl From<ImageConfig> for ConfigWords {
    fn from(config: ImageConfig) -> Self {
        let ImageConfig {
            env,
            workdir,
            user,
            entrypoint,
            cmd,
            labels,
        } = config;
        Self {
            env,
            workdir,
            user,
            entrypoint,
            cmd,
            labels,
        }
    }
}

impl From<ConfigWords> for ImageConfig {
    fn from(words: ConfigWords) -> Self {
        let ConfigWords {
            env,
            workdir,
            user,
            entrypoint,
            cmd,
            labels,
        } = words;
        Self {
            env,
            workdir,
            user,
            entrypoint,
            cmd,
            labels,
        }
    }
}

impl From<FoundImage> for ImageWords {
    fn from(found: FoundImage) -> Self {
        Self {
            name: found.name.map(|name| name.to_string()),
            digest: found.digest,
            size_bytes: found.size_bytes,
            created_ms: found.created_ms,
            built_from: found.built_from,
            config: found.config.into(),
        }
    }
}

impl TryFrom<ImageWords> for FoundImage {
    type Error = sandbox::Error;

    fn try_from(words: ImageWords) -> sandbox::Result<Self> {
        Ok(Self {
            name: words.name.map(|name| name.parse()).transpose()?,
            digest: words.digest,
            size_bytes: words.size_bytes,
            created_ms: words.created_ms,
            config: words.config.into(),
            built_from: words.built_from,
        })
    }
}
