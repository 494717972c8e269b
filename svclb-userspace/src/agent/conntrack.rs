//! Flows from outside: those that are over are swept, and those of UDP whose backend no longer
//! serves are removed, so that their client's next datagram goes to another one. TCP has its own
//! ways to find out, and is never touched.

use std::sync::Arc;
use std::time::{Duration, Instant};

use svclb_core::conntrack::Timeouts;
use svclb_core::planner::Planner;
use svclb_dataplane::{Flow, Flows};
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{debug, warn};

use super::udp_backends::{Changes, backend, frontend};

/// How often flows that are over are swept.
const SWEEP: Duration = Duration::from_secs(5);

type Swept = std::io::Result<(Vec<Flow>, usize)>;

/// The sweeper.
pub(super) struct Conntrack {
    flows: Arc<Flows>,
    timeouts: Timeouts,
    working: Option<JoinHandle<Swept>>,
    pub(super) changes: Changes,
    swept: Option<Instant>,
    failing: bool,
}

impl Conntrack {
    pub(super) fn new(flows: Flows, timeouts: Timeouts) -> Self {
        Self {
            flows: Arc::new(flows),
            timeouts,
            working: None,
            changes: Changes::default(),
            swept: None,
            failing: false,
        }
    }

    /// Starts a sweep if one is due. Call it at least every second, once everything is known
    /// that there is.
    pub(super) fn start(&mut self) {
        let is_old = self.swept.is_none_or(|swept| swept.elapsed() >= SWEEP);
        if self.working.is_some() || !(self.changes.is_due() || is_old) {
            return;
        }
        self.changes.set_due(false);
        self.swept = Some(Instant::now());
        let (flows, timeouts) = (Arc::clone(&self.flows), self.timeouts);
        self.working = Some(spawn_blocking(move || flows.sweep(&timeouts)));
    }

    /// Resolves when a sweep is done.
    pub(super) async fn happens(&mut self) -> Swept {
        let swept = match &mut self.working {
            Some(working) => working.await,
            None => std::future::pending().await,
        };
        self.working = None;
        // A thread that panicked: the next sweep does its work.
        swept.unwrap_or_else(|_panic| Ok((Vec::new(), 0)))
    }

    /// Takes in what a sweep left, and removes what must not be.
    pub(super) fn take(&mut self, swept: Swept, planner: &Planner) {
        let result = swept.and_then(|(mut flows, over)| {
            flows.retain(|flow| !planner.serves(&frontend(flow.frontend), &backend(flow.backend)));
            let stale = self.flows.remove(&flows)?;
            if over + stale > 0 {
                debug!(over, stale, "flows from outside were removed");
            }
            Ok(())
        });
        match result {
            Ok(()) => self.failing = false,
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    warn!("flows from outside cannot be swept now: {error}");
                }
            }
        }
    }
}
