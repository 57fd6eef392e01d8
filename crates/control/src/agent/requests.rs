//! Requests about places, sessions, terminals, kernels and the file system.

use std::{path::Path, time::Duration};

use agent_protocol::{FileRequest, KernelInfo, Match, ReplaceOutcome, Reply, Request, SessionInfo};
use sandbox::Result;

use super::{
    Session,
    conversation::{Incoming, Input},
};
use crate::{DiskUse, Places, ProcessInfo};

/// Matches of one search, whatever is asked for.
const MATCHES_MAX: u64 = 100_000;
/// Text in the matches of one search, bytes.
const MATCHES_BYTES_MAX: usize = 64 << 20;
/// How long replacing a text in many files may take.
const REPLACE_TIME_MAX: Duration = Duration::from_secs(600);
/// Longest path that the kernel takes, bytes.
const PATH_BYTES_MAX: usize = 4095;

impl Session {
    /// Asks whether the agent is there.
    ///
    /// # Errors
    /// When it is not.
    pub(crate) async fn ping(self) -> Result<()> {
        self.places().await.map(drop)
    }

    /// Asks where things are.
    ///
    /// # Errors
    /// `SandboxLost`.
    pub(crate) async fn places(mut self) -> Result<Places> {
        let Reply::Pong { workdir, home, .. } = self.answer(&Request::Ping).await? else {
            return Err(self.wrong("a ping was not answered by a pong").await);
        };
        // Agents before these words say nothing.
        let place = |place: String, default: &str| match place.as_str() {
            "" => Some(default.to_owned()),
            _ => is_path(&place).then_some(place),
        };
        match (place(workdir, "/"), place(home, "/root")) {
            (Some(workdir), Some(home)) => Ok(Places { workdir, home }),
            _ => Err(self.wrong("a place is not an absolute path").await),
        }
    }

    /// Runs a command in a shell session.
    ///
    /// # Errors
    /// As the agent says, or `SandboxLost`.
    pub(crate) async fn run_in_session(
        mut self,
        session: String,
        command: String,
    ) -> Result<ProcessInfo> {
        let request = Request::RunInSession { session, command };
        match self.answer(&request).await? {
            Reply::Started(process) => Ok(process),
            _ => Err(self.wrong("a command was not answered by a process").await),
        }
    }

    /// All shell sessions.
    ///
    /// # Errors
    /// `SandboxLost`.
    pub(crate) async fn sessions(mut self) -> Result<Vec<SessionInfo>> {
        match self.answer(&Request::Sessions).await? {
            Reply::Sessions { sessions } => Ok(sessions),
            _ => Err(self.wrong("the answer is no list of sessions").await),
        }
    }

    /// All contexts that have a kernel.
    ///
    /// # Errors
    /// `SandboxLost`.
    pub(crate) async fn kernels(mut self) -> Result<Vec<KernelInfo>> {
        match self.answer(&Request::Kernels).await? {
            Reply::Kernels { kernels } => Ok(kernels),
            _ => Err(self.wrong("the answer is no list of kernels").await),
        }
    }

    /// Size and use of the file system.
    ///
    /// # Errors
    /// `SandboxLost`.
    pub(crate) async fn disk(mut self) -> Result<DiskUse> {
        match self.answer(&Request::Disk).await? {
            Reply::Disk {
                total_bytes,
                used_bytes,
            } => Ok(DiskUse {
                total_bytes,
                used_bytes: used_bytes.min(total_bytes),
            }),
            _ => Err(self.wrong("the answer does not tell about the disk").await),
        }
    }

    /// Lines that contain a text.
    ///
    /// # Errors
    /// As the agent says, or `SandboxLost`.
    pub(crate) async fn grep(
        mut self,
        path: String,
        pattern: String,
        limit: u64,
    ) -> Result<Vec<Match>> {
        let limit = limit.min(MATCHES_MAX);
        let request = FileRequest::Grep {
            path,
            pattern,
            limit,
        };
        self.ask(&Request::File(request), Input::none())?;
        let matches_max = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut found: Vec<Match> = Vec::new();
        let mut bytes = 0;
        loop {
            // Without a deadline: a large tree without the text is searched in silence.
            match self.next(None).await? {
                Incoming::Reply(Reply::Matches { matches }) => {
                    let texts = matches
                        .iter()
                        .map(|found| found.path.len() + found.text.len());
                    bytes += texts.sum::<usize>();
                    let too_many = found.len() + matches.len() > matches_max;
                    if too_many || matches.is_empty() || bytes > MATCHES_BYTES_MAX {
                        return Err(self.wrong("a search is not as it was asked for").await);
                    }
                    found.extend(matches);
                }
                Incoming::Reply(Reply::Done { .. }) => {
                    self.finish();
                    return Ok(found);
                }
                _ => return Err(self.wrong("something else than matches came").await),
            }
        }
    }

    /// Replaces a text in files.
    ///
    /// # Errors
    /// As the agent says, or `SandboxLost`.
    pub(crate) async fn replace(
        mut self,
        paths: Vec<String>,
        pattern: String,
        replacement: String,
    ) -> Result<Vec<ReplaceOutcome>> {
        let expected = paths.clone();
        let request = FileRequest::Replace {
            paths,
            pattern,
            replacement,
        };
        self.ask(&Request::File(request), Input::none())?;
        let Reply::Replaced { outcomes } = self.reply(REPLACE_TIME_MAX).await? else {
            return Err(self
                .wrong("the answer does not tell what was replaced")
                .await);
        };
        let told = outcomes.iter().map(|outcome| &outcome.path);
        if !told.eq(&expected) {
            return Err(self.wrong("the answer is about other files").await);
        }
        Ok(outcomes)
    }
}

fn is_path(text: &str) -> bool {
    text.len() <= PATH_BYTES_MAX
        && !text.contains(char::is_control)
        && Path::new(text).is_absolute()
}
