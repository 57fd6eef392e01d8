//! What a rollout counts, for Prometheus.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::Histogram,
    },
    registry::Registry,
};

use super::{
    operation::{Operation, Outcome},
    share::Share,
    window::Measured,
};
use crate::side::Side;

/// Bounds of durations in seconds.
const SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0,
];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    side: &'static str,
    operation: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OperationLabels {
    side: &'static str,
    operation: &'static str,
}

/// Makes histograms with our bounds.
#[derive(Clone, Copy, Debug)]
struct Durations;

impl MetricConstructor<Histogram> for Durations {
    fn new_metric(&self) -> Histogram {
        Histogram::new(SECONDS)
    }
}

/// The counters; all clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    share: Gauge<f64, AtomicU64>,
    requests: Family<RequestLabels, Counter>,
    durations: Family<OperationLabels, Histogram, Durations>,
    rollbacks: Counter,
}

impl Metrics {
    /// All at zero: the first of a series that appears with it is no increase
    /// to Prometheus.
    pub(crate) fn new() -> Self {
        let metrics = Self {
            share: Gauge::default(),
            requests: Family::default(),
            durations: Family::new_with_constructor(Durations),
            rollbacks: Counter::default(),
        };
        for side in [Side::SandboxAi, Side::Daytona] {
            for operation in Operation::ALL {
                for outcome in Outcome::ALL {
                    drop(metrics.requests.get_or_create(&RequestLabels {
                        side: side.as_str(),
                        operation: operation.as_str(),
                        status: outcome.as_str(),
                    }));
                }
            }
            let operation = Operation::Create.as_str();
            let side = side.as_str();
            drop(
                metrics
                    .durations
                    .get_or_create(&OperationLabels { side, operation }),
            );
        }
        metrics
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "sandboxai_rollout_share",
            "Share of new sandboxes that is made here and not at the upstream, percent",
            self.share.clone(),
        );
        registry.register(
            "sandboxai_rollout_requests",
            "Requests of Daytona's protocol by the side that answered",
            self.requests.clone(),
        );
        registry.register(
            "sandboxai_rollout_request_duration_seconds",
            "Time until the answer to a request of Daytona's protocol began",
            self.durations.clone(),
        );
        registry.register(
            "sandboxai_rollout_rollbacks",
            "Times that the share went back to 0 by itself",
            self.rollbacks.clone(),
        );
    }

    pub(crate) fn set_share(&self, share: Share) {
        self.share.set(share.percent());
    }

    pub(crate) fn rolled_back(&self) {
        self.rollbacks.inc();
    }

    pub(crate) fn count(&self, side: Side, measured: &Measured) {
        let (side, operation) = (side.as_str(), measured.operation.as_str());
        let labels = RequestLabels {
            side,
            operation,
            status: measured.outcome.as_str(),
        };
        self.requests.get_or_create(&labels).inc();
        self.durations
            .get_or_create(&OperationLabels { side, operation })
            .observe(measured.duration.as_secs_f64());
    }
}
