//! Searching files: patterns of names may have one `*` only.

use agent_protocol::{Failure, FailureKind, Match, ReplaceOutcome, Reply};
use tokio::io::AsyncWrite;

use super::{Closed, Connection};

/// A match.
pub(super) fn found(path: &str, line: u64, text: &str) -> Match {
    Match {
        path: path.to_owned(),
        line,
        text: text.to_owned(),
    }
}

fn matches(name: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => name == pattern,
        Some((start, end)) => {
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        }
    }
}

impl<W: AsyncWrite> Connection<W> {
    pub(super) async fn grep(
        &mut self,
        path: &str,
        pattern: &str,
        limit: u64,
    ) -> Result<(), Closed> {
        let mut all = Vec::new();
        {
            let files = &self.agent.state().files;
            let below = files.below(path).into_iter().map(|(path, _)| path);
            for file in below.chain([path.to_owned()]) {
                let content = files.content(&file).unwrap_or_default();
                let text = String::from_utf8_lossy(&content);
                let lines = text.lines().zip(1..);
                let hits = lines.filter(|(line, _)| line.contains(pattern));
                all.extend(hits.map(|(text, line)| found(&file, line, text)));
            }
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let truncated = all.len() > limit;
        all.truncate(limit);
        if !all.is_empty() {
            self.reply(&Reply::Matches { matches: all }).await?;
        }
        self.reply(&Reply::Done { truncated }).await
    }

    pub(super) async fn glob(
        &mut self,
        path: &str,
        pattern: &str,
        limit: u64,
    ) -> Result<(), Closed> {
        let mut entries: Vec<_> = {
            let files = &self.agent.state().files;
            let below = files.below(path).into_iter().map(|(path, _)| path);
            let named = below.filter(|path| {
                let name = path.rsplit('/').next().unwrap_or_default();
                matches(name, pattern)
            });
            named.filter_map(|path| files.entry(&path)).collect()
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let truncated = entries.len() > limit;
        entries.truncate(limit);
        if !entries.is_empty() {
            self.reply(&Reply::Entries { entries }).await?;
        }
        self.reply(&Reply::Done { truncated }).await
    }

    pub(super) async fn replace(
        &mut self,
        paths: Vec<String>,
        pattern: &str,
        replacement: &str,
    ) -> Result<(), Closed> {
        let mut outcomes = Vec::new();
        for path in paths {
            let files = &mut self.agent.state().files;
            let outcome = match files.content_mut(&path) {
                Some(content) => {
                    let text = String::from_utf8_lossy(content).into_owned();
                    *content = text.replace(pattern, replacement).into_bytes();
                    ReplaceOutcome {
                        path,
                        replaced: text.matches(pattern).count() as u64,
                        failure: None,
                    }
                }
                None => ReplaceOutcome {
                    failure: Some(Failure {
                        kind: FailureKind::NotFound,
                        message: format!("{path}: no such file or directory"),
                    }),
                    path,
                    replaced: 0,
                },
            };
            outcomes.push(outcome);
        }
        self.reply(&Reply::Replaced { outcomes }).await
    }
}
