//! `sandboxai cp`: files and folders to and from a sandbox.
//!
//! Every file is streamed. What comes out of a sandbox is not trusted: names
//! are checked before anything is written, links are never made or followed.

mod download;
mod progress;
mod upload;

use std::path::PathBuf;

use sandbox::Name;
use serde_json::{Value, json};

use super::{Context, client::Client, output::Output, signal::Interrupts};
use crate::{exit_code::ExitCode, failure::Failure};
use progress::Progress;

/// Deepest folder copied.
const DEPTH_MAX: u32 = 256;

/// Arguments of `cp`.
#[derive(Debug, clap::Args)]
pub(super) struct Cp {
    /// A path, or NAME:PATH in a sandbox
    #[arg(value_parser = place)]
    source: Place,
    /// A path, or NAME:PATH in a sandbox
    #[arg(value_parser = place)]
    destination: Place,
}

/// One end of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// On this machine.
    Here(PathBuf),
    /// In a sandbox.
    Sandbox(Name, String),
}

/// `NAME:PATH` is in a sandbox; `./a:b` and `/a:b` are here.
fn place(text: &str) -> Result<Place, String> {
    match text.split_once(':') {
        Some((name, path)) if !name.contains('/') && !name.starts_with('.') => {
            if path.is_empty() {
                return Err(
                    "a path is missing after the colon; `.` is the working directory".to_owned(),
                );
            }
            Ok(Place::Sandbox(super::name(name)?, path.to_owned()))
        }
        _ if text.is_empty() => Err("a path is missing".to_owned()),
        _ => Ok(Place::Here(PathBuf::from(text))),
    }
}

/// What was copied.
#[derive(Debug, Default)]
struct Copied {
    files: u64,
    bytes: u64,
    /// Neither files nor folders: links, devices, sockets.
    skipped: u64,
}

pub(super) async fn main(context: &Context, cp: &Cp) -> Result<ExitCode, Failure> {
    let client = context.client()?;
    let mut interrupts = Interrupts::catch()?;
    let progress = Progress::new();
    let copying = async {
        match (&cp.source, &cp.destination) {
            (Place::Here(source), Place::Sandbox(name, destination)) => {
                let there = Remote {
                    client: &client,
                    name,
                };
                upload::copy(source, &there, destination, &progress).await
            }
            (Place::Sandbox(name, source), Place::Here(destination)) => {
                let there = Remote {
                    client: &client,
                    name,
                };
                download::copy(&there, source, destination, &progress).await
            }
            _ => Err(Failure::usage("one of the two paths must be in a sandbox")
                .hint("write it as NAME:PATH")),
        }
    };
    let copied = tokio::select! {
        copied = copying => copied?,
        code = interrupts.next() => return Ok(code),
    };
    progress.finish();
    report(context.output, &copied)?;
    Ok(ExitCode::Ok)
}

fn report(to: Output, copied: &Copied) -> Result<(), Failure> {
    if to.json {
        return to.json(&json!({
            "files": copied.files,
            "bytes": copied.bytes,
            "skipped": copied.skipped,
        }));
    }
    if copied.skipped > 0 {
        super::output::notice(&format!(
            "warning: {} links or special files were not copied",
            copied.skipped
        ));
    }
    Ok(())
}

/// A sandbox's files.
struct Remote<'a> {
    client: &'a Client,
    name: &'a Name,
}

impl Remote<'_> {
    async fn tool(&self, tool: &str, body: &Value) -> Result<Value, Failure> {
        let target = self.client.sandbox(self.name, &format!("/tools:{tool}"));
        target.post(body).await
    }

    /// What kind of thing the path names; nothing when it names none.
    async fn kind(&self, path: &str) -> Result<Option<String>, Failure> {
        match self.tool("stat_file", &json!({ "path": path })).await {
            Ok(entry) => Ok(entry["kind"].as_str().map(str::to_owned)),
            Err(failure) if failure.code == ExitCode::NotFound => {
                // The path or the sandbox? Only the first is no failure.
                self.client.sandbox(self.name, "").get().await?;
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }
}

/// A path in a sandbox one level below another.
fn below(folder: &str, name: &str) -> String {
    if folder.ends_with('/') {
        format!("{folder}{name}")
    } else {
        format!("{folder}/{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_tells_where_a_path_is() {
        let here = |text: &str| Ok(Place::Here(PathBuf::from(text)));
        let there =
            |name: &str, path: &str| Ok(Place::Sandbox(name.parse().unwrap(), path.to_owned()));
        assert_eq!(place("a/b"), here("a/b"));
        assert_eq!(place("./a:b"), here("./a:b"));
        assert_eq!(place("/a:b"), here("/a:b"));
        assert_eq!(place("box:/a:b"), there("box", "/a:b"));
        assert_eq!(place("box:a"), there("box", "a"));
        assert!(place("box:").is_err());
        assert!(place("").is_err());
        assert!(place("b x:/a").is_err());
    }

    #[test]
    fn paths_are_joined_with_one_slash() {
        assert_eq!(below("/a", "b"), "/a/b");
        assert_eq!(below("/", "b"), "/b");
        assert_eq!(below(".", "b"), "./b");
    }
}
