//! What `/metrics` reports. kube-proxy's names are used where the meaning is the same.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, UNIX_EPOCH};

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use svclb_core::image::Fill;
use svclb_dataplane::Pinned;
use svclb_source::Status;

use super::health::Failures;

type Labels = [(&'static str, &'static str); 1];
type ServiceLabels = [(&'static str, String); 2];

/// The agent's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    sync_seconds: Histogram,
    last_sync: Gauge<f64, AtomicU64>,
    writes: Counter,
    destroyed: Counter,
    drifted: Counter,
    ready_seconds: Gauge<f64, AtomicU64>,
    services: Gauge,
    failing: Gauge,
    failing_services: Family<ServiceLabels, Gauge>,
    waiting: Gauge,
    connected: Gauge,
    last_heard: Gauge<f64, AtomicU64>,
    problems: Gauge,
    unreadable: Gauge,
    entries: Family<Labels, Gauge>,
}

/// A gauge's value.
fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Metrics {
    pub(crate) fn new(pin_dir: &Path) -> Self {
        let mut registry = Registry::default();
        let sync_seconds = Histogram::new(exponential_buckets(0.000_1, 2.0, 18));
        registry.register(
            "kubeproxy_sync_proxy_rules_duration_seconds",
            "How long one round of writes took",
            sync_seconds.clone(),
        );
        let last_sync = Gauge::default();
        registry.register(
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
            "When the last round was written",
            last_sync.clone(),
        );
        let writes = Counter::default();
        registry.register(
            "svclb_map_writes",
            "Operations performed on the planned maps",
            writes.clone(),
        );
        let destroyed = Counter::default();
        registry.register(
            "svclb_udp_sockets_destroyed",
            "Connected UDP sockets that were destroyed because their backend no longer serves",
            destroyed.clone(),
        );
        let drifted = Counter::default();
        registry.register(
            "svclb_drift_repaired",
            "Service ports, device entries, pins and programs that an audit found changed, and repaired",
            drifted.clone(),
        );
        let ready_seconds = Gauge::default();
        registry.register(
            "svclb_ready_seconds",
            "Time from start to the first full sync; zero before it",
            ready_seconds.clone(),
        );
        let last_heard = Gauge::<f64, AtomicU64>::default();
        registry.register(
            "svclb_source_last_heard_timestamp_seconds",
            "When the API server last said something; zero before, and for a folder",
            last_heard.clone(),
        );
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let services = gauge("svclb_services", "Services of the source");
        let failing = gauge(
            "svclb_services_failing",
            "Service ports that could not be written",
        );
        let waiting = gauge(
            "svclb_frontends_waiting",
            "Frontends that a Service waits for, since an older Service has the same address and port",
        );
        let connected = gauge(
            "svclb_source_connected",
            "1 while every watch of the API server stands and it answers, or the folder is there",
        );
        let problems = gauge("svclb_source_problems", "Problems in the configuration");
        let unreadable = gauge(
            "svclb_source_unreadable_objects",
            "Objects of the API server that cannot be read, and stay as they were",
        );
        let failing_services = Family::<ServiceLabels, Gauge>::default();
        registry.register(
            "svclb_service_failing",
            "1 for a Service that could not be written to the maps; the first twenty of them",
            failing_services.clone(),
        );
        let entries = Family::<Labels, Gauge>::default();
        registry.register(
            "svclb_map_entries",
            "Entries in a map; those of FLOWS are counted at each sweep",
            entries.clone(),
        );
        registry.register_collector(Box::new(Kernel {
            pin_dir: pin_dir.to_owned(),
        }));
        Self {
            registry,
            sync_seconds,
            last_sync,
            writes,
            destroyed,
            drifted,
            ready_seconds,
            services,
            failing,
            failing_services,
            waiting,
            connected,
            last_heard,
            problems,
            unreadable,
            entries,
        }
    }

    /// A round was written.
    pub(crate) fn round(&self, took: Duration, writes: usize) {
        self.sync_seconds.observe(took.as_secs_f64());
        self.last_sync
            .set(Timestamp::now().as_duration().as_secs_f64());
        self.writes.inc_by(writes as u64);
    }

    /// Sockets were destroyed.
    pub(crate) fn destroyed(&self, sockets: usize) {
        self.destroyed.inc_by(sockets as u64);
    }

    /// An audit found something.
    pub(crate) fn drifted(&self, number: usize) {
        self.drifted.inc_by(number as u64);
    }

    /// Conntrack was swept, and has so many entries.
    pub(crate) fn flows(&self, entries: usize) {
        self.filled("FLOWS", entries);
    }

    fn filled(&self, map: &'static str, entries: usize) {
        self.entries
            .get_or_create(&[("map", map)])
            .set(number(entries));
    }

    /// Writes failed, or no longer fail.
    pub(crate) fn failing(&self, failures: &Failures) {
        self.failing.set(number(failures.ports));
        self.failing_services.clear();
        for service in &failures.named {
            let labels = [
                ("namespace", service.namespace.clone()),
                ("name", service.name.clone()),
            ];
            self.failing_services.get_or_create(&labels).set(1);
        }
    }

    /// The first full sync is done.
    pub(crate) fn ready(&self, after: Duration) {
        self.ready_seconds.set(after.as_secs_f64());
    }

    /// The current values.
    pub(crate) fn state(&self, services: usize, fill: Fill, waiting: usize, source: &Status) {
        self.services.set(number(services));
        self.waiting.set(number(waiting));
        self.connected.set(i64::from(source.connected()));
        if let Some(heard) = source.last_heard() {
            let since_epoch = heard.duration_since(UNIX_EPOCH).unwrap_or_default();
            self.last_heard.set(since_epoch.as_secs_f64());
        }
        self.problems
            .set(i64::try_from(source.problems()).unwrap_or(i64::MAX));
        self.unreadable
            .set(i64::try_from(source.unreadable()).unwrap_or(i64::MAX));
        for (name, entries) in [
            ("FRONTENDS", fill.frontends),
            ("SLOTS", fill.slots),
            ("SOURCES", fill.sources),
            ("BACKENDS", fill.backends),
            ("SERVICES", fill.services),
        ] {
            self.filled(name, entries);
        }
    }

    /// The text of a scrape.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string fails only if a collector does.
        if text::encode(&mut text, &self.registry).is_err() {
            text.clear();
        }
        text
    }
}

/// The programs' counters, read at each scrape.
#[derive(Debug)]
struct Kernel {
    pin_dir: PathBuf,
}

impl Collector for Kernel {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Ok(pinned) = Pinned::open(&self.pin_dir) else {
            return Ok(());
        };
        let mut family = encoder.encode_descriptor(
            "svclb_socket_events",
            "Events that the programs count",
            None,
            MetricType::Counter,
        )?;
        for (counter, value) in pinned.counters().unwrap_or_default() {
            let labels = [("event", counter.name())];
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        let mut family = encoder.encode_descriptor(
            "svclb_map_capacity",
            "How many entries a map can hold",
            None,
            MetricType::Gauge,
        )?;
        for (name, capacity) in pinned.capacities() {
            let labels = [("map", name)];
            prometheus_client::metrics::gauge::ConstGauge::new(i64::from(capacity))
                .encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
