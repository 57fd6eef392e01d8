//! An OCI image layout, written as a tar archive from front to back.

use sandbox::{Error, Result, Sink};
use tar::{EntryType, Header};
use tokio::io::AsyncWriteExt as _;

use crate::manifest::Descriptor;

/// Everything in a tar archive comes in blocks of so many bytes.
const BLOCK: usize = 512;

/// Writes the first member, by which readers know what the archive is.
pub(crate) async fn begin(sink: Sink<'_>) -> Result<()> {
    document(sink, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).await
}

/// Writes the index, which names the one manifest, and the end of the archive.
pub(crate) async fn finish(sink: Sink<'_>, manifest: &Descriptor) -> Result<()> {
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest.digest,
            "size": manifest.size,
        }],
    });
    document(sink, "index.json", index.to_string().as_bytes()).await?;
    let end = [0; 2 * BLOCK];
    sink.write_all(&end).await.map_err(gone)?;
    sink.flush().await.map_err(gone)
}

/// Writes a blob that is in memory.
pub(crate) async fn blob(sink: Sink<'_>, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
    document(sink, &blob_name(descriptor), bytes).await
}

/// Writes the head of a blob; its bytes and [`pad`] follow.
pub(crate) async fn blob_head(sink: Sink<'_>, descriptor: &Descriptor) -> Result<()> {
    head(sink, &blob_name(descriptor), descriptor.size).await
}

/// Fills up the last block of so many bytes.
pub(crate) async fn pad(sink: Sink<'_>, size: u64) -> Result<()> {
    let zeros = [0; BLOCK];
    let missing = size.next_multiple_of(BLOCK as u64) - size;
    let missing = usize::try_from(missing).unwrap_or(0);
    sink.write_all(&zeros[..missing]).await.map_err(gone)
}

async fn document(sink: Sink<'_>, name: &str, bytes: &[u8]) -> Result<()> {
    let size = bytes.len() as u64;
    head(sink, name, size).await?;
    sink.write_all(bytes).await.map_err(gone)?;
    pad(sink, size).await
}

async fn head(sink: Sink<'_>, name: &str, size: u64) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_path(name).map_err(gone)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    sink.write_all(header.as_bytes()).await.map_err(gone)
}

fn blob_name(descriptor: &Descriptor) -> String {
    format!("blobs/sha256/{}", descriptor.digits())
}

fn gone(error: std::io::Error) -> Error {
    Error::cancelled("the image is not taken any further").with_source(error)
}
