//! What can go wrong with a sandbox: the step, its object, the kernel's word
//! and what to do about it.

use std::{fmt, io};

use sandbox::Kind;
use serde::{Deserialize, Serialize};

/// One step in the life of a sandbox that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Starting the spawner and giving it its configuration.
    LaunchSpawner,
    /// Talking to the spawner.
    AskSpawner,
    /// Finding out what the host's control groups are.
    FindCgroups,
    /// Translating the list of allowed system calls.
    CompileFilter,
    /// Reading the operator's certificate bundle.
    ReadCertificates,
    /// Taking a free slot: id range and address.
    TakeSlot,
    /// Giving a slot back.
    FreeSlot,
    /// Making the sandbox's folder.
    MakeFolder,
    /// Waiting for another request about the same sandbox.
    LockFolder,
    /// Writing down what was made.
    WriteRecord,
    /// Reading what was written down.
    ReadRecord,
    /// Preparing the writable layer, or the layer in memory.
    PrepareUpper,
    /// Listening for the server at the agent's socket.
    BindSocket,
    /// Making the control groups and setting their limits.
    MakeCgroup,
    /// Moving a process into a control group.
    JoinCgroup,
    /// Making the user namespace and its id map.
    MapIds,
    /// Making the first process in its namespaces.
    CloneProcess,
    /// Connecting the network.
    ConnectNetwork,
    /// Showing a layer of the image through the id map.
    MapLayer,
    /// Mounting the image's layers under the writable layer.
    MountOverlay,
    /// Mounting a fresh file system.
    MountFresh,
    /// Hiding or write-protecting a part of `/proc`.
    MaskPath,
    /// Making the mounted tree the root.
    PivotRoot,
    /// Setting host name, resource limits and signals.
    SetLimits,
    /// Making the control groups the visible roots.
    HideCgroups,
    /// Becoming the sandbox's user.
    BecomeUser,
    /// Going to the working directory.
    EnterWorkdir,
    /// Dropping capabilities.
    DropCapabilities,
    /// Installing the system call filters.
    InstallFilter,
    /// Placing the agent's descriptors.
    PlaceDescriptors,
    /// Starting the agent.
    ExecuteAgent,
    /// Waiting for the first process to report.
    AwaitProcess,
    /// Freezing or thawing.
    Freeze,
    /// Killing every process.
    Kill,
    /// Removing control groups.
    RemoveCgroup,
    /// Disconnecting the network.
    DisconnectNetwork,
    /// Removing the sandbox's files.
    RemoveFiles,
    /// Giving kept files to the ids of another slot.
    ShiftOwners,
    /// Packing the files of a sandbox.
    PackFiles,
    /// Unpacking the files of a sandbox.
    UnpackFiles,
    /// Changing the limits of a running sandbox.
    Resize,
    /// Looking at what there is.
    ListSandboxes,
    /// Reading counters.
    ReadUsage,
}

impl Step {
    /// What was being done, as the beginning of a message.
    fn action(self) -> &'static str {
        match self {
            Self::LaunchSpawner => "start the spawner",
            Self::AskSpawner => "talk to the spawner",
            Self::FindCgroups => "find the control groups",
            Self::CompileFilter => "compile the system call filter",
            Self::ReadCertificates => "read the certificate bundle",
            Self::TakeSlot => "take a slot",
            Self::FreeSlot => "free the slot",
            Self::MakeFolder => "make the folder",
            Self::LockFolder => "lock the folder",
            Self::WriteRecord => "write the record",
            Self::ReadRecord => "read the record",
            Self::PrepareUpper => "prepare",
            Self::BindSocket => "listen at the agent's socket",
            Self::MakeCgroup => "set up the control group",
            Self::JoinCgroup => "join the control group",
            Self::MapIds => "map user ids of",
            Self::CloneProcess => "make the first process with",
            Self::ConnectNetwork => "connect the network of",
            Self::MapLayer => "map the image layer",
            Self::MountOverlay => "mount the image with",
            Self::MountFresh => "mount",
            Self::MaskPath => "protect",
            Self::PivotRoot => "change the root to",
            Self::SetLimits => "set",
            Self::HideCgroups => "make a namespace for",
            Self::BecomeUser => "become",
            Self::EnterWorkdir => "go to the working directory",
            Self::DropCapabilities => "drop",
            Self::InstallFilter => "install",
            Self::PlaceDescriptors => "place the descriptor of",
            Self::ExecuteAgent => "start the agent",
            Self::AwaitProcess => "hear from the first process",
            Self::Freeze => "freeze or thaw",
            Self::Kill => "kill",
            Self::RemoveCgroup => "remove the control group",
            Self::DisconnectNetwork => "disconnect the network of",
            Self::RemoveFiles => "remove",
            Self::ShiftOwners => "give new owners to",
            Self::PackFiles => "pack",
            Self::UnpackFiles => "unpack",
            Self::Resize => "change the limit",
            Self::ListSandboxes => "list",
            Self::ReadUsage => "read",
        }
    }

    /// What the operator can do, when that can be said in general.
    fn advice(self) -> Option<&'static str> {
        Some(match self {
            Self::LaunchSpawner | Self::CloneProcess | Self::MapIds | Self::BecomeUser => {
                "the spawner must run as root; `sandboxai doctor` says what is missing"
            }
            Self::AskSpawner => "restart the server",
            Self::FindCgroups | Self::MakeCgroup | Self::JoinCgroup => {
                "`sandboxai doctor` shows the control groups of this host"
            }
            Self::MapLayer => {
                "the kernel must be 5.19 or newer, and the state folder on a file system with id-mapped mounts, e.g. ext4, xfs or btrfs"
            }
            Self::MountOverlay => {
                "the state folder must be on a file system that overlayfs can write to, e.g. ext4, xfs or btrfs"
            }
            Self::EnterWorkdir => {
                "the image names a working directory that cannot be used; change it in the image"
            }
            Self::ReadCertificates => "correct the configured path of the certificate bundle",
            Self::WriteRecord
            | Self::MakeFolder
            | Self::PrepareUpper
            | Self::PackFiles
            | Self::UnpackFiles => "check the space and the permissions of the state folder",
            _ => return None,
        })
    }
}

/// A step that failed, with what and why.
#[derive(Debug)]
pub struct Error {
    /// The step.
    pub step: Step,
    /// What it was done to.
    pub object: String,
    /// Why it failed.
    pub source: io::Error,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot {} {}: {}",
            self.step.action(),
            self.object,
            self.source
        )?;
        match self.step.advice() {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl From<Error> for sandbox::Error {
    fn from(error: Error) -> Self {
        let kind = match (error.step, error.source.kind()) {
            (Step::TakeSlot, io::ErrorKind::QuotaExceeded) => Kind::LimitReached,
            (Step::MakeFolder, io::ErrorKind::AlreadyExists) => Kind::AlreadyExists,
            (Step::AskSpawner, _) => Kind::Unavailable,
            (Step::EnterWorkdir, _) => Kind::InvalidRequest,
            (_, io::ErrorKind::TimedOut) => Kind::Timeout,
            (_, io::ErrorKind::StorageFull | io::ErrorKind::OutOfMemory) => Kind::Unavailable,
            _ => Kind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

/// Says at which step, with what, something failed.
pub(crate) trait At<T> {
    /// Attaches the step and its object, which is only formatted on failure.
    fn at<O: fmt::Display>(self, step: Step, object: O) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at<O: fmt::Display>(self, step: Step, object: O) -> Result<T, Error> {
        self.map_err(|source| Error {
            step,
            object: object.to_string(),
            source: source.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_step_object_cause_and_advice() {
        let error: Result<(), Error> =
            Err(io::Error::from_raw_os_error(libc::EINVAL)).at(Step::MapLayer, "/state/layer");
        let message = error.unwrap_err().to_string();
        for part in [
            "map the image layer /state/layer",
            "Invalid argument",
            "5.19",
        ] {
            assert!(message.contains(part), "{message}");
        }
    }
}
