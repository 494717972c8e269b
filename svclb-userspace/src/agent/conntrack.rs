//! Sweeps the flows from outside: those that are over, and those of UDP whose backend no longer
//! serves, so that their client's next datagram goes to another one. A TCP client notices by
//! itself that its backend is gone, so TCP flows end by time alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use svclb_core::conntrack::Timeouts;
use svclb_core::planner::Planner;
use svclb_core::serving::{ChangedServices, ServingIndex};
use svclb_dataplane::{Flows, Swept};
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{debug, warn};

use super::udp_changes::{UdpChanges, backend, frontend};

/// How often flows that are over are swept.
const SWEEP: Duration = Duration::from_secs(5);
/// The same while the map has little room left.
const SWEEP_UNDER_PRESSURE: Duration = Duration::from_secs(1);

/// Starts sweeps, and takes in what they found.
pub(super) struct Conntrack {
    flows: Arc<Flows>,
    timeouts: Timeouts,
    sweep: Option<Sweep>,
    pub(super) changes: UdpChanges,
    last: Option<Instant>,
    is_under_pressure: bool,
    /// Whether the last sweep failed, and that was logged.
    failing: bool,
}

/// A sweep on another thread.
struct Sweep {
    thread: JoinHandle<std::io::Result<Swept>>,
    /// The Services whose UDP flows are checked with what it finds.
    services: ChangedServices,
}

impl Conntrack {
    pub(super) fn new(flows: Flows, timeouts: Timeouts) -> Self {
        Self {
            flows: Arc::new(flows),
            timeouts,
            sweep: None,
            changes: UdpChanges::default(),
            last: None,
            is_under_pressure: false,
            failing: false,
        }
    }

    /// Starts a sweep if one is due. Call it at least every second.
    ///
    /// Time alone ends flows from the start of the agent on. Which backends serve is known once
    /// the agent is `ready`.
    pub(super) fn start(&mut self, ready: bool) {
        let pause = if self.is_under_pressure {
            SWEEP_UNDER_PRESSURE
        } else {
            SWEEP
        };
        let is_time = self.last.is_none_or(|last| last.elapsed() >= pause);
        let has_changes = ready && self.changes.is_due();
        if self.sweep.is_some() || !(has_changes || is_time) {
            return;
        }
        let services = if has_changes {
            self.changes.take_due()
        } else {
            ChangedServices::default()
        };
        self.last = Some(Instant::now());
        let (flows, timeouts) = (Arc::clone(&self.flows), self.timeouts);
        self.sweep = Some(Sweep {
            // Flows are returned only if there is something to check.
            thread: spawn_blocking(move || flows.sweep(&timeouts, has_changes)),
            services,
        });
    }

    /// Resolves when a sweep is done.
    pub(super) async fn next_completion(&mut self) -> std::io::Result<Swept> {
        match &mut self.sweep {
            Some(sweep) => {
                let swept = (&mut sweep.thread).await;
                // The thread panicked.
                swept.unwrap_or_else(|panic| Err(std::io::Error::other(panic)))
            }
            None => std::future::pending().await,
        }
    }

    /// Takes in what a sweep left, and removes flows whose backend no longer serves. Returns how
    /// many entries the map has, if that is known.
    pub(super) fn handle(
        &mut self,
        swept: std::io::Result<Swept>,
        planner: &Planner,
    ) -> Option<usize> {
        let services = self.sweep.take().map(|sweep| sweep.services);
        let services = services.unwrap_or_default();
        let result = swept.and_then(|mut swept| {
            let mut index = ServingIndex::new(planner);
            swept.udp.retain(|flow| {
                let (frontend, backend) = (frontend(flow.frontend), backend(flow.backend));
                !index.may_stay(&frontend, &backend, &services)
            });
            let stale = self.flows.remove(&swept.udp)?;
            if swept.removed + stale > 0 {
                debug!(
                    over = swept.removed,
                    stale, "flows from outside were removed"
                );
            }
            self.is_under_pressure = swept.is_under_pressure;
            Ok(swept.entries.saturating_sub(2 * stale))
        });
        match result {
            Ok(entries) => {
                self.failing = false;
                Some(entries)
            }
            Err(error) => {
                // The next sweep checks them.
                self.changes.request(services);
                if !std::mem::replace(&mut self.failing, true) {
                    warn!("flows from outside cannot be swept now: {error}");
                }
                None
            }
        }
    }
}
