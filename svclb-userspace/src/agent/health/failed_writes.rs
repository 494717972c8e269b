//! Services that could not be written to the maps: each is logged, reported by health, a metric
//! and an Event, and written again after a while.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::Serialize;
use svclb_common::ServiceRecord;
use svclb_core::event_limit::EventLimit;
use svclb_core::model::{ObjectKey, ObjectName};
use svclb_core::planner::Round;
use svclb_core::writer::Failed;
use svclb_source::{EventRecorder, KubeEvent};
use tracing::{error, info};

/// How long until a failed write is tried again.
const RETRY: Duration = Duration::from_secs(5);
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
    /// When they are written again. Only a retry moves it, so that rounds of other Services do
    /// not put it off. `None` if nothing fails.
    retry_at: Option<Instant>,
    /// Whether the reasons changed since they were last [taken](Self::changed).
    has_changed: bool,
    event_recorder: EventRecorder,
    event_limit: EventLimit,
}

impl FailedWrites {
    /// `node_name` spreads the Events of many nodes over time.
    pub(crate) fn new(event_recorder: EventRecorder, node_name: &str) -> Self {
        Self {
            reasons: BTreeMap::new(),
            retry_at: None,
            has_changed: false,
            event_recorder,
            event_limit: EventLimit::new(node_name),
        }
    }

    /// Takes a round's outcome in: what of the round did not fail is up to date.
    pub(crate) fn update(&mut self, round: &Round, failed: Vec<Failed>, now: Instant) {
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
                now,
            );
        }
        if before > 0 && self.reasons.is_empty() {
            info!("every Service is up to date again");
        }
        if self.reasons.is_empty() {
            self.retry_at = None;
        } else {
            self.retry_at.get_or_insert(now + RETRY);
        }
    }

    /// Sends an Event about a Service unless there were enough. One that is held back is sent
    /// when the write fails again.
    fn send_event(&mut self, service: ObjectName, note: impl FnOnce() -> String, now: Instant) {
        let regarding = ObjectKey::Service(service);
        if !self.event_limit.allows(&regarding, now) {
            return;
        }
        let event = KubeEvent {
            regarding: regarding.clone(),
            uid: None,
            reason: "FailedToWriteService",
            action: "Write",
            note: note(),
        };
        if self.event_recorder.try_send(event).is_ok() {
            self.event_limit.sent(regarding, now);
        }
    }

    /// The Service ports to write again now. The next retry is a while after this one.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<ServiceRecord> {
        if self.retry_at.is_none_or(|at| now < at) {
            return Vec::new();
        }
        self.retry_at = Some(now + RETRY);
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

    fn key(name: &str) -> ObjectKey {
        ObjectKey::Service(ObjectName::new("default", name))
    }

    #[test]
    fn a_service_fails_until_a_round_writes_or_removes_it() {
        let now = Instant::now();
        let mut failed_writes = FailedWrites::new(event_recorder().0, "node1");
        assert_eq!(failed_writes.changed(), None);
        let round = Round::default();
        failed_writes.update(&round, vec![failed("a", "full"), failed("b", "full")], now);
        let failures = failed_writes.changed().unwrap();
        assert_eq!((failures.ports, failures.services.len()), (2, 2));
        assert_eq!(failures.named[0].name, "a");
        failed_writes.update(&round, vec![failed("a", "full")], now);
        assert_eq!(failed_writes.changed(), None, "nothing new");
        let round = Round {
            removed: vec![record("a"), record("b")],
            ..Round::default()
        };
        failed_writes.update(&round, vec![failed("b", "full")], now);
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
        let now = Instant::now();
        let mut failed_writes = FailedWrites::new(recorder, "node1");
        for _ in 0..3 {
            failed_writes.update(&Round::default(), vec![failed("a", "full")], now);
        }
        assert_eq!(events.try_recv().unwrap().regarding, key("a"));
        assert!(events.try_recv().is_err());
        let many = (0..100).map(|number| failed(&format!("s{number}"), "full"));
        failed_writes.update(&Round::default(), many.collect(), now);
        let sent = std::iter::from_fn(|| events.try_recv().ok()).count();
        assert_eq!(sent, 9, "one of the ten was sent before");
    }

    #[test]
    fn an_event_that_does_not_fit_the_queue_is_sent_when_the_write_fails_again() {
        let (recorder, mut events) = event_recorder();
        while recorder
            .try_send(KubeEvent {
                regarding: key("other"),
                uid: None,
                reason: "",
                action: "",
                note: String::new(),
            })
            .is_ok()
        {}
        let now = Instant::now();
        let mut failed_writes = FailedWrites::new(recorder, "node1");
        failed_writes.update(&Round::default(), vec![failed("a", "full")], now);
        while events.try_recv().is_ok() {}
        failed_writes.update(&Round::default(), vec![failed("a", "full")], now + RETRY);
        assert_eq!(events.try_recv().unwrap().regarding, key("a"));
    }

    #[test]
    fn rounds_of_other_services_do_not_put_off_the_retry() {
        let now = Instant::now();
        let mut failed_writes = FailedWrites::new(event_recorder().0, "node1");
        assert!(failed_writes.due(now).is_empty(), "nothing failed");
        failed_writes.update(&Round::default(), vec![failed("a", "full")], now);
        let other = Round {
            removed: vec![record("other")],
            ..Round::default()
        };
        let mut retries = Vec::new();
        for second in 1..=12 {
            let now = now + Duration::from_secs(second);
            failed_writes.update(&other, Vec::new(), now);
            if failed_writes.due(now) == [record("a")] {
                retries.push(second);
                // The retry fails as well, and does not move the next one.
                failed_writes.update(&Round::default(), vec![failed("a", "full")], now);
            }
        }
        assert_eq!(retries, [5, 10]);
        let written = Round {
            removed: vec![record("a")],
            ..Round::default()
        };
        failed_writes.update(&written, Vec::new(), now);
        assert!(failed_writes.due(now + RETRY * 10).is_empty());
    }

    #[test]
    fn a_report_names_only_the_first_of_many() {
        let now = Instant::now();
        let mut failed_writes = FailedWrites::new(event_recorder().0, "node1");
        let many = (0..100).map(|number| failed(&format!("s{number}"), "full"));
        failed_writes.update(&Round::default(), many.collect(), now);
        let failures = failed_writes.changed().unwrap();
        assert_eq!((failures.ports, failures.services.len()), (100, 100));
        assert_eq!(failures.named.len(), NAMED);
    }
}
