//! What the engine of this host can and cannot do for sandboxes in production,
//! and what to change.
//!
//! The engine tells most of it itself (`docker info`). What it does not tell is
//! read from its configuration file.

mod daemon_json;
mod engine;
mod process;

use std::{fs, io, path::Path};

use sandbox::check::Check;

use crate::{Config, engine::connect, error::is_missing};
use daemon_json::DaemonJson;
use engine::Told;

pub use daemon_json::Change;

/// Where the engine's configuration is unless it was told otherwise.
pub const DAEMON_JSON: &str = "/etc/docker/daemon.json";
/// Less free space than this makes the engine fail soon.
const SPACE_BYTES_MIN: u64 = 1 << 30;

/// What was found, and what to change.
#[derive(Clone, Debug)]
pub struct Report {
    /// Everything that was looked at.
    pub checks: Vec<Check>,
    /// The engine's configuration as it should be; absent when nothing need be changed.
    pub change: Option<Change>,
}

/// Looks at the engine that `config` names, its configuration in the file at
/// `daemon_json`, and the image that sandboxes are made of. Changes nothing.
pub async fn examine(config: &Config, image: &str, daemon_json: &Path) -> Report {
    let (file, broken) = match read(daemon_json) {
        Ok(file) => (Some(file), None),
        Err(check) => (None, Some(check)),
    };
    let mut checks = Vec::new();
    let connected = match connect(&config.host).await {
        Ok(engine) => engine
            .info()
            .await
            .map(|info| (engine, info))
            .map_err(|error| {
                crate::error::failed(&format!("ask the engine at {}", config.host), error)
            }),
        Err(error) => Err(error),
    };
    let (engine, info) = match connected {
        Ok(connected) => connected,
        Err(error) => {
            checks.push(Check::fail("engine", error.message).fix(
                "install and start it: `apt-get install docker.io && systemctl enable --now docker`; or correct `docker.host`",
            ));
            checks.extend(broken);
            return Report {
                checks,
                change: None,
            };
        }
    };
    let told = Told {
        open_files_max: process::open_files_max(&config.host),
        file: file.clone().unwrap_or_default(),
        info,
    };
    checks.extend(engine::checks(&told, config));
    checks.extend(told.info.docker_root_dir.as_deref().and_then(space));
    checks.extend(config.seccomp_profile.as_deref().map(profile));
    checks.push(match engine.inspect_image(image).await {
        Ok(_) => Check::pass("image", format!("the engine has {image}")),
        Err(error) if is_missing(&error) => {
            Check::fail("image", format!("the engine has no image {image}")).fix(format!(
                "`docker pull {image}` or `docker load` gets it, `sandbox.image` names another; `docker image ls` lists what is there"
            ))
        }
        Err(error) => Check::fail("image", format!("cannot look at {image}: {error}")),
    });
    // Nothing is proposed on top of what cannot be read.
    let change = file.and_then(|_| engine::change(&told, daemon_json));
    checks.extend(broken);
    Report { checks, change }
}

/// The settings in the engine's file; none when there is no file.
fn read(path: &Path) -> Result<DaemonJson, Check> {
    const NAME: &str = "daemon.json";
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => {
            let finding = format!("cannot read {}: {error}", path.display());
            return Err(Check::warn(NAME, finding).fix("run this as root"));
        }
    };
    DaemonJson::parse(&text).map_err(|problem| {
        Check::fail(NAME, format!("{}:{problem}", path.display()))
            .fix("correct the line; the engine does not start again with this file")
    })
}

fn space(root: &str) -> Option<Check> {
    const NAME: &str = "disk space";
    let info = rustix::fs::statvfs(root).ok()?;
    let bytes = info.f_bavail * info.f_frsize;
    Some(if bytes >= SPACE_BYTES_MIN {
        Check::pass(NAME, format!("{} GiB free in {root}", bytes >> 30))
    } else {
        Check::warn(NAME, format!("only {} MiB free in {root}", bytes >> 20))
            .fix("`docker system df` tells what takes it, `docker image prune` removes images without a name")
    })
}

/// The configured seccomp profile.
fn profile(path: &Path) -> Check {
    const NAME: &str = "seccomp profile";
    let shown = path.display();
    let wrong = |problem: String| {
        Check::fail(NAME, problem)
            .fix("correct `docker.seccomp_profile`, or leave it out for the engine's own profile")
    };
    match fs::read_to_string(path) {
        Err(error) => wrong(format!("cannot read {shown}: {error}")),
        Ok(text) => match serde_json::from_str::<serde_json::Value>(&text) {
            Err(error) => wrong(format!("{shown}:{}: not JSON: {error}", error.line())),
            Ok(profile) if profile["defaultAction"].is_string() => {
                Check::pass(NAME, format!("{shown} replaces the engine's own"))
            }
            Ok(_) => wrong(format!(
                "{shown} has no `defaultAction`, so it is no seccomp profile"
            )),
        },
    }
}
