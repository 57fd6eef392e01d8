//! The bytes of an archive on their way in: counted, decompressed, bounded, hashed.

use std::io::{self, BufRead, BufReader, Read};

use sha2::{Digest, Sha256};

use super::{ImageError, Progress, manifest::hexadecimal};

/// Size of the buffer before each stage, bytes.
const BUFFER_BYTES: usize = 128 << 10;
/// After how many bytes the progress is told again.
const PROGRESS_BYTES: u64 = 1 << 20;

/// Tells the progress how far an archive is read.
pub(super) struct Counted<'a> {
    inner: &'a mut dyn Read,
    progress: &'a dyn Progress,
    done: u64,
    told: u64,
}

impl<'a> Counted<'a> {
    pub(super) fn new(inner: &'a mut dyn Read, progress: &'a dyn Progress) -> Self {
        Self {
            inner,
            progress,
            done: 0,
            told: 0,
        }
    }
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.done += count as u64;
        if self.done - self.told >= PROGRESS_BYTES || (count == 0 && self.told < self.done) {
            self.told = self.done;
            self.progress.bytes(self.done, None);
        }
        Ok(count)
    }
}

/// The uncompressed bytes; the compression is known by its first bytes.
pub(super) fn decompressed<'a>(source: impl Read + 'a) -> Result<Box<dyn Read + 'a>, ImageError> {
    let mut source = BufReader::with_capacity(BUFFER_BYTES, source);
    let start = source.fill_buf().map_err(ImageError::Read)?;
    let unsupported = |format, tool| Err(ImageError::Compression { format, tool });
    // A pipe may give fewer than 4 bytes at first only if it gives nothing more soon;
    // gzip is told by two bytes, the others are refused or unlikely to come in drops.
    match start {
        [0x1f, 0x8b, ..] => Ok(Box::new(BufReader::with_capacity(
            BUFFER_BYTES,
            flate2::bufread::MultiGzDecoder::new(source),
        ))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Box::new(BufReader::with_capacity(
            BUFFER_BYTES,
            // The library refuses windows above 128 MiB by itself.
            zstd::stream::read::Decoder::with_buffer(source).map_err(ImageError::Read)?,
        ))),
        [0xfd, b'7', b'z', b'X', ..] => unsupported("xz", "xz"),
        [b'B', b'Z', b'h', ..] => unsupported("bzip2", "bzip2"),
        _ => Ok(Box::new(source)),
    }
}

/// Passed inside an [`io::Error`] when a [`Measured`] stream is too long.
#[derive(Debug, thiserror::Error)]
#[error("more than {0} bytes")]
struct TooLong(u64);

/// Hashes and bounds a stream: a small archive cannot become endless by decompression.
pub(super) struct Measured<R> {
    inner: R,
    hash: Sha256,
    left: u64,
    limit: u64,
}

impl<R: Read> Measured<R> {
    pub(super) fn new(inner: R, limit: u64) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            left: limit,
            limit,
        }
    }

    /// Reads to the end and returns the digest of everything.
    pub(super) fn finish(mut self) -> Result<String, ImageError> {
        let mut buffer = vec![0; BUFFER_BYTES];
        while self.read(&mut buffer).map_err(read_error)? > 0 {}
        Ok(hexadecimal(&self.hash.finalize()))
    }
}

impl<R: Read> Read for Measured<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(count as u64)
            .ok_or_else(|| io::Error::other(TooLong(self.limit)))?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

/// The error of reading from a [`Measured`] stream.
pub(super) fn read_error(error: io::Error) -> ImageError {
    if let Some(TooLong(limit)) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
        return ImageError::TooLarge {
            what: "bytes",
            limit: *limit,
        };
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ImageError::Truncated("inside its compressed data"),
        _ => ImageError::Read(error),
    }
}
