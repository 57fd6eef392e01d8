//! What can go wrong with images, one variant per step.

use std::{io, path::PathBuf};

use rustix::io::Errno;

/// An operation on images failed; the message says at which object and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No image has this name.
    #[error("there is no image {wanted}; {}", list_of(.existing))]
    NotFound {
        /// What was asked for.
        wanted: String,
        /// Names of the images that exist.
        existing: Vec<String>,
    },
    /// A step on the store's own files failed.
    #[error("{step} {}: {source}", .path.display())]
    Store {
        /// What was tried, e.g. `create the folder`.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// Another process holds the store for too long.
    #[error(
        "the image store {} is locked by another process for more than {seconds} s; see which one with `fuser {}`",
        .path.display(), .path.display()
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// How long we waited.
        seconds: u64,
    },
    /// A file of the store does not hold what it must.
    #[error("{} is damaged: {detail}; remove the image and import or build it again", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A layer that an image needs is not there.
    #[error("image {image} needs layer {layer}, which is gone; import or build the image again")]
    LayerGone {
        /// The image.
        image: String,
        /// The digest of the layer.
        layer: String,
    },
    /// The archive cannot be read on.
    #[error("read the archive: {0}")]
    Read(#[source] io::Error),
    /// The archive ends in the middle.
    #[error("the archive is truncated: it ends {0}; get it again")]
    Truncated(&'static str),
    /// The archive's compression is not known to us.
    #[error(
        "the archive is compressed with {format}, which is not supported; decompress it first, e.g. `{tool} -dc FILE | sandboxai image import -`"
    )]
    Compression {
        /// Its name.
        format: &'static str,
        /// What decompresses it.
        tool: &'static str,
    },
    /// The bytes are no tar archive, or a damaged one.
    #[error("the archive is not a valid tar archive: {detail} at byte {offset}")]
    Malformed {
        /// What is wrong.
        detail: String,
        /// Where, in the uncompressed archive.
        offset: u64,
    },
    /// An entry's name or link leads out of the image, or cannot be a name.
    #[error("entry {entry:?} of the archive is refused: {why}")]
    Refused {
        /// The entry's name.
        entry: String,
        /// What rule it breaks.
        why: String,
    },
    /// Writing an entry failed.
    #[error("{step} for entry {entry:?} of the archive: {source}")]
    Unpack {
        /// What was tried.
        step: &'static str,
        /// The entry's name.
        entry: String,
        /// The operating system's answer.
        #[source]
        source: Errno,
    },
    /// A bound of the importer is reached.
    #[error("the archive has more than {limit} {what}; archives like this are refused")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// A sandbox has more than an image may get of it.
    #[error(
        "the sandbox has more than {limit} {what} of its own, which is too much for an image; remove what the image does not need"
    )]
    SandboxTooLarge {
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// A file of a sandbox cannot be read.
    #[error("{step} /{path} of the sandbox: {source}")]
    Walk {
        /// What was tried.
        step: &'static str,
        /// Below the sandbox's root.
        path: String,
        /// The operating system's answer.
        #[source]
        source: Errno,
    },
    /// An image would have too many layers.
    #[error(
        "the image would have more than {limit} layers; join steps of its build, e.g. several RUN into one"
    )]
    TooManyLayers {
        /// The bound.
        limit: usize,
    },
    /// A `docker save` archive does not hold what it must.
    #[error("the container image archive is not usable: {0}")]
    DockerArchive(String),
    /// A layer's content is not what its image says.
    #[error(
        "layer {name} of the archive has the digest {found}, its image says {expected}; get the archive again"
    )]
    DigestMismatch {
        /// The layer's name in the archive.
        name: String,
        /// From the image's configuration.
        expected: String,
        /// Of the bytes.
        found: String,
    },
    /// The image is for another kind of machine.
    #[error("the image is for {image}, this machine is {host}")]
    Architecture {
        /// What the image was made for.
        image: String,
        /// What we run on.
        host: &'static str,
    },
    /// The recipe is wrong.
    #[error("recipe {}: {detail}", .path.display())]
    Recipe {
        /// The recipe's file.
        path: PathBuf,
        /// What is wrong and how it is meant.
        detail: String,
    },
    /// A program that building needs is not installed.
    #[error(
        "building images needs the program `{program}`, which was not found; install it with `apt-get install {package}`"
    )]
    ToolMissing {
        /// The program.
        program: &'static str,
        /// The Debian package that holds it.
        package: &'static str,
    },
    /// A program could not be started or waited for.
    #[error("run `{program}`: {source}")]
    Tool {
        /// The program.
        program: &'static str,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// A step of a build failed.
    #[error("build step \"{step}\" {how}; its last output:\n{output}")]
    BuildStep {
        /// The step, as in the progress.
        step: String,
        /// How the program ended.
        how: String,
        /// The end of its output.
        output: String,
    },
    /// The kernel's random source or another domain operation failed.
    #[error(transparent)]
    Domain(#[from] sandbox::Error),
}

impl ImageError {
    /// [`ImageError::Store`] for the step on the path, to be used with `map_err`.
    pub(super) fn store(
        step: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Store { step, path, source }
    }
}

impl From<ImageError> for sandbox::Error {
    fn from(error: ImageError) -> Self {
        use sandbox::Kind;
        let kind = match &error {
            // Whoever asks for an image that is not there has asked for the wrong thing.
            ImageError::NotFound { .. }
            | ImageError::Read(_)
            | ImageError::Truncated(_)
            | ImageError::Compression { .. }
            | ImageError::Malformed { .. }
            | ImageError::Refused { .. }
            | ImageError::DockerArchive(_)
            | ImageError::DigestMismatch { .. }
            | ImageError::Architecture { .. }
            | ImageError::Recipe { .. }
            | ImageError::BuildStep { .. } => Kind::InvalidRequest,
            ImageError::TooLarge { .. }
            | ImageError::SandboxTooLarge { .. }
            | ImageError::TooManyLayers { .. } => Kind::LimitReached,
            ImageError::Locked { .. } => Kind::Unavailable,
            ImageError::ToolMissing { .. } => Kind::Unavailable,
            ImageError::Store { .. }
            | ImageError::Damaged { .. }
            | ImageError::LayerGone { .. }
            | ImageError::Unpack { .. }
            | ImageError::Walk { .. }
            | ImageError::Tool { .. } => Kind::Internal,
            ImageError::Domain(inner) => inner.kind,
        };
        // Only a request that names an image meets a missing one here.
        let message = match error {
            ImageError::NotFound { .. } => format!("field `image`: {error}"),
            _ => error.to_string(),
        };
        Self::new(kind, message).with_source(error)
    }
}

/// Most names told in a message; builds alone can leave hundreds.
const NAMES_TOLD_MAX: usize = 20;

/// The images that exist, and how to get one.
fn list_of(existing: &[String]) -> String {
    if existing.is_empty() {
        "no image exists yet: make the default one with `sandboxai image build`".to_owned()
    } else {
        let told = existing.len().min(NAMES_TOLD_MAX);
        let more = match existing.len() - told {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!(
            "these exist: {}{more} (see `sandboxai image ls`); make the default one with `sandboxai image build`",
            existing[..told].join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use sandbox::{Error, Kind};

    use super::*;

    fn not_found(existing: usize) -> ImageError {
        ImageError::NotFound {
            wanted: "nope:latest".into(),
            existing: (0..existing).map(|n| format!("image-{n}:latest")).collect(),
        }
    }

    #[test]
    fn a_request_for_a_missing_image_names_its_field() {
        let error = Error::from(not_found(1));
        assert_eq!(error.kind, Kind::InvalidRequest);
        assert!(
            error.message.starts_with(
                "field `image`: there is no image nope:latest; these exist: image-0:latest (see"
            ),
            "{error}"
        );
    }

    #[test]
    fn a_message_lists_a_bounded_number_of_images() {
        let message = not_found(NAMES_TOLD_MAX + 3).to_string();
        assert!(
            message.contains("image-19:latest and 3 more (see"),
            "{message}"
        );
        assert!(!message.contains("image-20"), "{message}");
    }
}
