//! Sandboxes, their usage and their events.

use std::{collections::BTreeMap, time::Duration};

use axum::http::{HeaderMap, HeaderName};
use sandbox::{Error, Name, NetworkMode, RuntimeClass, Space};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{check, time_of_day};
use crate::error::ApiError;

const MEBIBYTE: u64 = 1 << 20;
/// Longest idempotency key, characters.
const KEY_CHARS_MAX: usize = 255;
/// Events told when the request does not say.
const EVENTS_DEFAULT: usize = 100;
/// Most events told at once.
const EVENTS_MAX: usize = 1000;

/// The server answers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    /// Always `ok`.
    pub(crate) status: &'static str,
    /// Version of the server.
    pub(crate) version: &'static str,
}

/// A request for a sandbox.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateSandboxRequest {
    /// Its name, 1 to 63 letters, digits, `-`, `_` or `.`, beginning with a
    /// letter or digit; made up when absent.
    name: Option<String>,
    /// What it is; the server's defaults when absent.
    spec: Option<SpecRequest>,
}

/// What a sandbox is asked to be. What is absent is the server's default.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SandboxSpecRequest)]
struct SpecRequest {
    /// The image its file system starts from.
    #[schema(example = "sandboxai/box")]
    image: Option<String>,
    /// Environment of everything that runs inside.
    env: Option<BTreeMap<String, String>>,
    /// Memory limit in MiB.
    memory_mb: Option<u64>,
    /// CPU limit, e.g. 1.5 for one and a half CPUs.
    cpu: Option<f64>,
    /// Limit of processes and threads.
    pids: Option<u32>,
    /// What it can reach: `open` (the public internet) or `none`.
    #[schema(example = "open")]
    network: Option<String>,
    /// Runtime class, one of those that the server's configuration allows.
    #[schema(example = "runsc")]
    runtime_class: Option<String>,
    /// End after so many seconds without a request.
    idle_timeout_s: Option<f64>,
    /// End so many seconds after creation.
    lifetime_s: Option<f64>,
    /// Stop, keeping the files, after so many seconds without a request.
    stop_after_idle_s: Option<f64>,
    /// Pause after so many seconds without a request.
    pause_after_idle_s: Option<f64>,
    /// Archive so many seconds after it was stopped.
    archive_after_stop_s: Option<f64>,
    /// End so many seconds after it was stopped; 0 means that stopping ends it.
    delete_after_stop_s: Option<f64>,
    /// Labels to filter by.
    labels: Option<BTreeMap<String, String>>,
}

impl CreateSandboxRequest {
    /// The operation that this asks for.
    pub(crate) fn into_create(
        self,
        space: Space,
        idempotency_key: Option<String>,
    ) -> Result<control::Create, ApiError> {
        let spec = self.spec.unwrap_or_default();
        let lease = |field, value: Option<f64>| {
            let max = Duration::from_secs_f64(check::SECONDS_MAX);
            value
                .map(|value| check::seconds(field, value, max))
                .transpose()
        };
        // The original client, used again after `delete()`, sends an empty name
        // and image for "make one up" and "the default".
        let name = self.name.filter(|name| !name.is_empty());
        Ok(control::Create {
            space,
            name: name.map(|name| name.parse::<Name>()).transpose()?,
            image: spec.image.filter(|image| !image.is_empty()),
            env: check::environment("spec.env", spec.env)?,
            memory_bytes: spec.memory_mb.map(memory_bytes).transpose()?,
            cpu_millis: spec.cpu.map(cpu_millis).transpose()?,
            pids: spec.pids.map(pids).transpose()?,
            network: spec
                .network
                .map(|network| network.parse::<NetworkMode>())
                .transpose()
                .map_err(renamed)?,
            runtime_class: spec
                .runtime_class
                .map(|class| class.parse::<RuntimeClass>())
                .transpose()
                .map_err(renamed)?,
            idle_timeout: lease("spec.idle_timeout_s", spec.idle_timeout_s)?,
            lifetime_max: lease("spec.lifetime_s", spec.lifetime_s)?,
            stop_after_idle: lease("spec.stop_after_idle_s", spec.stop_after_idle_s)?,
            pause_after_idle: lease("spec.pause_after_idle_s", spec.pause_after_idle_s)?,
            archive_after_stop: lease("spec.archive_after_stop_s", spec.archive_after_stop_s)?,
            delete_after_stop: match spec.delete_after_stop_s {
                Some(0.0) => Some(Duration::ZERO),
                other => lease("spec.delete_after_stop_s", other)?,
            },
            labels: spec.labels.unwrap_or_default(),
            idempotency_key,
            ..control::Create::default()
        })
    }
}

/// The fields of [`control::Create`] in the words of a request, with the unit
/// where that is another.
const FIELDS: [(&str, &str, &str); 13] = [
    ("image", "spec.image", ""),
    ("env", "spec.env", ""),
    ("memory_bytes", "spec.memory_mb", "in bytes, "),
    ("cpu_millis", "spec.cpu", "in thousandths of a CPU, "),
    ("pids", "spec.pids", ""),
    ("network", "spec.network", ""),
    ("runtime_class", "spec.runtime_class", ""),
    ("idle_timeout", "spec.idle_timeout_s", ""),
    ("lifetime_max", "spec.lifetime_s", ""),
    ("stop_after_idle", "spec.stop_after_idle_s", ""),
    ("pause_after_idle", "spec.pause_after_idle_s", ""),
    ("archive_after_stop", "spec.archive_after_stop_s", ""),
    ("labels", "spec.labels", ""),
];

/// The same error, naming the field as the request does.
pub(crate) fn renamed(mut error: Error) -> Error {
    let renamed = FIELDS.iter().find_map(|(inner, outer, unit)| {
        let rest = error.message.strip_prefix(&format!("field `{inner}`: "))?;
        Some(format!("field `{outer}`: {unit}{rest}"))
    });
    error.message = renamed.unwrap_or(error.message);
    error
}

fn memory_bytes(mebibytes: u64) -> Result<u64, ApiError> {
    match mebibytes.checked_mul(MEBIBYTE) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err(ApiError::field(
            "spec.memory_mb",
            format_args!("{mebibytes} is out of range; give the memory in MiB, e.g. 512"),
        )),
    }
}

fn cpu_millis(cpus: f64) -> Result<u32, ApiError> {
    const CPUS_MAX: f64 = 4096.0;
    if !(0.001..=CPUS_MAX).contains(&cpus) {
        return Err(ApiError::field(
            "spec.cpu",
            format_args!("{cpus} is out of range; give the number of CPUs, e.g. 1.5"),
        ));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to lie between 1 and 4,096,000 thousandths"
    )]
    let millis = (cpus * 1000.0).round() as u32;
    Ok(millis)
}

fn pids(pids: u32) -> Result<u32, ApiError> {
    if pids == 0 {
        return Err(ApiError::field(
            "spec.pids",
            "0 leaves no room for a process; give a number above 0",
        ));
    }
    Ok(pids)
}

/// The key under which a creation may be repeated.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let header = HeaderName::from_static("idempotency-key");
    let Some(value) = headers.get(&header) else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= KEY_CHARS_MAX => Ok(Some(key.to_owned())),
        _ => Err(ApiError::field(
            "Idempotency-Key",
            format_args!("is not 1 to {KEY_CHARS_MAX} visible ASCII characters; use a random UUID"),
        )),
    }
}

/// A sandbox.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Sandbox)]
pub(crate) struct SandboxBody {
    /// Its name in its space.
    name: String,
    /// Its identity, never reused.
    uid: String,
    /// Its space.
    space: String,
    /// What it is.
    spec: SpecBody,
    /// How it is.
    status: StatusBody,
}

/// What a sandbox is, the server's defaults filled in.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SandboxSpec)]
struct SpecBody {
    /// The image as it was asked for.
    image: String,
    /// Environment of everything that runs inside.
    env: BTreeMap<String, String>,
    /// Memory limit in MiB.
    memory_mb: u64,
    /// CPU limit in CPUs.
    cpu: f64,
    /// Limit of processes and threads.
    pids: u32,
    /// What it can reach: `open` or `none`.
    network: &'static str,
    /// Its runtime class; null is the server's default.
    runtime_class: Option<String>,
    /// It ends after so many seconds without a request; null is never.
    idle_timeout_s: Option<f64>,
    /// It ends so many seconds after creation; null is never.
    lifetime_s: Option<f64>,
    /// It is stopped after so many seconds without a request; null is never.
    stop_after_idle_s: Option<f64>,
    /// It is paused after so many seconds without a request; null is never.
    pause_after_idle_s: Option<f64>,
    /// It is archived so many seconds after it was stopped; null is never.
    archive_after_stop_s: Option<f64>,
    /// It ends so many seconds after it was stopped; null is never.
    delete_after_stop_s: Option<f64>,
    /// Its labels.
    labels: BTreeMap<String, String>,
}

/// How a sandbox is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SandboxStatus)]
struct StatusBody {
    /// `creating`, `running`, `paused`, `stopping`, `stopped`, `starting`,
    /// `archiving`, `archived` or `restoring`.
    #[schema(example = "running")]
    state: &'static str,
    /// The image that the asked-for name stands for.
    image: String,
    /// When it was created, RFC 3339.
    created_at: String,
    /// When a request to it last began or ended, RFC 3339.
    active_at: String,
    /// When it was stopped, RFC 3339; null while it has processes.
    stopped_at: Option<String>,
    /// Why it was stopped, when nobody had asked for it.
    fault: Option<String>,
}

impl From<&control::Sandbox> for SandboxBody {
    fn from(sandbox: &control::Sandbox) -> Self {
        let spec = &sandbox.spec;
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        Self {
            name: sandbox.name.to_string(),
            uid: sandbox.id.to_string(),
            space: sandbox.space.to_string(),
            spec: SpecBody {
                image: sandbox.image_requested.clone(),
                env: spec.env.clone(),
                memory_mb: spec.limits.memory_bytes / MEBIBYTE,
                cpu: f64::from(spec.limits.cpu_millis) / 1000.0,
                pids: spec.limits.pids,
                network: spec.network.as_str(),
                runtime_class: spec.runtime_class.as_ref().map(ToString::to_string),
                idle_timeout_s: seconds(spec.lease.idle_timeout),
                lifetime_s: seconds(spec.lease.lifetime_max),
                stop_after_idle_s: seconds(spec.lease.stop_after_idle),
                pause_after_idle_s: seconds(spec.lease.pause_after_idle),
                archive_after_stop_s: seconds(spec.lease.archive_after_stop),
                delete_after_stop_s: seconds(spec.lease.delete_after_stop),
                labels: sandbox.labels.clone(),
            },
            status: StatusBody {
                state: sandbox.state.as_str(),
                image: spec.image.to_string(),
                created_at: time_of_day(sandbox.created_ms),
                active_at: time_of_day(sandbox.active_ms),
                stopped_at: sandbox.stopped.as_ref().map(|stop| time_of_day(stop.at_ms)),
                fault: sandbox.stopped.as_ref().and_then(|stop| stop.fault.clone()),
            },
        }
    }
}

/// The living sandboxes of a space, by age.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SandboxList {
    /// The oldest first.
    pub(crate) sandboxes: Vec<SandboxBody>,
}

/// What a sandbox uses.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Usage)]
pub(crate) struct UsageBody {
    /// Memory in use, bytes.
    memory_bytes: u64,
    /// CPU time since creation, microseconds.
    cpu_us: u64,
    /// Processes and threads now.
    pids: u32,
    /// How often the kernel killed a process for lack of memory.
    oom_kills: u64,
}

impl From<sandbox::Usage> for UsageBody {
    fn from(usage: sandbox::Usage) -> Self {
        Self {
            memory_bytes: usage.memory_bytes,
            cpu_us: usage.cpu_us,
            pids: usage.pids,
            oom_kills: usage.oom_kills,
        }
    }
}

/// Which sandboxes.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only sandboxes with all of these labels, as `name=value,name=value`.
    labels: Option<String>,
}

impl ListQuery {
    /// The labels that are wanted.
    pub(crate) fn labels(&self) -> Result<BTreeMap<String, String>, ApiError> {
        let pairs = self.labels.iter().flat_map(|labels| labels.split(','));
        let pairs = pairs.filter(|pair| !pair.is_empty());
        pairs
            .map(|pair| match pair.split_once('=') {
                Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
                None => Err(ApiError::field(
                    "labels",
                    format_args!("{pair:?} is no label; use the form name=value,name=value"),
                )),
            })
            .collect()
    }
}

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventsQuery {
    /// Only events with a higher number; 0 when absent.
    #[serde(default)]
    pub(crate) after: i64,
    /// At most so many; 100 when absent, never more than 1000.
    limit: Option<usize>,
}

impl EventsQuery {
    /// How many to tell.
    pub(crate) fn limit(&self) -> usize {
        self.limit.unwrap_or(EVENTS_DEFAULT).clamp(1, EVENTS_MAX)
    }
}

/// What happened to a sandbox.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventList {
    /// In order.
    pub(crate) events: Vec<EventBody>,
}

/// Something that happened to a sandbox.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Event)]
pub(crate) struct EventBody {
    /// Counts up; give the last one as `after` to read on.
    sequence: i64,
    /// When, RFC 3339.
    at: String,
    /// What, as one word, e.g. `created`.
    event: String,
    /// More, for people.
    detail: Option<String>,
}

impl From<control::EventRecord> for EventBody {
    fn from(record: control::EventRecord) -> Self {
        Self {
            sequence: record.sequence,
            at: time_of_day(record.at_ms),
            event: record.event,
            detail: record.detail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(json: &str) -> Result<control::Create, String> {
        let request: CreateSandboxRequest =
            serde_json::from_str(json).map_err(|error| error.to_string())?;
        request
            .into_create(Space::default(), None)
            .map_err(|error| error.body("r", None).message)
    }

    #[test]
    fn what_the_original_client_sends_is_accepted() {
        let request = create(r#"{"name": null, "spec": {"image": "a/b:1", "env": null}}"#).unwrap();
        assert_eq!(request.name, None);
        assert_eq!(request.image.as_deref(), Some("a/b:1"));
        assert!(request.env.is_empty());
    }

    #[test]
    fn limits_are_converted() {
        let request = create(
            r#"{"spec":{"memory_mb":512,"cpu":1.5,"pids":7,"network":"none","idle_timeout_s":0.5,"lifetime_s":60}}"#,
        )
        .unwrap();
        assert_eq!(request.memory_bytes, Some(512 << 20));
        assert_eq!(request.cpu_millis, Some(1500));
        assert_eq!(request.pids, Some(7));
        assert_eq!(request.network, Some(NetworkMode::None));
        assert_eq!(request.idle_timeout, Some(Duration::from_millis(500)));
        assert_eq!(request.lifetime_max, Some(Duration::from_secs(60)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, field) in [
            (r#"{"spec":{"memory_mb":0}}"#, "spec.memory_mb"),
            (
                r#"{"spec":{"memory_mb":18446744073709551615}}"#,
                "spec.memory_mb",
            ),
            (r#"{"spec":{"cpu":-1}}"#, "spec.cpu"),
            (r#"{"spec":{"cpu":1e300}}"#, "spec.cpu"),
            (r#"{"spec":{"pids":0}}"#, "spec.pids"),
            (r#"{"spec":{"network":"lan"}}"#, "spec.network"),
            (r#"{"spec":{"runtime_class":"../x"}}"#, "spec.runtime_class"),
            (r#"{"spec":{"idle_timeout_s":0}}"#, "spec.idle_timeout_s"),
            (r#"{"spec":{"env":{"A=B":"c"}}}"#, "spec.env"),
            (r#"{"name":"../x"}"#, "name"),
            (r#"{"nmae":"x"}"#, "nmae"),
        ] {
            let message = create(json).unwrap_err();
            assert!(message.contains(&format!("`{field}`")), "{json}: {message}");
        }
    }

    #[test]
    fn inner_fields_are_told_in_the_words_of_the_request() {
        let told = |message: &str| renamed(Error::invalid(message)).message;
        assert_eq!(
            told("field `cpu_millis`: 9000 is too much"),
            "field `spec.cpu`: in thousandths of a CPU, 9000 is too much"
        );
        assert_eq!(told("field `name`: no"), "field `name`: no");
        assert_eq!(told("the image is broken"), "the image is broken");
    }
}
