//! `POST /sandbox`.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use axum::{
    Extension, Json,
    body::Body,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use control::{Create, ImageBuild, ImageInfo, ImageJobState, Sandbox};
use sandbox::{Error, Id, Kind, Lease, Name, NetworkMode, State as LifeState};
use serde::Deserialize;
use serde_json::Value;

use super::{
    asked::{self, Caller},
    dockerfile, interval,
    shown::SandboxDto,
    snapshot,
};
use crate::{
    Facade, annotation,
    error::{ApiError, ApiResult},
    extract,
    rollout::{Choice, Goes, Rollout},
    side::Side,
    timing::Phases,
    token,
};

/// How long an image may be pulled before the caller is told to ask again.
const PULL_WAIT: Duration = Duration::from_secs(20);
/// Longest Dockerfile that is remembered beside its sandbox, bytes.
const DOCKERFILE_KEPT_MAX: usize = 4000;
const GIB: f64 = (1u64 << 30) as f64;

/// The body. What is not listed is ignored: this server has nothing that it
/// would change.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct CreateBody {
    name: Option<String>,
    snapshot: Option<String>,
    build_info: Option<BuildInfo>,
    user: Option<String>,
    env: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
    public: Option<bool>,
    target: Option<String>,
    cpu: Option<f64>,
    memory: Option<f64>,
    disk: Option<u64>,
    gpu: Option<f64>,
    kvm: Option<bool>,
    auto_stop_interval: Option<i64>,
    auto_pause_interval: Option<i64>,
    auto_archive_interval: Option<i64>,
    auto_delete_interval: Option<i64>,
    ttl_minutes: Option<i64>,
    network_block_all: Option<bool>,
    network_allow_list: Option<String>,
    domain_allow_list: Option<String>,
    outbound_proxy_url: Option<String>,
    linked_sandbox: Option<String>,
    volumes: Option<Vec<Value>>,
    secrets: Option<Vec<Value>>,
}

/// A Dockerfile, in requests.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BuildInfo {
    pub(crate) dockerfile_content: String,
    #[serde(default)]
    pub(crate) context_hashes: Option<Vec<String>>,
}

/// What a sandbox starts from.
#[derive(Debug)]
enum Source {
    /// An image of this name.
    Image(String),
    /// The image of a Dockerfile.
    Dockerfile {
        name: String,
        text: String,
        /// Archives with the files of the caller.
        contexts: Vec<PathBuf>,
    },
}

impl Source {
    fn image(&self) -> &str {
        match self {
            Self::Image(name) | Self::Dockerfile { name, .. } => name,
        }
    }
}

/// Why a sandbox is not made here.
enum NotHere {
    /// Its image is not here and cannot be got; whoever has it could.
    Image(ApiError),
    /// Anything else.
    Other(ApiError),
}

impl From<ApiError> for NotHere {
    fn from(error: ApiError) -> Self {
        Self::Other(error)
    }
}

impl From<Error> for NotHere {
    fn from(error: Error) -> Self {
        Self::Other(error.into())
    }
}

impl NotHere {
    /// For the caller it is the name of the image that is wrong, unless it is us.
    fn image(error: ApiError) -> Self {
        match error.status.is_client_error() {
            true => Self::Image(error),
            false => Self::Other(error),
        }
    }
}

/// Makes a sandbox: here, or at the upstream where that is its side.
pub(crate) async fn create(
    State(facade): State<Facade>,
    caller: Caller,
    request: Request,
) -> ApiResult<Response> {
    let (parts, body) = request.into_parts();
    let goes = parts.extensions.get::<Goes>().cloned().unwrap_or_default();
    let bytes = extract::whole(Request::from_parts(parts.clone(), body), &facade).await?;
    let body: CreateBody = extract::parse_body(&bytes)?;
    let (Some(upstream), Some(rollout)) = (&facade.upstream, &facade.rollout) else {
        check_name_there(&facade, body.name.as_deref()).await?;
        return match here(&facade, &caller, body).await {
            Ok(response) => Ok(response),
            Err(NotHere::Image(error) | NotHere::Other(error)) => Err(error),
        };
    };
    let there = Request::from_parts(parts, Body::from(bytes));
    let choice = body.choose(&facade, rollout).await?;
    let label = body.label(rollout.sticky_label());
    let name = body.name.clone();
    let tell = |choice: &Choice| {
        let (side, reason) = (choice.side.as_str(), &choice.reason);
        tracing::info!(
            side,
            %reason,
            name = name.as_deref(),
            label = label.as_deref(),
            "a new sandbox has its side"
        );
    };
    tell(&choice);
    if choice.side == Side::Daytona {
        goes.to(Side::Daytona);
        return Ok(upstream.pass(&facade, there).await);
    }
    check_name_there(&facade, body.name.as_deref()).await?;
    // From here on the time is ours.
    goes.to(Side::SandboxAi);
    let why = match here(&facade, &caller, body).await {
        Ok(response) => return Ok(response),
        Err(NotHere::Image(error)) => error.message,
        Err(NotHere::Other(error)) => {
            let elapsed = goes.elapsed().unwrap_or_default();
            if !rollout.falls_back(error.status, elapsed) {
                return Err(error);
            }
            tracing::warn!(
                status = error.status.as_u16(),
                error = error.message,
                "a creation failed here, and is tried at the upstream"
            );
            format!("it failed here: {}", error.message)
        }
    };
    tell(&Choice::only_there(why));
    goes.to(Side::Daytona);
    Ok(upstream.pass(&facade, there).await)
}

/// Whether the upstream, if there is one, has no sandbox of this name.
async fn check_name_there(facade: &Facade, name: Option<&str>) -> ApiResult<()> {
    let Some(name) = name.filter(|name| name.parse::<Name>().is_ok()) else {
        return Ok(());
    };
    match &facade.upstream {
        Some(upstream) if upstream.has(name).await => Err(ApiError::new(
            StatusCode::CONFLICT,
            format!("Sandbox with name {name} already exists at the upstream Daytona"),
        )),
        _ => Ok(()),
    }
}

/// Makes a sandbox here. Answered when it is started, or at once with what it
/// waits for where its image must be made first.
async fn here(facade: &Facade, caller: &Caller, body: CreateBody) -> Result<Response, NotHere> {
    body.check_served(facade)?;
    let source = body.source(facade).await.map_err(NotHere::image)?;
    let mut create = body.create(facade, &source)?;
    if let Some(name) = &create.name
        && facade.waiting.has_name(name)
    {
        return Err(NotHere::Other(ApiError::new(
            StatusCode::CONFLICT,
            format!("Sandbox with name {name} already exists"),
        )));
    }
    let image = ready_image(facade, &source).await;
    match image.map_err(NotHere::image)? {
        Some(image) => {
            let resources = snapshot::Resources::of(&image);
            resources.check_active(source.image())?;
            resources.complete(&mut create);
            let created = facade.control.create(create).await?;
            let told = caller.tell(created.sandbox);
            Ok((Extension(Phases(created.steps)), told).into_response())
        }
        None => Ok(wait(facade, caller, create, source.image())?.into_response()),
    }
}

/// Lets the sandbox be made when its image is there.
fn wait(
    facade: &Facade,
    caller: &Caller,
    create: Create,
    image: &str,
) -> ApiResult<Json<SandboxDto>> {
    let spec = facade.control.plan(&create)?;
    let (Some(id), Some(name)) = (create.id.clone(), create.name.clone()) else {
        return Err(ApiError::bad_request("a sandbox that waits needs a name"));
    };
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let sandbox = Sandbox {
        id,
        space: create.space.clone(),
        name,
        image_requested: image.to_owned(),
        spec,
        labels: create.labels.clone(),
        annotations: create.annotations.clone(),
        state: LifeState::Creating,
        created_ms: now_ms,
        active_ms: now_ms,
        stopped: None,
        ending: None,
        tombstone: None,
    };
    let shown = facade
        .waiting
        .begin(&facade.control, create, sandbox, image)?;
    Ok(caller.tell(shown))
}

/// The image, if it is there or soon is; `None` when it takes longer.
async fn ready_image(facade: &Facade, source: &Source) -> ApiResult<Option<ImageInfo>> {
    let control = &facade.control;
    let name = source.image();
    match control.find_image(name).await {
        Ok(image) => return Ok(Some(image)),
        Err(error) if error.kind == Kind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let under_way = control
        .image_job(name)
        .is_some_and(|job| matches!(job.state, ImageJobState::Queued | ImageJobState::Running));
    match source {
        Source::Image(_) => {
            if !under_way {
                let begun = control.begin_pull(name).await;
                begun.map_err(|error| cannot_pull(name, error))?;
            }
            match tokio::time::timeout(PULL_WAIT, control.image_job_done(name)).await {
                Ok(Ok(image)) => Ok(Some(image)),
                Ok(Err(error)) => Err(cannot_pull(name, error)),
                Err(_) => Ok(None),
            }
        }
        // The caller may want to see its log.
        Source::Dockerfile { text, contexts, .. } => {
            if !under_way {
                let build = ImageBuild {
                    name: name.to_owned(),
                    dockerfile: text.clone(),
                    contexts: contexts.clone(),
                    ..ImageBuild::default()
                };
                match control.begin_build(build).await {
                    Err(error) if error.kind != Kind::Conflict => return Err(error.into()),
                    _ => {}
                }
            }
            Ok(None)
        }
    }
}

/// For the caller it is the name that is wrong, whatever the registry said.
fn cannot_pull(name: &str, error: Error) -> ApiError {
    match error.kind {
        Kind::Internal => error.into(),
        Kind::NotFound => {
            ApiError::not_found(format!("Snapshot {name} not found: {}", error.message))
        }
        _ => ApiError::bad_request(format!(
            "Snapshot {name} is not on this server, and cannot be pulled: {}",
            error.message
        )),
    }
}

impl CreateBody {
    /// The side that this sandbox goes to. Some can be on one side only, whatever
    /// the share.
    async fn choose(&self, facade: &Facade, rollout: &Rollout) -> ApiResult<Choice> {
        if let Some(lacking) = self.lacking() {
            return Ok(Choice::only_there(lacking.message));
        }
        if let Some(linked) = &self.linked_sandbox {
            return Ok(match facade.knows(linked) {
                true => Choice::only_here("the sandbox that it is linked to is here"),
                false => Choice::only_there("the sandbox that it is linked to is not here"),
            });
        }
        if let Some(name) = self.name.as_deref().filter(|name| facade.is_living(name)) {
            return Ok(Choice::only_here(format!("{name} is here already")));
        }
        let build = self.build_info.as_ref();
        let hashes = build.and_then(|build| build.context_hashes.as_deref());
        if let Some(hashes) = hashes.filter(|hashes| !hashes.is_empty()) {
            return Ok(match facade.contexts.files(hashes).await {
                Ok(_) => Choice::only_here("the files for its image are here"),
                Err(error) if error.kind == Kind::InvalidRequest => {
                    Choice::only_there("the files for its image are not here")
                }
                Err(error) => return Err(error.into()),
            });
        }
        let none = BTreeMap::new();
        Ok(rollout.choose(self.labels.as_ref().unwrap_or(&none)))
    }

    /// The value of a label, for the log.
    fn label(&self, name: &str) -> Option<String> {
        /// More would be no name of a project.
        const CHARS_MAX: usize = 80;
        let value = self.labels.as_ref()?.get(name)?;
        Some(value.chars().take(CHARS_MAX).collect())
    }

    /// The refusal of what this server does not have, where going on without it
    /// would not be what the caller wants.
    fn lacking(&self) -> Option<ApiError> {
        let given = |values: &Option<Vec<Value>>| values.as_ref().is_some_and(|v| !v.is_empty());
        let listed = |list: &Option<String>| list.as_ref().is_some_and(|list| !list.is_empty());
        if given(&self.volumes) {
            return Some(ApiError::not_served("a volume"));
        }
        if given(&self.secrets) {
            return Some(ApiError::not_served("a secret"));
        }
        if listed(&self.network_allow_list) || listed(&self.domain_allow_list) {
            return Some(ApiError::not_served(
                "an allow list of networks or domains (`networkBlockAll` is served)",
            ));
        }
        if self.gpu.is_some_and(|count| count > 0.0) || self.kvm == Some(true) {
            return Some(ApiError::bad_request(
                "fields `gpu` and `kvm`: this server has no GPU and no virtual machines for sandboxes; leave them out",
            ));
        }
        None
    }

    fn check_served(&self, facade: &Facade) -> ApiResult<()> {
        if let Some(lacking) = self.lacking() {
            return Err(lacking);
        }
        let resources = self.cpu.is_some() || self.memory.is_some() || self.disk.is_some();
        if resources && self.snapshot.is_some() {
            return Err(ApiError::bad_request(
                "fields `cpu`, `memory` and `disk` cannot be given together with `snapshot`: the snapshot has its own; create the sandbox from an image instead",
            ));
        }
        if self.snapshot.is_some() && self.build_info.is_some() {
            return Err(ApiError::bad_request(
                "fields `snapshot` and `buildInfo` exclude each other",
            ));
        }
        if let Some(linked) = &self.linked_sandbox {
            // All sandboxes of a server are on one machine; it only must exist.
            asked::find(facade, linked)?;
        }
        Ok(())
    }

    async fn source(&self, facade: &Facade) -> ApiResult<Source> {
        let Some(build) = &self.build_info else {
            let named = match &self.snapshot {
                Some(asked) => snapshot::name_of(facade, asked).await?,
                None => facade.config.image_default.clone(),
            };
            return Ok(Source::Image(named));
        };
        let hashes = build.context_hashes.as_deref().unwrap_or_default();
        let text = &build.dockerfile_content;
        Ok(match dockerfile::plain_image(text) {
            Some(image) => Source::Image(image.to_owned()),
            None => Source::Dockerfile {
                name: dockerfile::name_of(text, hashes),
                text: text.clone(),
                contexts: facade.contexts.files(hashes).await?,
            },
        })
    }

    fn create(&self, facade: &Facade, source: &Source) -> ApiResult<Create> {
        let id = Id::random()?;
        let name: Name = match self.name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => name.parse()?,
            None => id.as_str().parse()?,
        };
        let lease = self.lease()?;
        Ok(Create {
            space: facade.config.space.clone(),
            name: Some(name),
            id: Some(id),
            image: Some(source.image().to_owned()),
            env: self.env(),
            labels: self.labels.clone().unwrap_or_default(),
            annotations: self.annotations(source)?,
            cpu_millis: self.cpu.map(cpu_millis).transpose()?,
            memory_bytes: self.memory.map(memory_bytes).transpose()?,
            network: (self.network_block_all == Some(true)).then_some(NetworkMode::None),
            lifetime_max: lease.lifetime_max,
            stop_after_idle: lease.stop_after_idle,
            pause_after_idle: lease.pause_after_idle,
            archive_after_stop: lease.archive_after_stop,
            delete_after_stop: lease.delete_after_stop,
            ..Create::default()
        })
    }

    fn lease(&self) -> ApiResult<Lease> {
        let pause = self.auto_pause_interval.unwrap_or(0);
        // One that is to be paused is not to be stopped before.
        let stop_default = if pause > 0 { 0 } else { interval::STOP_DEFAULT };
        let stop = self.auto_stop_interval.unwrap_or(stop_default);
        let lease = Lease {
            stop_after_idle: interval::idle("autoStopInterval", stop)?,
            pause_after_idle: interval::idle("autoPauseInterval", pause)?,
            archive_after_stop: interval::archive(
                self.auto_archive_interval
                    .unwrap_or(interval::ARCHIVE_DEFAULT),
            )?,
            delete_after_stop: interval::delete(self.auto_delete_interval.unwrap_or(-1))?,
            lifetime_max: interval::idle("ttlMinutes", self.ttl_minutes.unwrap_or(0))?,
            ..Lease::default()
        };
        interval::check_together(&lease)?;
        Ok(lease)
    }

    /// The environment; a proxy is told in it, as programs expect it.
    fn env(&self) -> BTreeMap<String, String> {
        let mut env = self.env.clone().unwrap_or_default();
        if let Some(proxy) = self
            .outbound_proxy_url
            .as_ref()
            .filter(|url| !url.is_empty())
        {
            for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
                env.entry(name.to_owned()).or_insert_with(|| proxy.clone());
            }
        }
        env
    }

    fn annotations(&self, source: &Source) -> ApiResult<BTreeMap<String, String>> {
        let public = self.public.unwrap_or(false).to_string();
        let mut annotations = BTreeMap::from([
            (annotation::PUBLIC.to_owned(), public),
            (annotation::PREVIEW_TOKEN.to_owned(), token::random()?),
            (annotation::SIGNING_KEY.to_owned(), token::random()?),
        ]);
        let dockerfile = match source {
            Source::Dockerfile { text, .. } if text.len() <= DOCKERFILE_KEPT_MAX => {
                Some(text.clone())
            }
            _ => None,
        };
        let given = [
            (annotation::USER, self.user.clone()),
            (annotation::TARGET, self.target.clone()),
            (annotation::DISK_GIB, self.disk.map(|gib| gib.to_string())),
            (annotation::DOCKERFILE, dockerfile),
        ];
        for (name, value) in given {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                annotations.insert(name.to_owned(), value);
            }
        }
        Ok(annotations)
    }
}

/// CPUs in thousandths.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be in range"
)]
pub(crate) fn cpu_millis(cpus: f64) -> ApiResult<u32> {
    let millis = (cpus * 1000.0).round();
    match millis >= 1.0 && millis <= f64::from(u32::MAX) {
        true => Ok(millis as u32),
        false => Err(ApiError::bad_request(format!(
            "field `cpu`: {cpus} is not a number of CPUs"
        ))),
    }
}

/// Memory in bytes.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be in range"
)]
pub(crate) fn memory_bytes(gib: f64) -> ApiResult<u64> {
    /// More than any machine has.
    const GIB_MAX: f64 = 1e6;
    match gib > 0.0 && gib <= GIB_MAX {
        true => Ok((gib * GIB) as u64),
        false => Err(ApiError::bad_request(format!(
            "field `memory`: {gib} is not a size in GiB"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(json: &str) -> CreateBody {
        crate::extract::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn intervals_have_daytonas_defaults() {
        let lease = body("{}").lease().unwrap();
        assert_eq!(lease.stop_after_idle, Some(Duration::from_secs(15 * 60)));
        assert_eq!(
            lease.archive_after_stop,
            Some(Duration::from_secs(7 * 24 * 60 * 60))
        );
        assert_eq!((lease.delete_after_stop, lease.lifetime_max), (None, None));
        let pausing = body(r#"{"autoPauseInterval": 5}"#).lease().unwrap();
        assert_eq!(pausing.stop_after_idle, None);
        assert!(
            body(r#"{"autoPauseInterval": 5, "autoStopInterval": 5}"#)
                .lease()
                .is_err()
        );
    }

    #[test]
    fn resources_are_numbers_in_range() {
        assert_eq!(cpu_millis(0.5).unwrap(), 500);
        assert_eq!(memory_bytes(2.0).unwrap(), 2 << 30);
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(
                cpu_millis(bad).is_err() && memory_bytes(bad).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_proxy_is_told_in_the_environment_and_the_callers_word_wins() {
        let env = body(r#"{"outboundProxyUrl":"http://p:1","env":{"HTTP_PROXY":"x"}}"#).env();
        assert_eq!(env["HTTP_PROXY"], "x");
        assert_eq!(env["https_proxy"], "http://p:1");
    }

    #[test]
    fn unknown_fields_and_nulls_are_no_error() {
        body(r#"{"name":null,"spot":false,"queueTimeout":3,"volumes":[]}"#);
    }
}
