//! What /healthz and /livez say.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::Serialize;
use svclb_source::Status;

/// The agent's health. A clone is another handle to the same.
#[derive(Clone)]
pub(crate) struct Health {
    state: Arc<Mutex<State>>,
    source: Status,
}

#[derive(Default)]
struct State {
    ready: bool,
    reason: Option<String>,
    updated: Option<Timestamp>,
}

/// The body of /healthz, with the fields that kube-proxy has.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) last_updated: String,
    pub(crate) current_time: String,
    pub(crate) node_eligible: bool,
    pub(crate) healthy: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    pub(crate) source_connected: bool,
}

impl Health {
    pub(crate) fn new(source: Status) -> Self {
        Self {
            state: Arc::default(),
            source,
        }
    }

    /// The maps are as they should be, but for what `reason` says.
    pub(crate) fn synced(&self, ready: bool, reason: Option<String>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.ready = ready;
        state.reason = reason;
        state.updated = Some(Timestamp::now());
    }

    pub(crate) fn report(&self) -> Report {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Timestamp::now();
        let healthy = state.ready && state.reason.is_none();
        Report {
            // When healthy, nothing waits to be written: the maps are up to date now.
            last_updated: if healthy {
                now
            } else {
                state.updated.unwrap_or(Timestamp::UNIX_EPOCH)
            }
            .to_string(),
            current_time: now.to_string(),
            node_eligible: true,
            healthy,
            reason: match (&state.reason, state.ready) {
                (Some(reason), _) => Some(reason.clone()),
                (None, true) => None,
                (None, false) => Some("the first full sync is not done".to_owned()),
            },
            source_connected: self.source.connected(),
        }
    }
}
