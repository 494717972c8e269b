//! Whether this node can serve what it was given, as `/healthz`, `/livez`, `/readyz` and the
//! health check ports of Services report it.
//!
//! A Service that cannot be written makes the node no less healthy. All nodes plan the same, so
//! each of them would leave every load balancer for the fault of one Service. It is named in the
//! report, in a metric and in an Event, and its own health check port answers 503.

mod check_ports;
mod failed_writes;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use check_ports::{CheckPorts, all_addresses};
pub(crate) use failed_writes::{FailedService, FailedWrites, Failures};
use jiff::Timestamp;
use serde::Serialize;
use svclb_core::model::{Node, ObjectName};
use svclb_core::plan::ineligible;
use svclb_source::Status;
use tracing::{info, warn};

const UNKNOWN: &str = "there is no Node of this name; --node-name has to be that of a Node";
const NOT_READY: &str = "the first full sync is not done";
const HANGS: &str = "the agent's loop has not run for a minute";

/// How long the agent's loop may take for one step. kube-proxy is unhealthy when a change waits
/// for longer than twice its sync period, which is 30 s.
const LOOP_LIMIT: Duration = Duration::from_secs(60);

/// The agent's health. A clone is another handle to the same.
#[derive(Clone)]
pub(crate) struct Health {
    state: Arc<Mutex<State>>,
    source: Status,
    needs_node: bool,
}

struct State {
    ready: bool,
    failures: Failures,
    ineligible: Option<&'static str>,
    /// When all changes were last written, at or after the first full sync.
    updated: Option<Timestamp>,
    /// When the loop last made a step.
    step: Instant,
}

/// The body of `/healthz`, `/livez` and `/readyz`, with the fields that kube-proxy has.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    /// RFC 3339. As with kube-proxy: now if the proxy is healthy, else when all changes were last
    /// written, and 1970 before the first full sync.
    pub(crate) last_updated: String,
    /// RFC 3339.
    pub(crate) current_time: String,
    /// Whether load balancers may send this node traffic; only in `/healthz`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node_eligible: Option<bool>,
    /// Whether the first full sync is done and the agent's loop runs.
    pub(crate) healthy: bool,
    /// Why the proxy is not healthy, or the node not eligible.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// Whether every watch of the API server stands and it answers, or the folder is there.
    pub(crate) source_connected: bool,
    /// RFC 3339: when the API server last said something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source_last_heard: Option<String>,
    /// How many Service ports could not be written. They make the node no less healthy.
    pub(crate) failed_service_ports: usize,
    /// The first Services that these belong to.
    pub(crate) failed_services: Vec<FailedService>,
    /// By family. One set of maps serves both, so that both are always alike.
    pub(crate) status: BTreeMap<&'static str, FamilyReport>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FamilyReport {
    pub(crate) last_updated: String,
    pub(crate) healthy: bool,
}

impl State {
    fn hangs(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.step) >= LOOP_LIMIT
    }

    /// Why the proxy is not healthy; `None` if it is.
    fn reason(&self, now: Instant) -> Option<&'static str> {
        if self.hangs(now) {
            Some(HANGS)
        } else {
            (!self.ready).then_some(NOT_READY)
        }
    }
}

impl Health {
    /// `needs_node`: whether a node without a Node object is not eligible.
    pub(crate) fn new(source: Status, needs_node: bool) -> Self {
        let state = State {
            ready: false,
            failures: Failures::default(),
            ineligible: None,
            updated: None,
            step: Instant::now(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            source,
            needs_node,
        }
    }

    /// The agent's loop made a step.
    pub(crate) fn step(&self, now: Instant) {
        self.lock().step = now;
    }

    /// Writes failed, or no longer fail.
    pub(crate) fn set_failures(&self, failures: Failures) {
        self.lock().failures = failures;
    }

    /// Everything that changed was written.
    pub(crate) fn up_to_date(&self) {
        let mut state = self.lock();
        // Before the first full sync the maps hold what an earlier agent wrote.
        if state.ready {
            state.updated = Some(Timestamp::now());
        }
    }

    /// `ready`: whether the first full sync is done. `node` is this node's object, if it is
    /// known.
    pub(crate) fn update(&self, ready: bool, node: Option<&Node>) {
        let ineligible = match node {
            Some(node) => ineligible(node),
            None => self.needs_node.then_some(UNKNOWN),
        };
        let mut state = self.lock();
        if ready && state.ineligible != ineligible {
            match ineligible {
                Some(why) => warn!("/healthz turns load balancers away: {why}"),
                None => info!("/healthz no longer turns load balancers away"),
            }
        }
        state.ready = ready;
        // Before the first full sync the Node object may not have arrived yet.
        state.ineligible = ineligible.filter(|_| ready);
    }

    /// Whether the node can serve this Service: the proxy is healthy, and the Service's last write
    /// did not fail.
    pub(crate) fn can_serve(&self, service: &ObjectName, now: Instant) -> bool {
        let state = self.lock();
        state.reason(now).is_none() && !state.failures.services.contains(service)
    }

    /// Whether the first full sync is in the maps.
    pub(crate) fn is_ready(&self) -> bool {
        self.lock().ready
    }

    /// Whether the agent's loop runs. If not, a restart of the agent helps.
    pub(crate) fn is_live(&self, now: Instant) -> bool {
        !self.lock().hangs(now)
    }

    /// What `/healthz` reports: the proxy and the node.
    pub(crate) fn of_node(&self, now: Instant) -> Report {
        let ineligible = self.lock().ineligible;
        let report = self.of_proxy(now);
        Report {
            node_eligible: Some(ineligible.is_none()),
            reason: report.reason.or_else(|| ineligible.map(str::to_owned)),
            ..report
        }
    }

    /// What `/livez` and `/readyz` report: the proxy alone.
    pub(crate) fn of_proxy(&self, now: Instant) -> Report {
        let state = self.lock();
        let reason = state.reason(now);
        let current = Timestamp::now();
        let last_heard = self.source.last_heard();
        let last_heard = last_heard.and_then(|at| Timestamp::try_from(at).ok());
        let healthy = reason.is_none();
        // A healthy loop is about to write what waits, if anything does.
        let last_updated = if healthy {
            current
        } else {
            state.updated.unwrap_or(Timestamp::UNIX_EPOCH)
        };
        let last_updated = last_updated.to_string();
        let family = |name| {
            let last_updated = last_updated.clone();
            let report = FamilyReport {
                last_updated,
                healthy,
            };
            (name, report)
        };
        Report {
            status: ["IPv4", "IPv6"].map(family).into(),
            last_updated,
            current_time: current.to_string(),
            node_eligible: None,
            healthy,
            reason: reason.map(str::to_owned),
            source_connected: self.source.connected(),
            source_last_heard: last_heard.map(|at| at.to_string()),
            failed_service_ports: state.failures.ports,
            failed_services: state.failures.named.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failures(name: &str) -> Failures {
        Failures {
            ports: 1,
            services: [ObjectName::new("default", name)].into(),
            named: vec![FailedService {
                namespace: "default".to_owned(),
                name: name.to_owned(),
                reason: "FRONTENDS is full".to_owned(),
            }],
        }
    }

    #[test]
    fn a_service_that_cannot_be_written_is_named_and_turns_only_itself_away() {
        let now = Instant::now();
        let health = Health::new(Status::default(), false);
        health.update(true, None);
        health.set_failures(failures("large"));
        health.update(true, None);
        let report = health.of_node(now);
        assert!(report.healthy && report.node_eligible == Some(true));
        assert_eq!(report.reason, None);
        let body = serde_json::to_value(&report).unwrap();
        assert_eq!(body["failedServicePorts"], 1);
        assert_eq!(body["failedServices"][0]["name"], "large");
        assert!(health.is_live(now) && health.is_ready());
        assert!(!health.can_serve(&ObjectName::new("default", "large"), now));
        assert!(health.can_serve(&ObjectName::new("default", "other"), now));
        health.set_failures(Failures::default());
        assert!(health.can_serve(&ObjectName::new("default", "large"), now));
    }

    #[test]
    fn nothing_is_served_before_the_first_full_sync() {
        let now = Instant::now();
        let health = Health::new(Status::default(), false);
        health.update(false, None);
        assert!(health.is_live(now) && !health.is_ready());
        assert!(!health.can_serve(&ObjectName::new("default", "web"), now));
        let report = health.of_node(now);
        assert!(!report.healthy);
        assert_eq!(report.reason.as_deref(), Some(NOT_READY));
    }

    #[test]
    fn a_loop_that_hangs_is_neither_live_nor_healthy_until_it_runs_again() {
        let health = Health::new(Status::default(), false);
        health.update(true, None);
        let mut now = Instant::now();
        assert!(health.is_live(now));
        now += LOOP_LIMIT * 2;
        assert!(!health.is_live(now) && !health.of_node(now).healthy);
        assert!(!health.can_serve(&ObjectName::new("default", "web"), now));
        health.step(now);
        assert!(health.is_live(now) && health.of_node(now).healthy);
    }

    #[test]
    fn the_last_update_is_the_last_one_that_was_complete_after_the_first_full_sync() {
        let epoch = Timestamp::UNIX_EPOCH.to_string();
        let health = Health::new(Status::default(), false);
        health.update(false, None);
        health.up_to_date();
        let now = Instant::now();
        assert_eq!(
            health.of_proxy(now).last_updated,
            epoch,
            "nothing was synced"
        );
        health.update(true, None);
        health.up_to_date();
        let report = health.of_proxy(now);
        assert_eq!(report.last_updated, report.current_time);
        // A loop that hangs writes nothing.
        let hangs = health.of_proxy(now + LOOP_LIMIT * 2);
        assert!(hangs.last_updated != epoch && hangs.last_updated < hangs.current_time);
    }
}
