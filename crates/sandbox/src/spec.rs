//! What a sandbox is asked to be.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use crate::{Error, Limits, Result};

/// The name of an image, as `repository[:tag]`; the tag `latest` is implied.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Image(String);

/// Longest image name accepted, as in the distribution specification.
const IMAGE_CHARS_MAX: usize = 255;

impl Image {
    /// The name as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Repository and tag; the tag defaults to `latest`.
    #[must_use]
    pub fn parts(&self) -> (&str, &str) {
        match self.0.rsplit_once(':') {
            // A colon before the last slash belongs to a registry's port.
            Some((repository, tag)) if !tag.contains('/') => (repository, tag),
            _ => (&self.0, "latest"),
        }
    }
}

impl FromStr for Image {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let component = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.bytes().all(|b| {
                    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'@')
                })
        };
        if text.len() <= IMAGE_CHARS_MAX && text.split('/').all(component) {
            return Ok(Self(text.to_owned()));
        }
        let shown: String = text.chars().take(80).collect();
        Err(Error::invalid(format!(
            "field `image`: {shown:?} is not an image name; use the form repository[:tag], e.g. sandboxai/box"
        )))
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a sandbox can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkMode {
    /// Loopback only.
    None,
    /// The public internet; never the host, private ranges or other sandboxes.
    Open,
}

impl NetworkMode {
    /// `none` or `open`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Open => "open",
        }
    }
}

impl FromStr for NetworkMode {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "none" => Ok(Self::None),
            "open" => Ok(Self::Open),
            other => Err(Error::invalid(format!(
                "field `network`: {other:?} is not a network mode; use \"none\" or \"open\""
            ))),
        }
    }
}

/// Which kind of walls a sandbox has, by a name that the runtime knows, e.g. `runsc`
/// or `kata` (an OCI runtime of a Docker engine).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuntimeClass(String);

/// Longest name of a runtime class accepted.
const RUNTIME_CLASS_CHARS_MAX: usize = 63;

impl RuntimeClass {
    /// The name as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RuntimeClass {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let is_name = (1..=RUNTIME_CLASS_CHARS_MAX).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        if is_name {
            return Ok(Self(text.to_owned()));
        }
        let shown: String = text.chars().take(80).collect();
        Err(Error::invalid(format!(
            "field `runtime_class`: {shown:?} is not the name of a runtime class; use 1 to {RUNTIME_CLASS_CHARS_MAX} letters, digits, '-', '_' or '.', beginning with a letter or digit"
        )))
    }
}

impl fmt::Display for RuntimeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// When a sandbox ends by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// End after this long without any operation on it.
    pub idle_timeout: Option<Duration>,
    /// End this long after creation, whatever happens.
    pub lifetime_max: Option<Duration>,
    /// Stop, keeping the files, after this long without any operation on it.
    pub stop_after_idle: Option<Duration>,
    /// Pause after this long without any operation on it.
    pub pause_after_idle: Option<Duration>,
    /// Archive this long after it was stopped.
    pub archive_after_stop: Option<Duration>,
    /// End this long after it was stopped; zero means that stopping ends it.
    pub delete_after_stop: Option<Duration>,
}

impl Lease {
    /// Whether its files are kept when its processes end without being asked to:
    /// whoever leased it with words about stopping expects to start it again.
    #[must_use]
    pub fn keeps_files(&self) -> bool {
        let speaks_of_stopping = self.stop_after_idle.is_some()
            || self.archive_after_stop.is_some()
            || self.delete_after_stop.is_some();
        speaks_of_stopping && !self.ends_on_stop()
    }

    /// Whether stopping it means its end.
    #[must_use]
    pub fn ends_on_stop(&self) -> bool {
        self.delete_after_stop == Some(Duration::ZERO)
    }
}

/// Everything needed to make one sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// What its file system starts from.
    pub image: Image,
    /// Environment of every process inside, on top of the image's own.
    pub env: BTreeMap<String, String>,
    /// Upper bounds.
    pub limits: Limits,
    /// What it can reach.
    pub network: NetworkMode,
    /// When it ends by itself.
    pub lease: Lease,
    /// Its runtime class; the runtime's default when absent.
    pub runtime_class: Option<RuntimeClass>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_names_split_into_repository_and_tag() {
        let parts = |text: &str| {
            let image: Image = text.parse().unwrap();
            let (repository, tag) = image.parts();
            (repository.to_owned(), tag.to_owned())
        };
        assert_eq!(parts("box"), ("box".into(), "latest".into()));
        assert_eq!(
            parts("kortix/suna:0.1"),
            ("kortix/suna".into(), "0.1".into())
        );
        assert_eq!(
            parts("localhost:5000/a"),
            ("localhost:5000/a".into(), "latest".into())
        );
    }

    #[test]
    fn names_of_runtime_classes_are_single_words() {
        for good in ["runsc", "kata", "io.containerd.kata.v2", "crun-1_2"] {
            assert_eq!(good.parse::<RuntimeClass>().unwrap().as_str(), good);
        }
        let long = "x".repeat(64);
        for bad in ["", "-x", "a b", "../runc", "a/b", "ü", "a\0", &long] {
            let error = bad.parse::<RuntimeClass>().unwrap_err();
            assert!(error.message.contains("`runtime_class`"), "{bad:?}");
        }
    }

    #[test]
    fn image_names_cannot_leave_their_folder() {
        for bad in ["", "..", "a/../b", "/a", "a//b", "a b", "a\0"] {
            assert!(bad.parse::<Image>().is_err(), "{bad:?}");
        }
    }
}
