//! A sandbox as the control plane shows it: Daytona's states and the JSON of a
//! sandbox, for every generation of the SDKs.

use std::collections::BTreeMap;

use control::Sandbox;
use jiff::Timestamp;
use sandbox::{NetworkMode, State};
use serde::Serialize;

use super::interval;
use crate::{annotation, base_url::BaseUrl, version::SdkVersion};

/// The organization of all sandboxes: a server has no more than one.
pub(crate) const ORGANIZATION: &str = "default";
/// The region where the caller has named none.
pub(crate) const TARGET_DEFAULT: &str = "us";
/// The size of disks in GiB where the caller has named none.
const DISK_GIB_DEFAULT: u64 = 10;
/// The first SDK that knows paused sandboxes.
const KNOWS_PAUSED: SdkVersion = SdkVersion::new(0, 190);
const GIB: u64 = 1 << 30;

/// A sandbox, made or not.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    /// The sandbox; `Creating` while it waits.
    pub(crate) sandbox: Sandbox,
    /// What it waits for, or why it will never be made.
    pub(crate) waits: Option<Waits>,
}

/// Why there is no such sandbox yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    /// Its image will be built.
    Build,
    /// Its image is being built.
    Building,
    /// Its image is being pulled.
    Pulling,
    /// Its image could not be made.
    BuildFailed(String),
    /// It could not be made.
    Failed(String),
}

impl From<Sandbox> for Shown {
    fn from(sandbox: Sandbox) -> Self {
        Self {
            sandbox,
            waits: None,
        }
    }
}

impl Shown {
    /// The state as one of Daytona's words that `version` knows.
    pub(crate) fn state(&self, version: SdkVersion) -> &'static str {
        match &self.waits {
            Some(waits) => waits.word(),
            None if self.is_ending() => "destroying",
            None => word_of(self.sandbox.state, version),
        }
    }

    fn is_ending(&self) -> bool {
        self.sandbox.ending.is_some() && !self.sandbox.state.is_final()
    }

    /// What it is on its way to.
    fn desired(&self, version: SdkVersion) -> &'static str {
        match self.sandbox.state {
            _ if self.is_ending() => "destroyed",
            State::Creating | State::Running | State::Starting | State::Restoring => "started",
            State::Paused if version >= KNOWS_PAUSED => "paused",
            State::Paused | State::Stopping | State::Stopped => "stopped",
            State::Archiving | State::Archived => "archived",
            State::Gone | State::Failed => "destroyed",
        }
    }

    fn error(&self) -> Option<String> {
        if let Some(Waits::BuildFailed(why) | Waits::Failed(why)) = &self.waits {
            return Some(why.clone());
        }
        let stopped = self.sandbox.stopped.as_ref();
        let tombstone = self.sandbox.tombstone.as_ref();
        stopped
            .and_then(|stop| stop.fault.clone())
            .or_else(|| tombstone.map(|tombstone| tombstone.reason.to_string()))
    }
}

impl Waits {
    fn word(&self) -> &'static str {
        match self {
            Self::Build => "pending_build",
            Self::Building => "building_snapshot",
            Self::Pulling => "pulling_snapshot",
            Self::BuildFailed(_) => "build_failed",
            Self::Failed(_) => "error",
        }
    }
}

/// The word for a state. SDKs before 0.170 fail on a word that they do not
/// know, and those before 0.190 know no paused sandboxes: for them such a one
/// is stopped, and starting it resumes it.
pub(crate) fn word_of(state: State, version: SdkVersion) -> &'static str {
    match state {
        State::Creating => "creating",
        State::Running => "started",
        State::Paused if version >= KNOWS_PAUSED => "paused",
        State::Paused | State::Stopped => "stopped",
        State::Stopping => "stopping",
        State::Starting => "starting",
        State::Archiving => "archiving",
        State::Archived => "archived",
        State::Restoring => "restoring",
        State::Gone => "destroyed",
        State::Failed => "error",
    }
}

/// The JSON of a sandbox. Has all that any generation requires; numbers of
/// resources are whole, since the newest take nothing else.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SandboxDto {
    pub(crate) id: String,
    organization_id: &'static str,
    name: String,
    snapshot: String,
    user: String,
    env: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    public: bool,
    network_block_all: bool,
    kvm: bool,
    target: String,
    cpu: u64,
    gpu: u64,
    memory: u64,
    disk: u64,
    pub(crate) state: &'static str,
    desired_state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_reason: Option<String>,
    recoverable: bool,
    auto_stop_interval: i64,
    auto_pause_interval: i64,
    auto_archive_interval: i64,
    auto_delete_interval: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    auto_destroy_at: Option<String>,
    volumes: [(); 0],
    #[serde(skip_serializing_if = "Option::is_none")]
    build_info: Option<BuildInfo>,
    created_at: String,
    updated_at: String,
    last_activity_at: String,
    daemon_version: &'static str,
    toolbox_proxy_url: String,
}

/// How the image of a sandbox came about.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BuildInfo {
    dockerfile_content: String,
    context_hashes: [(); 0],
    snapshot_ref: String,
    created_at: String,
    updated_at: String,
}

impl SandboxDto {
    /// The sandbox for a caller who came to `base` with that SDK.
    pub(crate) fn of(shown: &Shown, base: &BaseUrl, version: SdkVersion) -> Self {
        let sandbox = &shown.sandbox;
        let (spec, limits, lease) = (
            &sandbox.spec,
            &sandbox.spec.limits,
            interval::Intervals::of(&sandbox.spec.lease),
        );
        let annotation = |name: &str| sandbox.annotations.get(name).cloned();
        let created_at = time(sandbox.created_ms);
        let build_info = annotation(annotation::DOCKERFILE).map(|dockerfile_content| BuildInfo {
            dockerfile_content,
            context_hashes: [],
            snapshot_ref: sandbox.image_requested.clone(),
            created_at: created_at.clone(),
            updated_at: created_at.clone(),
        });
        Self {
            id: sandbox.id.to_string(),
            organization_id: ORGANIZATION,
            name: sandbox.name.to_string(),
            snapshot: sandbox.image_requested.clone(),
            user: annotation(annotation::USER).unwrap_or_else(|| "root".to_owned()),
            env: spec.env.clone(),
            labels: sandbox.labels.clone(),
            public: is_public(sandbox),
            network_block_all: spec.network == NetworkMode::None,
            kvm: false,
            target: annotation(annotation::TARGET).unwrap_or_else(|| TARGET_DEFAULT.to_owned()),
            cpu: cpu(sandbox),
            gpu: 0,
            memory: limits.memory_bytes.div_ceil(GIB),
            disk: disk_gib(sandbox),
            state: shown.state(version),
            desired_state: shown.desired(version),
            error_reason: shown.error(),
            recoverable: is_recoverable(sandbox),
            auto_stop_interval: lease.stop,
            auto_pause_interval: lease.pause,
            auto_archive_interval: lease.archive,
            auto_delete_interval: lease.delete,
            auto_destroy_at: destroyed_at_ms(sandbox).map(time),
            volumes: [],
            build_info,
            updated_at: time(sandbox.active_ms.max(sandbox.created_ms)),
            last_activity_at: time(sandbox.active_ms),
            created_at,
            daemon_version: env!("CARGO_PKG_VERSION"),
            toolbox_proxy_url: base.toolbox(),
        }
    }
}

/// Whether previews need no token.
pub(crate) fn is_public(sandbox: &Sandbox) -> bool {
    sandbox
        .annotations
        .get(annotation::PUBLIC)
        .is_some_and(|value| value == "true")
}

/// Whether it was stopped by a fault and can be started again.
pub(crate) fn is_recoverable(sandbox: &Sandbox) -> bool {
    let fault = sandbox.stopped.as_ref().map(|stop| stop.fault.is_some());
    sandbox.state == State::Stopped && fault == Some(true)
}

/// CPUs, rounded up.
pub(crate) fn cpu(sandbox: &Sandbox) -> u64 {
    u64::from(sandbox.spec.limits.cpu_millis.div_ceil(1000))
}

/// Memory in GiB, rounded up.
pub(crate) fn memory_gib(sandbox: &Sandbox) -> u64 {
    sandbox.spec.limits.memory_bytes.div_ceil(GIB)
}

/// The size of the disk as the caller wanted it; the server does not enforce it.
pub(crate) fn disk_gib(sandbox: &Sandbox) -> u64 {
    sandbox
        .annotations
        .get(annotation::DISK_GIB)
        .and_then(|text| text.parse().ok())
        .unwrap_or(DISK_GIB_DEFAULT)
}

/// When the lifetime of a sandbox is over, milliseconds since the epoch.
pub(crate) fn destroyed_at_ms(sandbox: &Sandbox) -> Option<i64> {
    let lifetime = sandbox.spec.lease.lifetime_max?;
    let lifetime_ms = i64::try_from(lifetime.as_millis()).ok()?;
    sandbox.created_ms.checked_add(lifetime_ms)
}

/// A moment in the form of RFC 3339, with milliseconds.
pub(crate) fn time(ms: i64) -> String {
    let moment = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{moment:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What SDKs before 0.170 know; any other word makes them fail.
    const OLD_WORDS: [&str; 16] = [
        "creating",
        "restoring",
        "destroyed",
        "destroying",
        "started",
        "stopped",
        "starting",
        "stopping",
        "error",
        "build_failed",
        "pending_build",
        "building_snapshot",
        "unknown",
        "pulling_snapshot",
        "archived",
        "archiving",
    ];

    #[test]
    fn old_sdks_get_words_that_they_know() {
        for state in [
            State::Creating,
            State::Running,
            State::Paused,
            State::Stopping,
            State::Stopped,
            State::Starting,
            State::Archiving,
            State::Archived,
            State::Restoring,
            State::Gone,
            State::Failed,
        ] {
            let word = word_of(state, SdkVersion::new(0, 115));
            assert!(OLD_WORDS.contains(&word), "{word}");
        }
        for waits in [
            Waits::Build,
            Waits::Building,
            Waits::Pulling,
            Waits::BuildFailed(String::new()),
            Waits::Failed(String::new()),
        ] {
            assert!(OLD_WORDS.contains(&waits.word()));
        }
        assert_eq!(word_of(State::Paused, SdkVersion::NEWEST), "paused");
    }

    #[test]
    fn times_have_milliseconds() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(1_764_252_245_050), "2025-11-27T14:04:05.050Z");
    }
}
