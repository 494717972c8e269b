//! What /healthz and /livez report.

mod check_ports;
mod failed_writes;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use check_ports::{CheckPorts, all_addresses};
pub(crate) use failed_writes::FailedWrites;
use jiff::Timestamp;
use serde::Serialize;
use svclb_core::model::Node;
use svclb_core::plan::ineligible;
use svclb_source::Status;
use tracing::{info, warn};

const UNKNOWN: &str = "there is no Node of this name; --node-name has to be that of a Node";

/// The agent's health. A clone is another handle to the same.
#[derive(Clone)]
pub(crate) struct Health {
    state: Arc<Mutex<State>>,
    source: Status,
    needs_node: bool,
}

#[derive(Default)]
struct State {
    ready: bool,
    reason: Option<String>,
    ineligible: Option<&'static str>,
    updated: Option<Timestamp>,
}

/// The body of /healthz and /livez, with the fields that kube-proxy has.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) last_updated: String,
    pub(crate) current_time: String,
    /// Whether load balancers may send this node traffic; /livez has nothing to do with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node_eligible: Option<bool>,
    pub(crate) healthy: bool,
    /// What is wrong, with the proxy or with the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    pub(crate) source_connected: bool,
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
    fn is_healthy(&self) -> bool {
        self.ready && self.reason.is_none()
    }
}

impl Health {
    /// `needs_node`: whether a node without a Node object is not eligible.
    pub(crate) fn new(source: Status, needs_node: bool) -> Self {
        Self {
            state: Arc::default(),
            source,
            needs_node,
        }
    }

    /// The maps are as they should be, but for what `reason` says, and this node is like
    /// this, if that is known.
    pub(crate) fn synced(&self, ready: bool, reason: Option<String>, node: Option<&Node>) {
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
        state.reason = reason;
        // Before the first full sync the node may only not be known yet.
        state.ineligible = ineligible.filter(|_| ready);
        state.updated = Some(Timestamp::now());
    }

    /// Whether the maps are as they should be, whatever becomes of the node.
    pub(crate) fn is_healthy(&self) -> bool {
        self.lock().is_healthy()
    }

    /// What /healthz says: of the proxy and of the node.
    pub(crate) fn of_node(&self) -> Report {
        let ineligible = self.lock().ineligible;
        let report = self.of_proxy();
        Report {
            node_eligible: Some(ineligible.is_none()),
            reason: report.reason.or_else(|| ineligible.map(str::to_owned)),
            ..report
        }
    }

    /// What /livez says: of the proxy alone.
    pub(crate) fn of_proxy(&self) -> Report {
        let state = self.lock();
        let now = Timestamp::now();
        let healthy = state.is_healthy();
        // When healthy, nothing waits to be written: the maps are up to date now.
        let last_updated = if healthy {
            now
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
            current_time: now.to_string(),
            node_eligible: None,
            healthy,
            reason: match (&state.reason, state.ready) {
                (Some(reason), _) => Some(reason.clone()),
                (None, true) => None,
                (None, false) => Some("the first full sync is not done".to_owned()),
            },
            source_connected: self.source.connected(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
