//! What is counted, for Prometheus.
//!
//! Everything here is cheap enough to be done for each operation. What only a
//! scrape needs to know (memory and CPU of each sandbox) is measured when one comes.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, atomic::AtomicU64},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
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
use sandbox::{EndReason, Error, Kind, Result, State, StepTime, Usage};

use crate::{Control, Sandbox};

/// Bounds of durations in seconds: an operation takes from under a millisecond
/// (a file) up to minutes (a long command).
const SECONDS: [f64; 16] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0,
];
/// Sandboxes that are measured at the same time during a scrape.
const MEASURED_AT_ONCE: usize = 8;
/// How long measuring one sandbox may take before the scrape goes on without it.
const MEASURE_TIME_MAX: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OperationLabels {
    operation_type: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TypeLabel {
    operation_type: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PhaseLabel {
    phase: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SandboxLabels {
    sandbox: String,
    space: String,
    name: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LeakLabel {
    kind: String,
}

/// Makes histograms with our bounds.
#[derive(Clone, Copy)]
struct Durations;

impl MetricConstructor<Histogram> for Durations {
    fn new_metric(&self) -> Histogram {
        Histogram::new(SECONDS)
    }
}

type Histograms<L> = Family<L, Histogram, Durations>;

/// The counters of one server.
pub(crate) struct Metrics {
    started: Instant,
    operations: Family<OperationLabels, Counter>,
    durations: Histograms<TypeLabel>,
    phases: Histograms<PhaseLabel>,
    ended: Family<ReasonLabel, Counter>,
    errors: Family<KindLabel, Counter>,
    /// What a scrape fills in; it is locked so that two do not mix.
    scraped: Mutex<Scraped>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// What is measured at a scrape.
#[derive(Default)]
struct Scraped {
    registry: Registry,
    active: Gauge,
    states: Family<StateLabel, Gauge>,
    memory: Family<SandboxLabels, Gauge>,
    cpu: Family<SandboxLabels, Counter<f64, AtomicU64>>,
    processes: Family<SandboxLabels, Gauge>,
    age: Family<SandboxLabels, Gauge>,
    leaks: Family<LeakLabel, Gauge>,
    memory_in_all: Gauge,
    uptime: Gauge<f64, AtomicU64>,
}

impl Scraped {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "active_sandboxes",
            "Sandboxes that run or are paused",
            self.active.clone(),
        );
        registry.register(
            "sandboxai_sandboxes",
            "Sandboxes by state",
            self.states.clone(),
        );
        registry.register(
            "sandboxai_sandbox_memory_bytes",
            "Memory in use by a sandbox",
            self.memory.clone(),
        );
        registry.register(
            "sandboxai_sandbox_cpu_seconds",
            "CPU time used by a sandbox",
            self.cpu.clone(),
        );
        registry.register(
            "sandboxai_sandbox_processes",
            "Processes and threads of a sandbox",
            self.processes.clone(),
        );
        registry.register(
            "sandboxai_sandbox_age_seconds",
            "Time since a sandbox was created",
            self.age.clone(),
        );
        registry.register(
            "sandboxai_leaks",
            "Things on the host that belong to no sandbox, by kind",
            self.leaks.clone(),
        );
        registry.register(
            "sandboxai_sandboxes_memory_bytes",
            "Memory in use by all sandboxes",
            self.memory_in_all.clone(),
        );
        registry.register(
            "sandboxai_uptime_seconds",
            "Time since the server was started",
            self.uptime.clone(),
        );
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let metrics = Self {
            started: Instant::now(),
            operations: Family::default(),
            durations: Family::new_with_constructor(Durations),
            phases: Family::new_with_constructor(Durations),
            ended: Family::default(),
            errors: Family::default(),
            scraped: Mutex::default(),
        };
        metrics.register();
        metrics.scraped().register();
        metrics.begin_at_zero();
        metrics
    }

    /// What alerts watch is there from the beginning: the first of a series that
    /// appears with it is no increase to Prometheus.
    fn begin_at_zero(&self) {
        for kind in [Kind::Internal, Kind::Unavailable, Kind::SandboxLost] {
            let kind = kind.as_str();
            drop(self.errors.get_or_create(&KindLabel { kind }));
        }
        let reason = EndReason::OutOfMemory.as_str();
        drop(self.ended.get_or_create(&ReasonLabel { reason }));
    }

    fn register(&self) {
        let registry = &mut self.scraped().registry;
        registry.register(
            "sandbox_operations",
            "Operations on sandboxes, by kind and outcome",
            self.operations.clone(),
        );
        registry.register(
            "sandbox_operation_duration_seconds",
            "Duration of operations on sandboxes",
            self.durations.clone(),
        );
        registry.register(
            "sandboxai_creation_phase_seconds",
            "Where the time of creations went",
            self.phases.clone(),
        );
        registry.register(
            "sandboxai_sandboxes_ended",
            "Sandboxes that ended, by reason",
            self.ended.clone(),
        );
        registry.register(
            "sandboxai_errors",
            "Operations that failed, by kind of error",
            self.errors.clone(),
        );
    }

    fn scraped(&self) -> std::sync::MutexGuard<'_, Scraped> {
        self.scraped
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Begins to measure an operation.
    pub(crate) fn begin(self: &Arc<Self>, operation_type: &'static str) -> Measure {
        Measure {
            metrics: Arc::clone(self),
            operation_type,
            started: Instant::now(),
            failure: Some(Kind::Cancelled),
        }
    }

    fn count(&self, measure: &Measure) {
        let operation_type = measure.operation_type;
        let status = match measure.failure {
            None => "success",
            Some(Kind::Cancelled) => "cancelled",
            Some(kind) => {
                let kind = kind.as_str();
                self.errors.get_or_create(&KindLabel { kind }).inc();
                "failure"
            }
        };
        let labels = OperationLabels {
            operation_type,
            status,
        };
        self.operations.get_or_create(&labels).inc();
        self.durations
            .get_or_create(&TypeLabel { operation_type })
            .observe(measure.started.elapsed().as_secs_f64());
    }

    /// Counts where the time of a creation went.
    pub(crate) fn created(&self, steps: &[StepTime]) {
        // Two steps of one name, one of them ours and one of the runtime, are one phase.
        let mut phases: BTreeMap<&str, Duration> = BTreeMap::new();
        for step in steps {
            *phases.entry(&step.step).or_default() += step.duration;
        }
        for (phase, duration) in phases {
            let phase = phase.to_owned();
            self.phases
                .get_or_create(&PhaseLabel { phase })
                .observe(duration.as_secs_f64());
        }
    }

    /// Counts the end of a sandbox.
    pub(crate) fn ended(&self, reason: &EndReason) {
        let reason = reason.as_str();
        self.ended.get_or_create(&ReasonLabel { reason }).inc();
    }

    fn render(
        &self,
        measured: &[(Sandbox, Option<Usage>)],
        leaks: Option<BTreeMap<String, usize>>,
        now_ms: i64,
    ) -> String {
        let scraped = self.scraped();
        scraped.states.clear();
        scraped.memory.clear();
        scraped.cpu.clear();
        scraped.processes.clear();
        scraped.age.clear();
        // Left out while it cannot be told.
        scraped.leaks.clear();
        for (kind, count) in leaks.into_iter().flatten() {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            scraped.leaks.get_or_create(&LeakLabel { kind }).set(count);
        }
        let (mut active, mut memory) = (0i64, 0i64);
        for (sandbox, usage) in measured {
            let state = sandbox.state.as_str();
            scraped.states.get_or_create(&StateLabel { state }).inc();
            active += i64::from(matches!(sandbox.state, State::Running | State::Paused));
            let labels = SandboxLabels {
                sandbox: sandbox.id.to_string(),
                space: sandbox.space.to_string(),
                name: sandbox.name.to_string(),
            };
            let age_s = now_ms.saturating_sub(sandbox.created_ms) / 1000;
            scraped.age.get_or_create(&labels).set(age_s);
            if let Some(usage) = usage {
                let bytes = i64::try_from(usage.memory_bytes).unwrap_or(i64::MAX);
                memory = memory.saturating_add(bytes);
                scraped.memory.get_or_create(&labels).set(bytes);
                let cpu_s = Duration::from_micros(usage.cpu_us).as_secs_f64();
                // It was cleared: this is the first and only addition.
                scraped.cpu.get_or_create(&labels).inc_by(cpu_s);
                scraped
                    .processes
                    .get_or_create(&labels)
                    .set(usage.pids.into());
            }
        }
        scraped.active.set(active);
        scraped.memory_in_all.set(memory);
        scraped.uptime.set(self.started.elapsed().as_secs_f64());
        let mut page = String::new();
        // Writing to a String does not fail.
        let _ = text::encode_registry(&mut page, &scraped.registry);
        page
    }
}

/// An operation that is being measured, and is counted when this is dropped: as
/// cancelled, unless something else was noted by then.
pub(crate) struct Measure {
    metrics: Arc<Metrics>,
    operation_type: &'static str,
    started: Instant,
    failure: Option<Kind>,
}

impl Measure {
    /// Notes how the operation went; what was noted last counts.
    pub(crate) fn note(&mut self, failure: Option<Kind>) {
        self.failure = failure;
    }

    /// Counts the operation as failed by an error, which is handed on.
    pub(crate) fn failed(mut self, error: Error) -> Error {
        self.note(Some(error.kind));
        error
    }
}

impl Drop for Measure {
    fn drop(&mut self) {
        self.metrics.count(self);
    }
}

impl Control {
    /// Does `work` and counts it as one operation.
    pub(crate) async fn measured<T>(
        &self,
        operation_type: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let mut measure = self.core.metrics.begin(operation_type);
        let result = work.await;
        measure.note(result.as_ref().err().map(|error| error.kind));
        result
    }

    /// What was counted and what is measured now, as OpenMetrics text without
    /// the `# EOF` that ends it.
    pub async fn metrics(&self) -> String {
        let residents = self.core.registry.living(None);
        let sandboxes = residents
            .iter()
            .map(|resident| resident.view(&*self.core.clock));
        let sandboxes: Vec<Sandbox> = sandboxes.collect();
        let measured = stream::iter(sandboxes)
            .map(|sandbox| async {
                let usage = match sandbox.state {
                    State::Running | State::Paused => {
                        let usage = self.core.runtime.usage(&sandbox.id);
                        tokio::time::timeout(MEASURE_TIME_MAX, usage).await.ok()
                    }
                    _ => None,
                };
                // One that has just ended is measured no more.
                (sandbox, usage.and_then(Result::ok))
            })
            .buffer_unordered(MEASURED_AT_ONCE)
            .collect::<Vec<_>>();
        let (measured, leaks) = tokio::join!(measured, self.core.leaks.count(&self.core));
        self.core
            .metrics
            .render(&measured, leaks, self.core.clock.now_ms())
    }
}

#[cfg(test)]
mod tests;
