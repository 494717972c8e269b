//! Flows from outside: those that are over are swept, and those of UDP whose backend no longer
//! serves are removed, so that their client's next datagram goes to another one. TCP has its own
//! ways to find out, and is never touched.

use std::sync::Arc;
use std::time::{Duration, Instant};

use svclb_core::conntrack::Timeouts;
use svclb_core::planner::Planner;
use svclb_dataplane::{Flows, Swept};
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{debug, warn};

use super::udp_changes::{Changes, backend, frontend};

/// How often flows that are over are swept.
const SWEEP: Duration = Duration::from_secs(5);
/// The same while there is little room for others.
const SWEEP_UNDER_PRESSURE: Duration = Duration::from_secs(1);

type Sweep = std::io::Result<Swept>;

/// The sweeper.
pub(super) struct Conntrack {
    flows: Arc<Flows>,
    timeouts: Timeouts,
    working: Option<JoinHandle<Sweep>>,
    pub(super) changes: Changes,
    swept: Option<Instant>,
    is_under_pressure: bool,
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
            is_under_pressure: false,
            failing: false,
        }
    }

    /// Starts a sweep if one is due. Call it at least every second, once everything is known
    /// that there is.
    pub(super) fn start(&mut self) {
        let pause = if self.is_under_pressure {
            SWEEP_UNDER_PRESSURE
        } else {
            SWEEP
        };
        let is_old = self.swept.is_none_or(|swept| swept.elapsed() >= pause);
        if self.working.is_some() || !(self.changes.is_due() || is_old) {
            return;
        }
        self.changes.set_due(false);
        self.swept = Some(Instant::now());
        let (flows, timeouts) = (Arc::clone(&self.flows), self.timeouts);
        self.working = Some(spawn_blocking(move || flows.sweep(&timeouts)));
    }

    /// Resolves when a sweep is done.
    pub(super) async fn next_completion(&mut self) -> Sweep {
        let swept = match &mut self.working {
            Some(working) => working.await,
            None => std::future::pending().await,
        };
        self.working = None;
        // A thread that panicked: the next sweep does its work.
        swept.unwrap_or_else(|_panic| Ok(Swept::default()))
    }

    /// Takes in what a sweep left, and removes what must not be. How many entries are in the
    /// map, if that is known.
    pub(super) fn handle(&mut self, swept: Sweep, planner: &Planner) -> Option<usize> {
        let result = swept.and_then(|mut swept| {
            swept
                .datagrams
                .retain(|flow| !planner.serves(&frontend(flow.frontend), &backend(flow.backend)));
            let stale = self.flows.remove(&swept.datagrams)?;
            if swept.removed + stale > 0 {
                debug!(
                    over = swept.removed,
                    stale, "flows from outside were removed"
                );
            }
            self.is_under_pressure = swept.is_pressed;
            Ok(swept.entries.saturating_sub(2 * stale))
        });
        match result {
            Ok(entries) => {
                self.failing = false;
                Some(entries)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    warn!("flows from outside cannot be swept now: {error}");
                }
                None
            }
        }
    }
}
