//! Every metric, named once. Counters count what this process did; they start at zero with it.

use std::sync::LazyLock;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::error::{Error, Result};

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub backup_total: IntCounterVec,
    pub backup_success_total: IntCounterVec,
    pub backup_failed_total: IntCounterVec,
    pub backup_duration_seconds: HistogramVec,
    pub backup_size_bytes: IntGaugeVec,
    pub restore_total: IntCounterVec,
    pub restore_success_total: IntCounterVec,
    pub system_up: IntGaugeVec,
    pub system_supervised: IntGaugeVec,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

pub fn metrics() -> &'static Metrics {
    &METRICS
}

/// Seconds, from a quarter of a second to a day.
const DURATION_BUCKETS: [f64; 10] = [0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 7_200.0, 28_800.0, 86_400.0];

impl Metrics {
    fn new() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| {
            let made = IntCounterVec::new(Opts::new(name, help), &["system"]);
            keep(&registry, made)
        };
        let gauge =
            |name: &str, help: &str| keep(&registry, IntGaugeVec::new(Opts::new(name, help), &["system"]));
        let duration =
            HistogramOpts::new("backup_duration_seconds", "Time that a backup took, from start to commit")
                .buckets(DURATION_BUCKETS.to_vec());
        Self {
            backup_total: counter("backup_total", "Backups started"),
            backup_success_total: counter(
                "backup_success_total",
                "Backups committed, and read back where configured",
            ),
            backup_failed_total: counter("backup_failed_total", "Backups that failed or were cancelled"),
            backup_duration_seconds: keep(&registry, HistogramVec::new(duration, &["system"])),
            backup_size_bytes: gauge("backup_size_bytes", "Stored bytes of the newest backup"),
            restore_total: counter("restore_total", "Restores started"),
            restore_success_total: counter("restore_success_total", "Restores that ended well"),
            system_up: gauge("lifeboat_system_up", "1 when the last probe found the system healthy"),
            system_supervised: gauge(
                "lifeboat_system_supervised",
                "0 when the system's actor died too often",
            ),
            registry,
        }
    }

    /// Prometheus text format.
    pub fn render(&self) -> Result<String> {
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .map_err(|e| Error::bug("write metrics").because(e))
    }
}

fn keep<C: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    made: prometheus::Result<C>,
) -> C {
    #[expect(clippy::expect_used, reason = "names and labels are constants; a test makes them all")]
    let metric = made.expect("a metric's name and labels are valid");
    if let Err(error) = registry.register(Box::new(metric.clone())) {
        tracing::error!(%error, "metric registered twice");
    }
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_valid_and_rendered_once_used() {
        metrics().backup_total.with_label_values(&["orders"]).inc();
        assert!(metrics().render().unwrap().contains("backup_total{system=\"orders\"}"));
    }
}
