//! What is written down about each sandbox before and while it is made.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use sandbox::NetworkMode;
use serde::{Deserialize, Serialize};

use crate::{
    error::{At as _, Error, Step},
    layout::{RECORD, open_folder},
    process::Identity,
};

/// Largest record that is read back, bytes.
const RECORD_BYTES_MAX: u64 = 1 << 20;

/// What there is of a sandbox without processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kept {
    /// Its writable layer.
    Files,
    /// Its writable layer, packed.
    Pack,
}

impl Kept {
    /// The word of the record, e.g. `files`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Pack => "pack",
        }
    }
}

/// What the image says about the sandbox's processes, for when they start again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageWords {
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) workdir: String,
}

/// One sandbox, as far as it has been made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) scope: String,
    /// The server whose end is also that of the sandbox.
    pub(crate) owner: Option<Identity>,
    pub(crate) slot: u32,
    /// Whether it has a connection to the internet.
    pub(crate) open_network: bool,
    /// Folders that no image may lose meanwhile.
    pub(crate) layers: Vec<PathBuf>,
    /// The run of the host in which it was made.
    pub(crate) boot_id: String,
    /// Who makes it; meaningless once `init` is known.
    pub(crate) worker: Identity,
    /// Its first process.
    pub(crate) init: Option<Identity>,
    /// Absent in records from before sandboxes could be stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<ImageWords>,
    /// What is kept; nothing while it has processes, or is being given some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kept: Option<Kept>,
    /// The slot whose ids some of its files may still have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) files_slot: Option<u32>,
}

impl Record {
    /// Writes the record into the sandbox's folder, whole or not at all.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), Error> {
        let path = folder.join(RECORD);
        let draft = folder.join("record.json.new");
        let text = serde_json::to_vec(self).expect("strings and numbers always serialize");
        // Root's alone, whatever the umask is: whoever makes a sandbox has none.
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)
            .and_then(|mut file| file.write_all(&text))
            .and_then(|()| fs::rename(&draft, &path))
            .at(Step::WriteRecord, path.display())
    }

    /// The same, and does not return before it would survive the host.
    pub(crate) fn write_durably(&self, folder: &Path) -> Result<(), Error> {
        self.write(folder)?;
        let sync = || -> io::Result<()> {
            File::open(folder.join(RECORD))?.sync_all()?;
            open_folder(folder)?.sync_all()
        };
        sync().at(Step::WriteRecord, folder.display())
    }

    /// Reads the record from the sandbox's folder; `None` when nothing was
    /// written yet, or a crash of the host has left something unreadable.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>, Error> {
        let path = folder.join(RECORD);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.at(Step::ReadRecord, path.display())?,
        };
        let mut text = Vec::new();
        file.take(RECORD_BYTES_MAX)
            .read_to_end(&mut text)
            .at(Step::ReadRecord, path.display())?;
        Ok(serde_json::from_slice(&text).ok())
    }

    pub(crate) fn network(&self) -> NetworkMode {
        if self.open_network {
            NetworkMode::Open
        } else {
            NetworkMode::None
        }
    }

    /// Whether the sandbox was made in this run of the host.
    pub(crate) fn is_of_this_boot(&self, boot_id: &str) -> bool {
        self.boot_id == boot_id
    }
}

/// Locks the sandbox's folder for as long as the file is open, or `None` when
/// another process has it. The lock belongs to the process that does something to
/// the sandbox and to its children until they drop it.
pub(crate) fn try_lock(folder: &Path) -> io::Result<Option<File>> {
    use rustix::{
        fs::{FlockOperation, flock},
        io::Errno,
    };
    let file = open_folder(folder)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Gives the lock back, also if a child of this process still has the file open.
pub(crate) fn unlock(lock: &File) {
    // Closing would do the same as soon as the last child has ended.
    let _ = rustix::fs::flock(lock, rustix::fs::FlockOperation::Unlock);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn record() -> Record {
        Record {
            scope: "default".into(),
            owner: None,
            slot: 7,
            open_network: true,
            layers: vec!["/state/images/layers/one".into()],
            boot_id: "b".into(),
            worker: Identity {
                pid: 2,
                started_ticks: 3,
            },
            init: None,
            image: None,
            kept: None,
            files_slot: None,
        }
    }

    #[test]
    fn a_record_reads_back_and_its_form_is_frozen() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(folder.path()).unwrap(), None);
        record().write(folder.path()).unwrap();
        assert_eq!(Record::read(folder.path()).unwrap(), Some(record()));
        let mode = fs::metadata(folder.path().join(RECORD)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600, "it is root's alone");
        // Sandboxes outlive the server's version.
        assert_eq!(
            fs::read_to_string(folder.path().join(RECORD)).unwrap(),
            r#"{"scope":"default","owner":null,"slot":7,"open_network":true,"layers":["/state/images/layers/one"],"boot_id":"b","worker":{"pid":2,"started_ticks":3},"init":null}"#
        );
    }

    #[test]
    fn what_is_kept_reads_back_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Record {
            kept: Some(Kept::Pack),
            image: Some(ImageWords {
                env: BTreeMap::new(),
                workdir: "/".into(),
            }),
            ..record()
        };
        kept.write_durably(folder.path()).unwrap();
        assert_eq!(Record::read(folder.path()).unwrap(), Some(kept));
        let text = fs::read_to_string(folder.path().join(RECORD)).unwrap();
        assert!(text.ends_with(r#""image":{"env":{},"workdir":"/"},"kept":"pack"}"#));
    }

    #[test]
    fn half_a_record_counts_as_none() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(RECORD), "{\"scope\":").unwrap();
        assert_eq!(Record::read(folder.path()).unwrap(), None);
    }

    #[test]
    fn a_locked_folder_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let lock = try_lock(folder.path()).unwrap();
        assert!(lock.is_some());
        assert!(try_lock(folder.path()).unwrap().is_none());
        let copy = lock.as_ref().map(|lock| lock.try_clone().unwrap());
        unlock(&lock.unwrap());
        assert!(copy.is_some());
        assert!(try_lock(folder.path()).unwrap().is_some());
    }
}
