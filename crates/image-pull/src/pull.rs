//! From the name of an image to its archive.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use sandbox::{Image, Result, Sink};
use sha2::{Digest, Sha256};

use crate::{
    HttpFetch, blob,
    error::nonsense,
    layout,
    location::Location,
    manifest::{ACCEPT, Descriptor, Document},
    session::Session,
};

/// How often the progress of a download is told.
const TELL_EVERY: Duration = Duration::from_secs(3);

/// Writes the image as an archive.
pub(crate) async fn pull(
    fetch: &HttpFetch,
    image: &Image,
    sink: Sink<'_>,
    say: &(dyn Fn(String) + Send + Sync),
) -> Result<()> {
    let location = Location::of(image)?;
    let credentials = fetch.credentials.get(&location.registry);
    say(format!("pulling {location}"));
    let mut session = Session::new(&fetch.http, location.clone(), credentials);
    let (manifest, text) = manifest(&mut session, &location).await?;
    let parts = Document::parse(&location, &text)?.into_parts(&location)?;
    layout::begin(sink).await?;
    layout::blob(sink, &manifest, &text).await?;
    layout::blob_head(sink, &parts.config).await?;
    blob::download(&mut session, &parts.config, sink, &mut |_| {}).await?;
    layout::pad(sink, parts.config.size).await?;
    let count = parts.layers.len();
    let mut written = BTreeSet::new();
    for (index, layer) in parts.layers.iter().enumerate() {
        let place = format!("layer {} of {count}", index + 1);
        if !written.insert(layer.digest.clone()) {
            continue;
        }
        say(format!("{place}: {}", megabytes(layer.size)));
        let mut last = Instant::now();
        let mut told = |done: u64| {
            if last.elapsed() >= TELL_EVERY {
                last = Instant::now();
                say(format!(
                    "{place}: {} of {}",
                    megabytes(done),
                    megabytes(layer.size)
                ));
            }
        };
        layout::blob_head(sink, layer).await?;
        blob::download(&mut session, layer, sink, &mut told).await?;
        layout::pad(sink, layer.size).await?;
    }
    layout::finish(sink, &manifest).await?;
    say(format!("downloaded {location} ({})", manifest.digest));
    Ok(())
}

/// The manifest for this machine, checked against the digest that named it.
async fn manifest(session: &mut Session<'_>, location: &Location) -> Result<(Descriptor, Vec<u8>)> {
    let mut wanted = location.reference.clone();
    let text = document(session, location, &wanted).await?;
    let first = Document::parse(location, &text)?;
    let text = if first.manifests.is_empty() {
        text
    } else {
        wanted.clone_from(&first.for_this_machine(location)?.digest);
        document(session, location, &wanted).await?
    };
    let manifest = Descriptor {
        digest: digest(&text),
        size: text.len() as u64,
        ..Descriptor::default()
    };
    Ok((manifest, text))
}

async fn document(
    session: &mut Session<'_>,
    location: &Location,
    reference: &str,
) -> Result<Vec<u8>> {
    let text = session
        .document(&format!("manifests/{reference}"), ACCEPT)
        .await?;
    if reference.starts_with("sha256:") && digest(&text) != reference {
        return Err(nonsense(
            &location.at(reference),
            format_args!("it sent {} instead", digest(&text)),
        ));
    }
    Ok(text)
}

fn digest(bytes: &[u8]) -> String {
    let digits: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{digits}")
}

/// A size for people.
fn megabytes(bytes: u64) -> String {
    let tenths = bytes / 100_000;
    format!("{}.{} MB", tenths / 10, tenths % 10)
}
