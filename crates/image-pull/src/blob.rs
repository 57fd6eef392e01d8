//! Downloads one blob: where the connection breaks off it is taken up again.

use std::time::Duration;

use reqwest::StatusCode;
use sandbox::{Error, Kind, Result, Sink};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt as _;

use crate::{
    error::{nonsense, unreachable},
    manifest::Descriptor,
    session::Session,
};

/// Tries in a row that bring nothing.
const ATTEMPTS_MAX: u32 = 4;
/// The wait before the second try; each further one is twice as long.
const RETRY_FIRST: Duration = Duration::from_millis(500);

/// How much of a blob is there.
struct Progress {
    done: u64,
    digest: Sha256,
}

/// Writes the blob, and makes sure that it is the one that was meant. `told` hears
/// how many bytes are there.
pub(crate) async fn download(
    session: &mut Session<'_>,
    blob: &Descriptor,
    sink: Sink<'_>,
    told: &mut (dyn FnMut(u64) + Send),
) -> Result<()> {
    let mut progress = Progress {
        done: 0,
        digest: Sha256::new(),
    };
    let mut failures = 0;
    loop {
        let before = progress.done;
        match attempt(session, blob, sink, &mut progress, told).await {
            Ok(()) => break,
            Err(error) if !may_pass(&error) => return Err(error),
            Err(error) => {
                failures = if progress.done > before {
                    1
                } else {
                    failures + 1
                };
                if failures >= ATTEMPTS_MAX {
                    return Err(error);
                }
                tracing::debug!(%error, done = progress.done, "take up a download again");
                tokio::time::sleep(RETRY_FIRST * 2u32.pow(failures - 1)).await;
            }
        }
    }
    let found: String = progress
        .digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    if progress.done != blob.size || found != blob.digits() {
        return Err(nonsense(
            &session.location,
            format_args!(
                "instead of {} with {} bytes it sent sha256:{found} with {} bytes",
                blob.digest, blob.size, progress.done
            ),
        ));
    }
    Ok(())
}

/// Whether another try may help.
fn may_pass(error: &Error) -> bool {
    matches!(error.kind, Kind::Unavailable | Kind::Timeout)
}

async fn attempt(
    session: &mut Session<'_>,
    blob: &Descriptor,
    sink: Sink<'_>,
    progress: &mut Progress,
    told: &mut (dyn FnMut(u64) + Send),
) -> Result<()> {
    let rest = format!("blobs/{}", blob.digest);
    let mut response = session.get(&rest, None, progress.done).await?;
    // Asked for the rest, some send everything again.
    let mut skip = match response.status() {
        StatusCode::PARTIAL_CONTENT => 0,
        _ => progress.done,
    };
    while let Some(piece) = response
        .chunk()
        .await
        .map_err(|error| unreachable(&session.location, &error))?
    {
        let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
        skip -= skipped as u64;
        let piece = &piece[skipped..];
        if progress.done + piece.len() as u64 > blob.size {
            return Err(Error::invalid(format!(
                "registry {} sends more than the {} bytes of {}",
                session.location.registry, blob.size, blob.digest
            )));
        }
        sink.write_all(piece).await.map_err(|error| {
            Error::cancelled("the image is not taken any further").with_source(error)
        })?;
        progress.digest.update(piece);
        progress.done += piece.len() as u64;
        told(progress.done);
    }
    if progress.done < blob.size {
        return Err(Error::unavailable(format!(
            "registry {} broke off after {} of {} bytes of {}",
            session.location.registry, progress.done, blob.size, blob.digest
        )));
    }
    Ok(())
}
