//! `GET /metrics` for Prometheus: what `control` and a rollout count, and what only
//! the server knows: its HTTP requests, and the memory and disk of the host.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use control::Control;
use facade_daytona::rollout::Rollout;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::Histogram,
    },
    registry::Registry,
};
use rustix::fs::StatVfs;

/// The format of the page: <https://prometheus.io/docs/specs/om/open_metrics_spec/>.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Bounds of the durations of requests, seconds.
const SECONDS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 120.0,
];
/// The route of requests that no route takes: their paths are not bounded.
const UNMATCHED: &str = "unmatched";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabels {
    method: &'static str,
    route: String,
}

/// Makes histograms with our bounds.
#[derive(Clone, Copy)]
struct Durations;

impl MetricConstructor<Histogram> for Durations {
    fn new_metric(&self) -> Histogram {
        Histogram::new(SECONDS)
    }
}

/// What has one value only.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct NoLabels {}

/// A gauge that is left out while its value cannot be told.
type Measured = Family<NoLabels, Gauge>;

/// What the server counts. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub(super) struct Metrics(Arc<Inner>);

struct Inner {
    control: Control,
    /// A folder on the disk with the state.
    folder: PathBuf,
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabels, Histogram, Durations>,
    host_memory: Measured,
    disk_free: Measured,
    disk_size: Measured,
}

impl Metrics {
    /// For a server whose state is on the disk of `folder`.
    pub(super) fn new(control: Control, folder: PathBuf, rollout: Option<&Rollout>) -> Self {
        let mut inner = Inner {
            control,
            folder,
            registry: Registry::default(),
            requests: Family::default(),
            durations: Family::new_with_constructor(Durations),
            host_memory: Family::default(),
            disk_free: Family::default(),
            disk_size: Family::default(),
        };
        inner.register();
        if let Some(rollout) = rollout {
            rollout.register(&mut inner.registry);
        }
        Self(Arc::new(inner))
    }
}

impl Inner {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "sandboxai_http_requests",
            "HTTP requests by route and status of the answer",
            self.requests.clone(),
        );
        registry.register(
            "sandboxai_http_request_duration_seconds",
            "Time until the answer to an HTTP request began",
            self.durations.clone(),
        );
        registry.register(
            "sandboxai_host_memory_bytes",
            "Memory of the host",
            self.host_memory.clone(),
        );
        registry.register(
            "sandboxai_state_disk_free_bytes",
            "Free space of the file system with the state folder",
            self.disk_free.clone(),
        );
        registry.register(
            "sandboxai_state_disk_size_bytes",
            "Size of the file system with the state folder",
            self.disk_size.clone(),
        );
    }

    fn count(&self, method: &'static str, route: String, status: u16, duration: Duration) {
        let labels = RouteLabels { method, route };
        self.durations
            .get_or_create(&labels)
            .observe(duration.as_secs_f64());
        let RouteLabels { method, route } = labels;
        let labels = RequestLabels {
            method,
            route,
            status,
        };
        self.requests.get_or_create(&labels).inc();
    }

    fn measure_host(&self) {
        let host = rustix::system::sysinfo();
        let memory = u64::from(host.mem_unit).checked_mul(host.totalram);
        show(&self.host_memory, memory);
        let disk = rustix::fs::statvfs(&self.folder);
        let disk = disk.inspect_err(|error| tracing::debug!(%error, "cannot measure the disk"));
        let bytes = |blocks: fn(&StatVfs) -> u64| {
            let disk = disk.as_ref().ok()?;
            disk.f_frsize.checked_mul(blocks(disk))
        };
        show(&self.disk_free, bytes(|disk| disk.f_bavail));
        show(&self.disk_size, bytes(|disk| disk.f_blocks));
    }
}

/// Sets a gauge, or leaves it out.
fn show(gauge: &Measured, value: Option<u64>) {
    gauge.clear();
    if let Some(value) = value.and_then(|value| i64::try_from(value).ok()) {
        gauge.get_or_create(&NoLabels {}).set(value);
    }
}

/// The method as a label, of which there may be no more than these.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// The layer that counts requests, for routers whose routes are known by then.
pub(super) async fn count(
    State(metrics): State<Metrics>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let method = method(request.method());
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or(UNMATCHED, MatchedPath::as_str).to_owned();
    let response = next.run(request).await;
    let status = response.status().as_u16();
    metrics.0.count(method, route, status, started.elapsed());
    response
}

/// The page that Prometheus reads.
pub(super) async fn page(State(metrics): State<Metrics>) -> impl IntoResponse {
    let inner = &metrics.0;
    let mut page = inner.control.metrics().await;
    inner.measure_host();
    // Writing to a String does not fail.
    let _ = text::encode_registry(&mut page, &inner.registry);
    let _ = text::encode_eof(&mut page);
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_client_can_make_labels_of_its_own() {
        assert_eq!(method(&Method::PATCH), "PATCH");
        assert_eq!(method(&Method::from_bytes(b"BREW").unwrap()), "other");
    }

    #[test]
    fn what_cannot_be_told_is_left_out() {
        let gauge = Measured::default();
        let mut registry = Registry::default();
        registry.register("disk", "Disk", gauge.clone());
        let page = || {
            let mut page = String::new();
            text::encode_registry(&mut page, &registry).unwrap();
            page
        };
        show(&gauge, Some(7));
        assert!(page().ends_with(" 7\n"), "{}", page());
        show(&gauge, None);
        assert!(!page().contains(" 7"), "{}", page());
        show(&gauge, Some(u64::MAX));
        assert!(!page().contains("-1"), "{}", page());
    }
}
