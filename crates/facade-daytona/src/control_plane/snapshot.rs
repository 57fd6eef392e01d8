//! Snapshots: our images. What an image cannot say itself, such as the
//! resources of sandboxes made from it, is in labels that the build adds.

use std::{
    collections::BTreeMap,
    fmt::Write,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use control::{Create, ImageBuild, ImageInfo, ImageJob, ImageJobKind, ImageJobState};
use sandbox::{Image, Kind};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    create::{self, BuildInfo},
    dockerfile::UNNAMED,
    list::{self, NumberedPage, Pairs},
    shown::{ORGANIZATION, time},
};
use crate::{
    Facade, annotation,
    error::{ApiError, ApiResult},
    extract::{JsonBody, QueryOf},
};

/// The name as its maker wrote it.
const NAME: &str = "daytona.name";
/// The image that it was made from.
const IMAGE: &str = "daytona.image";
/// CPUs of sandboxes made from it.
const CPU: &str = "daytona.cpu";
/// Memory in GiB of sandboxes made from it.
const MEMORY: &str = "daytona.memory";
/// Disk in GiB of sandboxes made from it.
const DISK: &str = "daytona.disk";
/// `true` while no sandboxes may be made from it.
const INACTIVE: &str = "daytona.inactive";
/// Snapshots in an answer where the caller says nothing.
const LIMIT_DEFAULT: usize = 100;
/// Most snapshots in an answer.
const LIMIT_MAX: usize = 200;
/// Snapshots that were asked for and may not be there yet.
const BEGUN_MAX: usize = 1000;
const DISK_GIB_DEFAULT: f64 = 10.0;
const GIB: f64 = (1u64 << 30) as f64;

/// What the maker of a snapshot wanted sandboxes made from it to have.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Resources {
    cpu: Option<f64>,
    memory: Option<f64>,
    disk: Option<u64>,
    inactive: bool,
}

impl Resources {
    /// Those of an image.
    pub(crate) fn of(image: &ImageInfo) -> Self {
        let label = |name: &str| image.labels.get(name).map(String::as_str);
        Self {
            cpu: label(CPU).and_then(|text| text.parse().ok()),
            memory: label(MEMORY).and_then(|text| text.parse().ok()),
            disk: label(DISK).and_then(|text| text.parse().ok()),
            inactive: label(INACTIVE) == Some("true"),
        }
    }

    /// Refuses a snapshot that was deactivated.
    pub(crate) fn check_active(&self, name: &str) -> ApiResult<()> {
        match self.inactive {
            false => Ok(()),
            true => Err(ApiError::bad_request(format!(
                "snapshot {name} is inactive; activate it first"
            ))),
        }
    }

    /// Fills in what the request for a sandbox leaves open.
    pub(crate) fn complete(&self, create: &mut Create) {
        // Whoever made the image may have written anything into its labels.
        let cpu = self.cpu.and_then(|cpus| create::cpu_millis(cpus).ok());
        let memory = self.memory.and_then(|gib| create::memory_bytes(gib).ok());
        create.cpu_millis = create.cpu_millis.or(cpu);
        create.memory_bytes = create.memory_bytes.or(memory);
        if let Some(gib) = self.disk {
            create
                .annotations
                .entry(annotation::DISK_GIB.to_owned())
                .or_insert_with(|| gib.to_string());
        }
    }
}

/// The JSON of a snapshot.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SnapshotDto {
    id: String,
    organization_id: &'static str,
    general: bool,
    /// Required by SDKs of 0.21.
    enabled: bool,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_name: Option<String>,
    state: &'static str,
    size: Option<f64>,
    entrypoint: Option<Vec<String>>,
    cpu: f64,
    gpu: u32,
    mem: f64,
    disk: f64,
    error_reason: Option<String>,
    created_at: String,
    updated_at: String,
    last_used_at: Option<String>,
    source_sandbox_id: Option<String>,
}

/// Snapshots that were asked for in this life of the server, by id. Cheap to
/// clone; all clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Begun(Arc<Mutex<BTreeMap<String, String>>>);

impl Begun {
    fn add(&self, facade: &Facade, name: &str) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= BEGUN_MAX {
            let control = &facade.control;
            names.retain(|_, name| control.image_job(name).is_some_and(|job| is_open(&job)));
        }
        names.insert(id_of(name), name.to_owned());
    }

    fn remove(&self, name: &str) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.remove(&id_of(name));
    }

    /// The jobs that made no image, or have not yet.
    fn jobs(&self, facade: &Facade) -> Vec<ImageJob> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names
            .values()
            .filter_map(|name| facade.control.image_job(name))
            .filter(|job| !matches!(job.state, ImageJobState::Done(_)))
            .collect()
    }
}

fn is_open(job: &ImageJob) -> bool {
    matches!(job.state, ImageJobState::Queued | ImageJobState::Running)
}

/// An id that is the same for the same name and fits a URL, in the form of a UUID.
pub(crate) fn id_of(name: &str) -> String {
    let (repository, tag) = name.parse::<Image>().map_or_else(
        |_| (name.to_owned(), String::new()),
        |image| {
            let (repository, tag) = image.parts();
            (repository.to_owned(), tag.to_owned())
        },
    );
    let hash = Sha256::digest(format!("{repository}:{tag}"));
    let mut hex = String::new();
    for (index, byte) in hash.iter().take(16).enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            hex.push('-');
        }
        // Version 8, "custom", and the variant of RFC 9562.
        let byte = match index {
            6 => byte & 0x0f | 0x80,
            8 => byte & 0x3f | 0x80,
            _ => *byte,
        };
        // Writing to a String does not fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// The name of the snapshot that a caller means by its id or its name.
pub(crate) async fn name_of(facade: &Facade, asked: &str) -> ApiResult<String> {
    let looks_like_id =
        asked.len() == 36 && asked.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit());
    if !looks_like_id {
        return Ok(asked.to_owned());
    }
    let images = facade.control.images().await?;
    let named = images.into_iter().filter_map(|image| image.name);
    let begun = facade.begun.jobs(facade).into_iter().map(|job| job.name);
    let found = named.chain(begun).find(|name| id_of(name) == asked);
    Ok(found.unwrap_or_else(|| asked.to_owned()))
}

/// `GET /snapshots`.
pub(crate) async fn list(
    State(facade): State<Facade>,
    QueryOf(pairs): Pairs,
) -> ApiResult<Json<NumberedPage<SnapshotDto>>> {
    let (mut page, mut limit, mut ascending) = (1, LIMIT_DEFAULT, false);
    let (mut wanted, mut sort) = (String::new(), "createdAt".to_owned());
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        match name.as_str() {
            "page" => page = list::at_least_1(name, value)?,
            "limit" => limit = list::at_least_1(name, value)?.min(LIMIT_MAX),
            "order" => ascending = list::order(value)?,
            "name" => wanted = value.to_lowercase(),
            "sort" => sort.clone_from(value),
            _ => {}
        }
    }
    let mut all = all(&facade).await?;
    all.retain(|snapshot| snapshot.name.to_lowercase().contains(&wanted));
    all.sort_by(|a, b| {
        let order = match sort.as_str() {
            "name" => a.name.cmp(&b.name),
            "state" => (a.state, &a.name).cmp(&(b.state, &b.name)),
            // The form of the times sorts as they do.
            _ => (&a.created_at, &a.name).cmp(&(&b.created_at, &b.name)),
        };
        if ascending { order } else { order.reverse() }
    });
    Ok(Json(NumberedPage::of(all, page, limit)))
}

/// `GET /snapshots/{snapshot}`.
pub(crate) async fn get(
    State(facade): State<Facade>,
    Path(asked): Path<String>,
) -> ApiResult<Json<SnapshotDto>> {
    let name = name_of(&facade, &asked).await?;
    find(&facade, &name).await.map(Json)
}

async fn all(facade: &Facade) -> ApiResult<Vec<SnapshotDto>> {
    let images = facade.control.images().await?;
    let mut all: BTreeMap<String, SnapshotDto> = facade
        .begun
        .jobs(facade)
        .iter()
        .map(|job| (id_of(&job.name), of_job(facade, job)))
        .collect();
    all.extend(images.iter().filter_map(|image| {
        let name = image.name.as_deref()?;
        (!name.starts_with(UNNAMED)).then(|| (id_of(name), of_image(facade, name, image)))
    }));
    Ok(all.into_values().collect())
}

async fn find(facade: &Facade, name: &str) -> ApiResult<SnapshotDto> {
    // A name that is just being made again is shown as that.
    if let Some(job) = facade.control.image_job(name).filter(is_open) {
        return Ok(of_job(facade, &job));
    }
    match facade.control.find_image(name).await {
        Ok(image) => Ok(of_image(facade, name, &image)),
        Err(error) if error.kind == Kind::NotFound => match facade.control.image_job(name) {
            Some(job) if matches!(job.state, ImageJobState::Failed(_)) => Ok(of_job(facade, &job)),
            _ => Err(ApiError::not_found(format!(
                "Snapshot with ID or name {name} not found: {}",
                error.message
            ))),
        },
        Err(error) => Err(error.into()),
    }
}

/// The body of a request for a snapshot.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CreateBody {
    name: String,
    image_name: Option<String>,
    build_info: Option<BuildInfo>,
    entrypoint: Option<Vec<String>>,
    cpu: Option<f64>,
    memory: Option<f64>,
    disk: Option<u64>,
    gpu: Option<f64>,
}

/// `POST /snapshots`: answered at once; the caller asks again until it is active.
pub(crate) async fn create(
    State(facade): State<Facade>,
    JsonBody(body): JsonBody<CreateBody>,
) -> ApiResult<Json<SnapshotDto>> {
    let name: Image = body.name.parse()?;
    let name = name.as_str();
    let hashes = body
        .build_info
        .as_ref()
        .and_then(|build| build.context_hashes.as_deref());
    let contexts = facade.contexts.files(hashes.unwrap_or_default()).await?;
    let build = body.build(contexts)?;
    match facade.control.find_image(name).await {
        // Registering an image under its own name is how a snapshot of an image
        // that is there already is made elsewhere; here it is one by itself.
        Ok(image) if body.image_name.as_deref() == Some(name) => {
            return Ok(Json(of_image(&facade, name, &image)));
        }
        Ok(_) => {
            return Err(ApiError::new(
                StatusCode::CONFLICT,
                format!("Snapshot with name {name} already exists"),
            ));
        }
        Err(error) if error.kind == Kind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let job = match build {
        Some(build) => facade.control.begin_build(build).await?,
        None => facade.control.begin_pull(name).await?,
    };
    facade.begun.add(&facade, name);
    Ok(Json(of_job(&facade, &job)))
}

impl CreateBody {
    /// How it is built; `None` when an image only need be pulled under its own name.
    fn build(&self, contexts: Vec<PathBuf>) -> ApiResult<Option<ImageBuild>> {
        if self.gpu.is_some_and(|count| count > 0.0) {
            return Err(ApiError::bad_request(
                "field `gpu`: this server has no GPU for sandboxes; leave it out",
            ));
        }
        let labels = self.labels()?;
        let mut dockerfile = match (&self.image_name, &self.build_info) {
            (Some(image), None) => {
                let image: Image = image.parse()?;
                let plain = labels.is_empty() && self.entrypoint.is_none();
                if plain && image.as_str() == self.name {
                    return Ok(None);
                }
                format!("FROM {image}\n")
            }
            (None, Some(build)) => build.dockerfile_content.clone(),
            _ => {
                return Err(ApiError::bad_request(
                    "give either `imageName` or `buildInfo`",
                ));
            }
        };
        let image = self.image_name.as_ref().map(|image| (IMAGE, image.clone()));
        let name = (NAME, self.name.clone());
        for (label, value) in labels.into_iter().chain(image).chain([name]) {
            // Writing to a String does not fail. Names of images and numbers
            // need no escaping.
            let _ = write!(dockerfile, "\nLABEL {label}=\"{value}\"");
        }
        dockerfile.push('\n');
        Ok(Some(ImageBuild {
            name: self.name.clone(),
            dockerfile,
            entrypoint: self.entrypoint.clone(),
            contexts,
            ..ImageBuild::default()
        }))
    }

    fn labels(&self) -> ApiResult<Vec<(&'static str, String)>> {
        self.cpu.map(create::cpu_millis).transpose()?;
        self.memory.map(create::memory_bytes).transpose()?;
        let given = [
            (CPU, self.cpu.map(|cpus| cpus.to_string())),
            (MEMORY, self.memory.map(|gib| gib.to_string())),
            (DISK, self.disk.map(|gib| gib.to_string())),
        ];
        Ok(given
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect())
    }
}

/// `DELETE /snapshots/{snapshot}`. Sandboxes made from it live on.
pub(crate) async fn delete(
    State(facade): State<Facade>,
    Path(asked): Path<String>,
) -> ApiResult<StatusCode> {
    let name = name_of(&facade, &asked).await?;
    match facade.control.remove_image(&name).await {
        Ok(()) => {}
        Err(error) if error.kind == Kind::NotFound => {
            // One that could not be made is only forgotten.
            let failed = facade.begun.jobs(&facade).into_iter();
            if !failed
                .filter(|job| !is_open(job))
                .any(|job| id_of(&job.name) == id_of(&name))
            {
                return Err(ApiError::not_found(format!(
                    "Snapshot with ID or name {name} not found"
                )));
            }
        }
        Err(error) => return Err(error.into()),
    }
    facade.begun.remove(&name);
    Ok(StatusCode::OK)
}

/// `POST /snapshots/{snapshot}/activate`.
pub(crate) async fn activate(
    State(facade): State<Facade>,
    Path(asked): Path<String>,
) -> ApiResult<Json<SnapshotDto>> {
    let name = name_of(&facade, &asked).await?;
    set_inactive(&facade, &name, false).await?;
    find(&facade, &name).await.map(Json)
}

/// `POST /snapshots/{snapshot}/deactivate`: no sandboxes are made from it until
/// it is activated again.
pub(crate) async fn deactivate(
    State(facade): State<Facade>,
    Path(asked): Path<String>,
) -> ApiResult<StatusCode> {
    let name = name_of(&facade, &asked).await?;
    set_inactive(&facade, &name, true).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Puts an image in the place of another that differs only by a label.
async fn set_inactive(facade: &Facade, name: &str, inactive: bool) -> ApiResult<()> {
    let image = facade.control.find_image(name).await?;
    if Resources::of(&image).inactive == inactive {
        return Ok(());
    }
    let build = ImageBuild {
        name: name.to_owned(),
        dockerfile: format!("FROM {name}\nLABEL {INACTIVE}=\"{inactive}\"\n"),
        ..ImageBuild::default()
    };
    facade.control.begin_build(build).await?;
    facade.control.image_job_done(name).await?;
    Ok(())
}

fn of_image(facade: &Facade, asked: &str, image: &ImageInfo) -> SnapshotDto {
    let resources = Resources::of(image);
    let own = image.name.as_deref().unwrap_or(asked);
    let name = image
        .labels
        .get(NAME)
        .filter(|name| id_of(name) == id_of(own));
    let name = name.cloned().unwrap_or_else(|| own.to_owned());
    let entrypoint = (!image.entrypoint.is_empty()).then(|| image.entrypoint.clone());
    SnapshotDto {
        state: if resources.inactive {
            "inactive"
        } else {
            "active"
        },
        enabled: !resources.inactive,
        #[expect(clippy::cast_precision_loss, reason = "a size for people")]
        size: Some(image.size_bytes as f64 / GIB),
        image_name: image.labels.get(IMAGE).cloned(),
        entrypoint,
        ..dto(facade, &name, &resources, image.created_ms)
    }
}

fn of_job(facade: &Facade, job: &ImageJob) -> SnapshotDto {
    let (state, error_reason) = match (&job.state, job.kind) {
        // SDKs show the log of what is building, not of what is pending, and look
        // once a second: they would miss a build that is quick.
        (ImageJobState::Queued | ImageJobState::Running, ImageJobKind::Build) => ("building", None),
        (ImageJobState::Queued, ImageJobKind::Pull) => ("pending", None),
        (ImageJobState::Running, ImageJobKind::Pull) => ("pulling", None),
        (ImageJobState::Failed(why), ImageJobKind::Pull) => ("error", Some(why.clone())),
        (ImageJobState::Failed(why), ImageJobKind::Build) => ("build_failed", Some(why.clone())),
        (ImageJobState::Done(image), _) => return of_image(facade, &job.name, image),
    };
    SnapshotDto {
        state,
        error_reason,
        ..dto(facade, &job.name, &Resources::default(), job.started_ms)
    }
}

fn dto(facade: &Facade, name: &str, resources: &Resources, created_ms: i64) -> SnapshotDto {
    // A plain request always has a plan.
    let limits = facade.control.plan(&Create::default()).ok();
    let limits = limits.map(|spec| spec.limits);
    #[expect(clippy::cast_precision_loss, reason = "a size for people")]
    let default = limits.map_or((1.0, 1.0), |limits| {
        (
            f64::from(limits.cpu_millis) / 1000.0,
            limits.memory_bytes as f64 / GIB,
        )
    });
    #[expect(clippy::cast_precision_loss, reason = "a size for people")]
    let disk = resources.disk.map(|gib| gib as f64);
    SnapshotDto {
        id: id_of(name),
        organization_id: ORGANIZATION,
        general: false,
        enabled: true,
        name: name.to_owned(),
        image_name: None,
        state: "pending",
        size: None,
        entrypoint: None,
        cpu: resources.cpu.unwrap_or(default.0),
        gpu: 0,
        mem: resources.memory.unwrap_or(default.1),
        disk: disk.unwrap_or(DISK_GIB_DEFAULT),
        error_reason: None,
        created_at: time(created_ms),
        updated_at: time(created_ms),
        last_used_at: None,
        source_sandbox_id: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(json: &str) -> CreateBody {
        crate::extract::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn both_spellings_of_a_name_have_one_id_and_it_is_a_uuid() {
        let id = id_of("a/b");
        assert_eq!(id, id_of("a/b:latest"));
        assert_ne!(id, id_of("a/b:1"));
        let parts: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
    }

    #[test]
    fn resources_become_labels_of_the_image_and_are_read_back() {
        let build = body(r#"{"name":"n:1","imageName":"a","cpu":2,"memory":4,"disk":8}"#)
            .build(Vec::new())
            .unwrap()
            .unwrap();
        let labels = build.dockerfile.lines().filter_map(|line| {
            let (name, value) = line.strip_prefix("LABEL ")?.split_once('=')?;
            Some((name.to_owned(), value.trim_matches('"').to_owned()))
        });
        let image = ImageInfo {
            labels: labels.collect(),
            ..ImageInfo::default()
        };
        let mut create = Create::default();
        Resources::of(&image).complete(&mut create);
        assert_eq!(
            (create.cpu_millis, create.memory_bytes),
            (Some(2000), Some(4 << 30))
        );
        assert_eq!(create.annotations[annotation::DISK_GIB], "8");
        assert_eq!(image.labels[IMAGE], "a");
    }

    #[test]
    fn an_image_under_its_own_name_is_only_pulled() {
        assert!(
            body(r#"{"name":"a:1","imageName":"a:1"}"#)
                .build(Vec::new())
                .unwrap()
                .is_none()
        );
        assert!(
            body(r#"{"name":"a:1","imageName":"a:1","cpu":1}"#)
                .build(Vec::new())
                .unwrap()
                .is_some()
        );
        for wrong in [
            r#"{"name":"a"}"#,
            r#"{"name":"a","imageName":"b\nRUN x"}"#,
            r#"{"name":"a","imageName":"b","gpu":1}"#,
        ] {
            assert!(body(wrong).build(Vec::new()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_inactive_snapshot_is_refused() {
        let image = ImageInfo {
            labels: BTreeMap::from([(INACTIVE.to_owned(), "true".to_owned())]),
            ..ImageInfo::default()
        };
        assert!(Resources::of(&image).check_active("a").is_err());
        assert!(Resources::default().check_active("a").is_ok());
    }
}
