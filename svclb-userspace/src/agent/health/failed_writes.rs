//! Services that could not be written to the maps: each is logged, reported by health, a metric
//! and an Event, and written again after a while.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::Serialize;
use svclb_common::ServiceRecord;
use svclb_core::model::ObjectName;
use svclb_core::planner::Round;
use svclb_core::writer::Failed;
use svclb_source::{EventRecorder, KubeEvent};
use tracing::{error, info};

/// How long until a failed write is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long until another Event is sent about the same Service.
const EVENT_PAUSE: Duration = Duration::from_secs(600);
/// At most so many Events are sent in [`EVENT_WINDOW`]: a full map fails on every node at once,
/// and each of them writes its Events to the one API server.
const EVENTS: usize = 10;
const EVENT_WINDOW: Duration = Duration::from_secs(60);
/// At most so many Services are named in a report.
const NAMED: usize = 20;

/// A Service of which at least one port is not in the maps as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct FailedService {
    /// `metadata.namespace`.
    pub(crate) namespace: String,
    /// `metadata.name`.
    pub(crate) name: String,
    /// Why its first such port was not written.
    pub(crate) reason: String,
}

/// What failed, for health and metrics.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Failures {
    /// How many Service ports.
    pub(crate) ports: usize,
    /// The Services that these belong to.
    pub(crate) services: BTreeSet<ObjectName>,
    /// The first of the Services, with the reason.
    pub(crate) named: Vec<FailedService>,
}

/// The Service ports whose last write failed.
pub(crate) struct FailedWrites {
    reasons: BTreeMap<ServiceRecord, String>,
    /// When writes last failed.
    tried: Option<Instant>,
    /// Whether the reasons changed since they were last [taken](Self::changed).
    has_changed: bool,
    event_recorder: EventRecorder,
    /// When an Event was last sent about a Service.
    events: BTreeMap<ObjectName, Instant>,
}

impl FailedWrites {
    pub(crate) const fn new(event_recorder: EventRecorder) -> Self {
        Self {
            reasons: BTreeMap::new(),
            tried: None,
            has_changed: false,
            event_recorder,
            events: BTreeMap::new(),
        }
    }

    /// Takes a round's outcome in: what of the round did not fail is up to date.
    pub(crate) fn update(&mut self, round: &Round, failed: Vec<Failed>) {
        let before = self.reasons.len();
        let records = round.plans.iter().map(|plan| plan.record);
        let failing: BTreeSet<_> = failed.iter().map(|failure| failure.record).collect();
        for record in records.chain(round.removed.iter().copied()) {
            if !failing.contains(&record) {
                self.has_changed |= self.reasons.remove(&record).is_some();
            }
        }
        for failure in failed {
            let hint = if failure.full {
                "; give the map more room with its --max-… flag and run `svclb cleanup` before the next start"
            } else {
                ""
            };
            let Failed { record, reason, .. } = failure;
            let known = self.reasons.insert(record, reason.clone());
            if known.as_ref() != Some(&reason) {
                self.has_changed = true;
                error!("Service {record} stays as it was: {reason}{hint}");
            }
            self.send_event(
                name(&record),
                || format!("{record} stays as it was on this node: {reason}{hint}"),
                Instant::now(),
            );
        }
        if before > 0 && self.reasons.is_empty() {
            info!("every Service is up to date again");
        }
        if !self.reasons.is_empty() {
            self.tried = Some(Instant::now());
        }
    }

    /// Sends an Event about a Service unless there were enough. One that is held back is sent
    /// when the write fails again.
    fn send_event(&mut self, service: ObjectName, note: impl FnOnce() -> String, now: Instant) {
        self.events
            .retain(|_, sent| now.saturating_duration_since(*sent) < EVENT_PAUSE);
        let is_recent = |sent: &&Instant| now.saturating_duration_since(**sent) < EVENT_WINDOW;
        if self.events.contains_key(&service)
            || self.events.values().filter(is_recent).count() >= EVENTS
        {
            return;
        }
        let event = KubeEvent {
            service: service.clone(),
            reason: "FailedToWriteService",
            action: "Write",
            note: note(),
        };
        if self.event_recorder.try_send(event).is_ok() {
            self.events.insert(service, now);
        }
    }

    /// The Service ports to write again now.
    pub(crate) fn due(&self) -> Vec<ServiceRecord> {
        if self.tried.is_none_or(|tried| tried.elapsed() < RETRY) {
            return Vec::new();
        }
        self.reasons.keys().copied().collect()
    }

    /// What fails now, if that changed since the last call.
    pub(crate) fn changed(&mut self) -> Option<Failures> {
        std::mem::take(&mut self.has_changed).then(|| self.failures())
    }

    fn failures(&self) -> Failures {
        let mut failures = Failures {
            ports: self.reasons.len(),
            ..Failures::default()
        };
        for (record, reason) in &self.reasons {
            let is_new = failures.services.insert(name(record));
            if is_new && failures.named.len() < NAMED {
                failures.named.push(FailedService {
                    namespace: record.namespace.as_str().to_owned(),
                    name: record.name.as_str().to_owned(),
                    reason: reason.clone(),
                });
            }
        }
        failures
    }
}

fn name(record: &ServiceRecord) -> ObjectName {
    ObjectName::new(record.namespace.as_str(), record.name.as_str())
}

#[cfg(test)]
mod tests {
    use svclb_common::{Label, Proto, ServiceFamily};
    use svclb_source::event_recorder;

    use super::*;

    fn record(name: &str) -> ServiceRecord {
        ServiceRecord {
            namespace: Label::new("default").unwrap(),
            name: Label::new(name).unwrap(),
            port_name: Label::new("").unwrap(),
            proto: Proto::TCP,
            family: ServiceFamily::V4,
            reserved: [0; 2],
        }
    }

    fn failed(name: &str, reason: &str) -> Failed {
        Failed {
            record: record(name),
            reason: reason.to_owned(),
            full: true,
        }
    }

    #[test]
    fn a_service_fails_until_a_round_writes_or_removes_it() {
        let mut failed_writes = FailedWrites::new(event_recorder().0);
        assert_eq!(failed_writes.changed(), None);
        let round = Round::default();
        failed_writes.update(&round, vec![failed("a", "full"), failed("b", "full")]);
        let failures = failed_writes.changed().unwrap();
        assert_eq!((failures.ports, failures.services.len()), (2, 2));
        assert_eq!(failures.named[0].name, "a");
        failed_writes.update(&round, vec![failed("a", "full")]);
        assert_eq!(failed_writes.changed(), None, "nothing new");
        let round = Round {
            removed: vec![record("a"), record("b")],
            ..Round::default()
        };
        failed_writes.update(&round, vec![failed("b", "full")]);
        let names: Vec<_> = failed_writes
            .changed()
            .unwrap()
            .services
            .into_iter()
            .collect();
        assert_eq!(names, [ObjectName::new("default", "b")]);
    }

    #[test]
    fn a_service_that_keeps_failing_has_one_event_and_many_services_only_a_few() {
        let (recorder, mut events) = event_recorder();
        let mut failed_writes = FailedWrites::new(recorder);
        for _ in 0..3 {
            failed_writes.update(&Round::default(), vec![failed("a", "full")]);
        }
        assert_eq!(events.try_recv().unwrap().service.to_string(), "default/a");
        assert!(events.try_recv().is_err());
        let many = (0..100).map(|number| failed(&format!("s{number}"), "full"));
        failed_writes.update(&Round::default(), many.collect());
        let sent = std::iter::from_fn(|| events.try_recv().ok()).count();
        assert_eq!(sent, EVENTS - 1);
        // Those that were held back come when they fail again, and an old one once more.
        let later = Instant::now() + EVENT_WINDOW;
        failed_writes.send_event(ObjectName::new("default", "s99"), String::new, later);
        assert_eq!(
            events.try_recv().unwrap().service.to_string(),
            "default/s99"
        );
        failed_writes.send_event(ObjectName::new("default", "a"), String::new, later);
        assert!(events.try_recv().is_err());
        let later = Instant::now() + EVENT_PAUSE;
        failed_writes.send_event(ObjectName::new("default", "a"), String::new, later);
        assert!(events.try_recv().is_ok());
    }

    #[test]
    fn a_report_names_only_the_first_of_many() {
        let mut failed_writes = FailedWrites::new(event_recorder().0);
        let many = (0..100).map(|number| failed(&format!("s{number}"), "full"));
        failed_writes.update(&Round::default(), many.collect());
        let failures = failed_writes.changed().unwrap();
        assert_eq!((failures.ports, failures.services.len()), (100, 100));
        assert_eq!(failures.named.len(), NAMED);
    }
}
