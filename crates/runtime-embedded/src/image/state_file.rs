//! The store's own files: small, written whole, read whole.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use super::ImageError;

/// Largest file that the store reads back, bytes.
const STATE_FILE_BYTES_MAX: u64 = 16 << 20;

/// Names of the files in a folder; those that are not text are none of ours.
pub(super) fn file_names(folder: &Path) -> Result<Vec<String>, ImageError> {
    std::fs::read_dir(folder)
        .and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.file_name().into_string().ok()))
                .filter_map(Result::transpose)
                .collect()
        })
        .map_err(ImageError::store("list the folder", folder))
}

/// The whole file, up to a bound.
pub(super) fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(STATE_FILE_BYTES_MAX)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes the file so that it is there whole or not at all.
pub(super) fn write_whole(temporary: &Path, path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    File::create(temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(temporary, path))
        .map_err(ImageError::store("write", path))
}
