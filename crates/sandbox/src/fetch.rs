//! What comes from the network into images.

use async_trait::async_trait;
use tokio::io::AsyncWrite;

use crate::{Image, Result};

/// Where fetched bytes go, in order.
pub type Sink<'a> = &'a mut (dyn AsyncWrite + Send + Unpin);

/// Gets images from registries and files by URL. Every method has deadlines of
/// its own for each answer that it waits for, and none for the whole.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// Writes the image, for this machine's architecture, as an OCI image layout
    /// in a tar archive. On an error the archive is cut off, so that its reader
    /// sees that it is not whole. `say` is told how it goes on, a line at a time.
    ///
    /// # Errors
    /// `NotFound`, `Unauthenticated`, `Unavailable` or `LimitReached` with the
    /// registry's answer; `InvalidRequest` when the image is not for this machine.
    async fn image(
        &self,
        image: &Image,
        archive: Sink<'_>,
        say: &(dyn Fn(String) + Send + Sync),
    ) -> Result<()>;

    /// Writes what an `http` or `https` URL gives, at most `bytes_max` bytes.
    ///
    /// # Errors
    /// As for [`Fetch::image`]; `Forbidden` for an address that sandboxes may not
    /// reach either.
    async fn file(&self, url: &str, bytes_max: u64, content: Sink<'_>) -> Result<()>;
}
