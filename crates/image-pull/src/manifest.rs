//! The documents of the distribution specification, as far as they are read.

use sandbox::{Error, Result};
use serde::Deserialize;

use crate::{error::nonsense, location::Location};

/// What we can read, in the words of a request.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
/// Most layers of an image.
const LAYERS_MAX: usize = 128;
/// Most bytes of all layers of an image, as they are sent.
const LAYERS_BYTES_MAX: u64 = 64 << 30;

/// Something that is named by its digest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) media_type: String,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
}

impl Descriptor {
    /// The digits of the digest.
    pub(crate) fn digits(&self) -> &str {
        self.digest.strip_prefix("sha256:").unwrap_or(&self.digest)
    }

    fn is_sound(&self) -> bool {
        let digits = self.digits();
        self.digest.starts_with("sha256:")
            && digits.len() == 64
            && digits
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    }
}

/// A manifest, or an index of manifests: the one has `layers`, the other `manifests`.
#[derive(Debug, Deserialize)]
pub(crate) struct Document {
    #[serde(default)]
    pub(crate) manifests: Vec<Descriptor>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// What an image consists of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

impl Document {
    /// Reads the registry's answer.
    pub(crate) fn parse(location: &Location, text: &[u8]) -> Result<Self> {
        serde_json::from_slice(text)
            .map_err(|error| nonsense(location, format_args!("its manifest is not valid: {error}")))
    }

    /// Of an index, the manifest for this machine.
    pub(crate) fn for_this_machine(&self, location: &Location) -> Result<&Descriptor> {
        let wanted = architecture();
        let fits = |entry: &&Descriptor| {
            entry
                .platform
                .as_ref()
                .is_some_and(|platform| platform.os == "linux" && platform.architecture == wanted)
        };
        let found = self.manifests.iter().find(fits);
        let found = found.ok_or_else(|| {
            let mut others: Vec<String> = self
                .manifests
                .iter()
                .filter_map(|entry| entry.platform.as_ref())
                .filter(|platform| platform.os != "unknown")
                .map(|platform| format!("{}/{}", platform.os, platform.architecture))
                .collect();
            others.sort_unstable();
            others.dedup();
            Error::invalid(format!(
                "{location} does not exist for linux/{wanted}, which this machine is; it exists for {}",
                others.join(", ")
            ))
        })?;
        if found.is_sound() {
            Ok(found)
        } else {
            Err(nonsense(location, "its index has a digest that is none"))
        }
    }

    /// Of a manifest, what the image consists of.
    pub(crate) fn into_parts(self, location: &Location) -> Result<Parts> {
        let Some(config) = self.config else {
            return Err(nonsense(location, "its manifest is of a kind long gone"));
        };
        let (count, bytes) = (
            self.layers.len(),
            self.layers
                .iter()
                .fold(0u64, |sum, layer| sum.saturating_add(layer.size)),
        );
        if count > LAYERS_MAX || bytes > LAYERS_BYTES_MAX {
            return Err(Error::limit(format!(
                "{location} has {count} layers of {bytes} bytes; at most {LAYERS_MAX} layers of {LAYERS_BYTES_MAX} bytes are taken"
            )));
        }
        if !self
            .layers
            .iter()
            .chain([&config])
            .all(Descriptor::is_sound)
        {
            return Err(nonsense(location, "its manifest has a digest that is none"));
        }
        if let Some(other) = self
            .layers
            .iter()
            .find(|layer| !layer.media_type.contains("tar"))
        {
            return Err(Error::invalid(format!(
                "{location} is no container image: it consists of {:?}",
                other.media_type
            )));
        }
        Ok(Parts {
            config,
            layers: self.layers,
        })
    }
}

/// This machine's architecture in the words of container images.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
