//! Lists of sandboxes: filtered, sorted, and in three shapes. SDKs before 0.108
//! want an array, those before 0.180 numbered pages, later ones a cursor.
//!
//! In front of a Daytona, its sandboxes follow those of this server. A list that
//! lacked them would make who cleans up by it do damage, so there is none when
//! the upstream does not answer.

use std::{cmp::Ordering, collections::BTreeMap};

use axum::{
    Json,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use sandbox::Error;
use serde::{Deserialize, Serialize};

use super::{
    asked::Caller,
    shown::{self, SandboxDto, Shown, TARGET_DEFAULT},
};
use crate::{
    Facade, annotation,
    error::{ApiError, ApiResult},
    extract::QueryOf,
    upstream::{Items, Listing},
    version::SdkVersion,
};

/// The first SDK that pages by a cursor.
const CURSORS: SdkVersion = SdkVersion::new(0, 180);
/// Sandboxes in an answer where the caller says nothing.
const LIMIT_DEFAULT: usize = 100;
/// Most sandboxes in an answer.
const LIMIT_MAX: usize = 200;
/// What cursors begin with that go on among the upstream's sandboxes; none of
/// this server has the dot.
const AT_UPSTREAM: &str = "daytona.";

/// The query as pairs: some parameters are repeated.
pub(crate) type Pairs = QueryOf<Vec<(String, String)>>;

/// `GET /sandbox`.
pub(crate) async fn list(
    State(facade): State<Facade>,
    caller: Caller,
    QueryOf(pairs): Pairs,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let query = ListQuery::of(&pairs)?;
    let listing = Listing {
        headers: &headers,
        pairs: &pairs,
        base: &caller.base,
    };
    if caller.version < CURSORS {
        let found = select(&facade, &caller, &query).await?;
        let mut all = items(&caller, &found)?;
        if let Some(upstream) = &facade.upstream {
            all.append(&mut upstream.all(&listing).await?);
        }
        return Ok(Json(all).into_response());
    }
    let mut page = CursorPage::default();
    let limit = query.limit();
    let at_upstream = query.cursor.as_deref().and_then(after_own);
    if at_upstream.is_none() {
        page = own_page(&facade, &caller, &query).await?;
    }
    if let Some(upstream) = &facade.upstream
        && page.next_cursor.is_none()
    {
        let room = limit - page.items.len();
        let next = match room {
            0 => Some(String::new()),
            room => {
                let (mut more, next) = upstream
                    .page_after(
                        &listing,
                        at_upstream.filter(|cursor| !cursor.is_empty()),
                        room,
                    )
                    .await?;
                page.items.append(&mut more);
                next
            }
        };
        page.next_cursor = next.map(|next| format!("{AT_UPSTREAM}{next}"));
    }
    Ok(Json(page).into_response())
}

/// The cursor of the upstream in one of a list that has come to its sandboxes:
/// `Some("")` before the first of them.
fn after_own(cursor: &str) -> Option<&str> {
    cursor.strip_prefix(AT_UPSTREAM)
}

/// A page of the sandboxes of this server.
async fn own_page(facade: &Facade, caller: &Caller, query: &ListQuery) -> ApiResult<CursorPage> {
    let found = select(facade, caller, query).await?;
    let after = query.cursor.as_deref().map(Position::decode).transpose()?;
    let rest: Vec<&Shown> = found
        .iter()
        .filter(|shown| {
            after
                .as_ref()
                .is_none_or(|after| query.order(&Position::of(shown, query.sort), after).is_gt())
        })
        .collect();
    let limit = query.limit();
    let next_cursor =
        (rest.len() > limit).then(|| Position::of(rest[limit - 1], query.sort).encode());
    Ok(CursorPage {
        items: items(caller, rest.into_iter().take(limit))?,
        next_cursor,
    })
}

/// `GET /sandbox/paginated`.
pub(crate) async fn paginated(
    State(facade): State<Facade>,
    caller: Caller,
    QueryOf(pairs): Pairs,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let query = ListQuery::of(&pairs)?;
    let limit = query.limit();
    let own = items(&caller, &select(&facade, &caller, &query).await?)?;
    let own_total = own.len();
    let mut page = NumberedPage::of(own, query.page, limit);
    if let Some(upstream) = &facade.upstream {
        let listing = Listing {
            headers: &headers,
            pairs: &pairs,
            base: &caller.base,
        };
        let first = query.page.saturating_sub(1).saturating_mul(limit);
        let first = first.saturating_sub(own_total);
        let room = limit - page.items.len();
        let (mut more, total) = upstream.slice(&listing, first, room, limit).await?;
        page.items.append(&mut more);
        page.total = own_total.saturating_add(total);
        page.total_pages = page.total.div_ceil(limit);
    }
    Ok(Json(page).into_response())
}

/// Sandboxes of this server as the caller is told them.
fn items<'a>(caller: &Caller, all: impl IntoIterator<Item = &'a Shown>) -> ApiResult<Items> {
    let written = all.into_iter().map(|shown| {
        let dto = SandboxDto::of(shown, &caller.base, caller.version);
        serde_json::value::to_raw_value(&dto)
    });
    written.collect::<Result<_, _>>().map_err(|error| {
        Error::internal("a sandbox cannot be written as JSON")
            .with_source(error)
            .into()
    })
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct CursorPage {
    items: Items,
    /// The key must be there.
    next_cursor: Option<String>,
}

/// A page by its number.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NumberedPage<T> {
    items: Vec<T>,
    total: usize,
    page: usize,
    total_pages: usize,
}

impl<T> NumberedPage<T> {
    /// The page of that number, counted from 1.
    pub(crate) fn of(all: Vec<T>, page: usize, limit: usize) -> Self {
        let total = all.len();
        let first = page.saturating_sub(1).saturating_mul(limit);
        Self {
            items: all.into_iter().skip(first).take(limit).collect(),
            total,
            page,
            total_pages: total.div_ceil(limit),
        }
    }
}

/// The sandboxes that a query asks for, sorted.
async fn select(facade: &Facade, caller: &Caller, query: &ListQuery) -> ApiResult<Vec<Shown>> {
    let made = facade.control.list(&facade.config.space).await?;
    let mut all: BTreeMap<_, Shown> = facade
        .waiting
        .all(&facade.control)
        .into_iter()
        .map(|shown| (shown.sandbox.id.clone(), shown))
        .collect();
    // One that is being made is in both; what is known of it by `control` counts.
    all.extend(made.into_iter().map(|made| (made.id.clone(), made.into())));
    let mut found: Vec<Shown> = all
        .into_values()
        .filter(|shown| query.wants(shown, caller.version))
        .collect();
    found.sort_by(|a, b| query.order(&Position::of(a, query.sort), &Position::of(b, query.sort)));
    Ok(found)
}

/// By what a list is sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sort {
    Name,
    Cpu,
    Memory,
    Disk,
    Activity,
    #[default]
    Created,
}

impl Sort {
    fn of(word: &str) -> ApiResult<Self> {
        Ok(match word {
            "name" => Self::Name,
            "cpu" => Self::Cpu,
            "memoryGib" | "memory" | "mem" => Self::Memory,
            "diskGib" | "disk" => Self::Disk,
            "lastActivityAt" | "updatedAt" => Self::Activity,
            "createdAt" => Self::Created,
            other => {
                return Err(ApiError::bad_request(format!(
                    "parameter `sort`: {other:?} is not one of name, cpu, memoryGib, diskGib, lastActivityAt, createdAt"
                )));
            }
        })
    }
}

/// Where a sandbox is in a sorted list. The id makes it unique, so that a list
/// goes on at the right place when others came or went meanwhile.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Position(i64, String, String);

impl Position {
    fn of(shown: &Shown, sort: Sort) -> Self {
        let sandbox = &shown.sandbox;
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let (number, text) = match sort {
            Sort::Name => (0, sandbox.name.to_string()),
            Sort::Cpu => (number(shown::cpu(sandbox)), String::new()),
            Sort::Memory => (number(shown::memory_gib(sandbox)), String::new()),
            Sort::Disk => (number(shown::disk_gib(sandbox)), String::new()),
            Sort::Activity => (sandbox.active_ms, String::new()),
            Sort::Created => (sandbox.created_ms, String::new()),
        };
        Self(number, text, sandbox.id.to_string())
    }

    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn decode(cursor: &str) -> ApiResult<Self> {
        URL_SAFE_NO_PAD
            .decode(cursor)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(|| {
                ApiError::bad_request(
                    "parameter `cursor` is not a `nextCursor` that this server has given",
                )
            })
    }
}

/// A query, understood.
#[derive(Debug)]
struct ListQuery {
    page: usize,
    limit: Option<usize>,
    cursor: Option<String>,
    sort: Sort,
    ascending: bool,
    id: Option<String>,
    name: Option<String>,
    labels: BTreeMap<String, String>,
    states: Vec<String>,
    snapshots: Vec<String>,
    targets: Vec<String>,
    cpu: Range<u64>,
    memory: Range<u64>,
    disk: Range<u64>,
    public: Option<bool>,
    recoverable: Option<bool>,
    created: Range<i64>,
    active: Range<i64>,
    destroyed: Range<i64>,
}

/// Bounds, both inclusive.
#[derive(Debug)]
struct Range<T>(Option<T>, Option<T>);

impl<T> Default for Range<T> {
    fn default() -> Self {
        Self(None, None)
    }
}

impl<T: PartialOrd> Range<T> {
    fn contains(&self, value: &T) -> bool {
        self.0.as_ref().is_none_or(|least| value >= least)
            && self.1.as_ref().is_none_or(|most| value <= most)
    }

    fn is_open(&self) -> bool {
        self.0.is_none() && self.1.is_none()
    }
}

impl ListQuery {
    fn of(pairs: &[(String, String)]) -> ApiResult<Self> {
        let mut query = Self {
            page: 1,
            limit: None,
            cursor: None,
            sort: Sort::default(),
            ascending: false,
            id: None,
            name: None,
            labels: BTreeMap::new(),
            states: Vec::new(),
            snapshots: Vec::new(),
            targets: Vec::new(),
            cpu: Range::default(),
            memory: Range::default(),
            disk: Range::default(),
            public: None,
            recoverable: None,
            created: Range::default(),
            active: Range::default(),
            destroyed: Range::default(),
        };
        for (name, value) in pairs {
            // Old SDKs send `null` for what was not given.
            if !value.is_empty() && value != "null" {
                query.take(name, value)?;
            }
        }
        Ok(query)
    }

    fn take(&mut self, name: &str, value: &str) -> ApiResult<()> {
        let values = || value.split(',').map(str::to_owned);
        match name {
            "page" => self.page = at_least_1(name, value)?,
            "limit" => self.limit = Some(at_least_1(name, value)?),
            "cursor" => self.cursor = Some(value.to_owned()),
            "sort" => self.sort = Sort::of(value)?,
            "order" => self.ascending = order(value)?,
            "id" => self.id = Some(value.to_ascii_lowercase()),
            "name" => self.name = Some(value.to_ascii_lowercase()),
            "labels" => self.labels = labels(value)?,
            "states" => self.states.extend(values()),
            "snapshots" => self.snapshots.extend(values()),
            "regionIds" | "regions" => self.targets.extend(values()),
            "minCpu" => self.cpu.0 = Some(parsed(name, value)?),
            "maxCpu" => self.cpu.1 = Some(parsed(name, value)?),
            "minMemoryGiB" => self.memory.0 = Some(parsed(name, value)?),
            "maxMemoryGiB" => self.memory.1 = Some(parsed(name, value)?),
            "minDiskGiB" => self.disk.0 = Some(parsed(name, value)?),
            "maxDiskGiB" => self.disk.1 = Some(parsed(name, value)?),
            "isPublic" => self.public = Some(parsed(name, value)?),
            "isRecoverable" => self.recoverable = Some(parsed(name, value)?),
            "createdAtAfter" => self.created.0 = Some(moment(name, value)?),
            "createdAtBefore" => self.created.1 = Some(moment(name, value)?),
            "lastEventAfter" => self.active.0 = Some(moment(name, value)?),
            "lastEventBefore" => self.active.1 = Some(moment(name, value)?),
            "autoDestroyAtAfter" => self.destroyed.0 = Some(moment(name, value)?),
            "autoDestroyAtBefore" => self.destroyed.1 = Some(moment(name, value)?),
            _ => {}
        }
        Ok(())
    }

    fn limit(&self) -> usize {
        self.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX)
    }

    fn order(&self, a: &Position, b: &Position) -> Ordering {
        match self.ascending {
            true => a.cmp(b),
            false => b.cmp(a),
        }
    }

    fn wants(&self, shown: &Shown, version: SdkVersion) -> bool {
        let sandbox = &shown.sandbox;
        let begins = |text: &str, prefix: &Option<String>| {
            prefix
                .as_ref()
                .is_none_or(|prefix| text.to_ascii_lowercase().starts_with(prefix))
        };
        let among = |wanted: &[String], value: &str| {
            wanted.is_empty() || wanted.iter().any(|wanted| wanted == value)
        };
        let target = sandbox.annotations.get(annotation::TARGET);
        let destroyed = shown::destroyed_at_ms(sandbox);
        begins(sandbox.id.as_str(), &self.id)
            && begins(sandbox.name.as_str(), &self.name)
            && self
                .labels
                .iter()
                .all(|(name, value)| sandbox.labels.get(name) == Some(value))
            && among(&self.states, shown.state(version))
            && among(&self.snapshots, &sandbox.image_requested)
            && among(&self.targets, target.map_or(TARGET_DEFAULT, String::as_str))
            && self.cpu.contains(&shown::cpu(sandbox))
            && self.memory.contains(&shown::memory_gib(sandbox))
            && self.disk.contains(&shown::disk_gib(sandbox))
            && self
                .public
                .is_none_or(|public| public == shown::is_public(sandbox))
            && self
                .recoverable
                .is_none_or(|wanted| wanted == shown::is_recoverable(sandbox))
            && self.created.contains(&sandbox.created_ms)
            && self.active.contains(&sandbox.active_ms)
            && (self.destroyed.is_open()
                || destroyed.is_some_and(|at| self.destroyed.contains(&at)))
    }
}

fn parsed<T: std::str::FromStr>(name: &str, value: &str) -> ApiResult<T> {
    value
        .parse()
        .map_err(|_| ApiError::bad_request(format!("parameter `{name}`: {value:?} does not fit")))
}

pub(crate) fn at_least_1(name: &str, value: &str) -> ApiResult<usize> {
    match parsed(name, value)? {
        0 => Err(ApiError::bad_request(format!(
            "parameter `{name}` must be at least 1"
        ))),
        number => Ok(number),
    }
}

/// Whether ascending.
pub(crate) fn order(value: &str) -> ApiResult<bool> {
    match value.to_ascii_lowercase().as_str() {
        "asc" => Ok(true),
        "desc" => Ok(false),
        other => Err(ApiError::bad_request(format!(
            "parameter `order`: {other:?} is neither asc nor desc"
        ))),
    }
}

fn labels(value: &str) -> ApiResult<BTreeMap<String, String>> {
    serde_json::from_str(value).map_err(|error| {
        ApiError::bad_request(format!(
            "parameter `labels` is not a JSON object of texts: {error}"
        ))
    })
}

fn moment(name: &str, value: &str) -> ApiResult<i64> {
    let moment: Timestamp = value.parse().map_err(|error| {
        ApiError::bad_request(format!("parameter `{name}`: {value:?} is no time: {error}"))
    })?;
    Ok(moment.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(pairs: &[(&str, &str)]) -> ApiResult<ListQuery> {
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        ListQuery::of(&pairs)
    }

    #[test]
    fn what_was_not_given_is_null_or_empty() {
        let query = query(&[("labels", "null"), ("states", ""), ("limit", "null")]).unwrap();
        assert!(query.labels.is_empty() && query.states.is_empty());
        assert_eq!(query.limit(), LIMIT_DEFAULT);
    }

    #[test]
    fn wrong_parameters_are_named() {
        for (name, value) in [
            ("limit", "0"),
            ("limit", "x"),
            ("labels", "{"),
            ("sort", "colour"),
            ("order", "up"),
            ("createdAtAfter", "yesterday"),
            ("isPublic", "maybe"),
        ] {
            let error = query(&[(name, value)]).unwrap_err();
            assert!(error.message.contains(name), "{}", error.message);
        }
    }

    #[test]
    fn a_cursor_survives_the_way_to_the_caller_and_back() {
        let position = Position(5, "ü".into(), "id".into());
        assert_eq!(Position::decode(&position.encode()).unwrap(), position);
        assert!(Position::decode("?").is_err());
    }

    #[test]
    fn pages_have_numbers_from_one() {
        let page = NumberedPage::of(vec![1, 2, 3, 4, 5], 2, 2);
        assert_eq!(
            (page.items, page.total, page.total_pages),
            (vec![3, 4], 5, 3)
        );
        assert!(NumberedPage::of(vec![1], usize::MAX, 2).items.is_empty());
    }
}
