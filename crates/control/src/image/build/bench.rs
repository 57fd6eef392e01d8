//! One sandbox in which one step of a build is done.

use std::{collections::BTreeMap, time::Duration};

use futures_util::StreamExt as _;
use sandbox::{Error, FoundImage, Id, Image, Name, NewImage, Result, Space};

use crate::{Command, Control, Create, EntryKind, Exec, Piece, PieceStream, image::Job};

/// The space of all sandboxes of builds. No caller's requests come here.
const SPACE: &str = "builds";
/// How long one command may take.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(3600);
/// How long such a sandbox may live: longer than its one command.
const LIFETIME_MAX: Duration = Duration::from_secs(2 * 3600);

/// The space of all sandboxes of builds.
pub(crate) fn space() -> Space {
    SPACE.parse().expect("the word is a valid name: tested")
}

/// A sandbox that is gone when this value is.
pub(super) struct Bench {
    pub(super) control: Control,
    pub(super) space: Space,
    pub(super) name: Name,
    id: Id,
}

/// How a command is run.
pub(super) struct Setting<'a> {
    pub(super) env: BTreeMap<String, String>,
    pub(super) workdir: &'a str,
    pub(super) user: Option<String>,
}

impl Bench {
    /// Makes a sandbox of the image.
    pub(super) async fn of(control: &Control, image: &Image) -> Result<Self> {
        let name = Name::random()?;
        let create = Create {
            space: space(),
            name: Some(name.clone()),
            image: Some(image.to_string()),
            lifetime_max: Some(LIFETIME_MAX),
            ..Create::default()
        };
        let mut bench = Self {
            control: control.clone(),
            space: space(),
            name,
            id: Id::random()?,
        };
        // From here on dropping it removes what there is.
        bench.id = control.create(create).await?.sandbox.id;
        Ok(bench)
    }

    /// Runs a command; what it says goes into the log.
    ///
    /// # Errors
    /// `InvalidRequest` when it fails.
    pub(super) async fn run(
        &self,
        words: Vec<String>,
        setting: Setting<'_>,
        job: &Job,
    ) -> Result<()> {
        let exec = Exec {
            command: Command::Argv(words),
            env: setting.env,
            cwd: Some(setting.workdir.to_owned()),
            timeout_ms: u64::try_from(COMMAND_TIME_MAX.as_millis()).ok(),
            merge_output: true,
            user: setting.user,
            ..Exec::default()
        };
        let control = &self.control;
        let mut pieces = control.exec(&self.space, &self.name, exec, None).await?;
        while let Some(piece) = pieces.next().await {
            match piece? {
                Piece::Stdout(output) | Piece::Stderr(output) => job.say_bytes(&output),
                Piece::Exited(exit) if exit.timed_out => {
                    return Err(Error::timeout(format!(
                        "the command did not end within {COMMAND_TIME_MAX:?}"
                    )));
                }
                Piece::Exited(exit) if exit.code != 0 => {
                    let why = match exit.out_of_memory {
                        true => "; the sandbox ran out of memory",
                        false => "",
                    };
                    return Err(Error::invalid(format!(
                        "the command ended with exit code {}{why}",
                        exit.code
                    )));
                }
                Piece::Exited(_) => return Ok(()),
                _ => {}
            }
        }
        Err(Error::internal("a command ended without an end"))
    }

    /// Makes a folder and its parents.
    pub(super) async fn make_folder(&self, path: &str, mode: Option<u32>) -> Result<()> {
        let control = &self.control;
        let made = control.make_directory(&self.space, &self.name, path, mode);
        made.await.map(drop)
    }

    /// Whether the path is a folder, also by way of a symbolic link.
    pub(super) async fn is_folder(&self, path: &str) -> Result<bool> {
        let (control, space, name) = (&self.control, &self.space, &self.name);
        match control.stat_file(space, name, path).await {
            Ok(entry) if entry.kind == EntryKind::Symlink => {
                Ok(control.list_files(space, name, path, 1, 1).await.is_ok())
            }
            Ok(entry) => Ok(entry.kind == EntryKind::Directory),
            Err(error) if error.kind == sandbox::Kind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn write(
        &self,
        path: &str,
        mode: u32,
        content: PieceStream<bytes::Bytes>,
    ) -> Result<()> {
        let control = &self.control;
        let written = control.write_file(&self.space, &self.name, path, Some(mode), false, content);
        written.await.map(drop)
    }

    /// Makes an image of the sandbox and removes it.
    pub(super) async fn commit(self, new: &NewImage) -> Result<FoundImage> {
        self.control.core.images()?.commit(&self.id, new).await
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let (control, space, name) = (self.control.clone(), self.space.clone(), self.name.clone());
        let id = self.id.clone();
        let core = std::sync::Arc::clone(&control.core);
        let mut closing = core.closing.subscribe();
        core.tasks.spawn(async move {
            let deleted = tokio::select! {
                deleted = control.delete(&space, &name) => deleted,
                // The next start of the server removes it.
                _ = closing.wait_for(|closing| *closing) => return,
            };
            // What was never made is not there either.
            if let Err(error) = deleted
                && error.kind != sandbox::Kind::NotFound
            {
                tracing::warn!(sandbox = %id, %error, "cannot remove the sandbox of a build yet");
            }
        });
    }
}
