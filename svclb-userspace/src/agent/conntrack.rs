//! Sweeps the flows from outside: those that are over, and those of UDP whose backend no longer
//! serves, so that their client's next datagram goes to another one. A TCP client notices by
//! itself that its backend is gone, so TCP flows end by time alone.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use svclb_core::conntrack::Timeouts;
use svclb_core::log_once::LogOnce;
use svclb_core::planner::Planner;
use svclb_core::serving::{ChangedServices, ServingIndex};
use svclb_dataplane::{BusyBackend, Flows, Swept};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tracing::{debug, warn};

use super::udp_changes::{UdpChanges, backend, frontend};

/// How often flows that are over are swept.
const SWEEP: Duration = Duration::from_secs(5);
/// The same while the map has little room left.
const SWEEP_UNDER_PRESSURE: Duration = Duration::from_secs(1);

/// The least time between two sweeps, also if there was a change: each reads the whole map.
const CHANGE_PAUSE: Duration = Duration::from_millis(500);

/// Starts sweeps, and takes in what they found.
pub(super) struct Conntrack {
    flows: Arc<Flows>,
    timeouts: Timeouts,
    /// How many source ports there are for each backend.
    source_ports: u32,
    started: Instant,
    log_once: LogOnce,
    working: Option<Working>,
    pub(super) schedule: SweepSchedule,
}

/// What runs on another thread.
enum Working {
    Sweep(JoinHandle<io::Result<Swept>>),
    /// Removes flows that a sweep found.
    Remove(JoinHandle<io::Result<usize>>, Left),
}

/// What a sweep removed and left, without the flows.
#[derive(Clone, Copy)]
pub(super) struct Left {
    removed: usize,
    entries: usize,
    is_under_pressure: bool,
}

/// What ended.
pub(super) enum Done {
    Swept(io::Result<Swept>),
    Removed(io::Result<usize>, Left),
    /// The pause before a sweep that is due.
    Paused,
}

/// When there is a sweep, and what it is about.
#[derive(Default)]
pub(super) struct SweepSchedule {
    pub(super) changes: UdpChanges,
    /// The Services whose UDP flows are checked with what the sweep under way finds.
    checked: ChangedServices,
    /// Whether it is known which backends serve.
    is_ready: bool,
    /// When the last sweep ended.
    ended: Option<Instant>,
    is_under_pressure: bool,
    /// Whether the last sweep failed, and that was logged.
    failing: bool,
}

impl SweepSchedule {
    fn has_changes(&self) -> bool {
        self.is_ready && self.changes.is_due()
    }

    /// How long until the next sweep. After one that failed, a change does not hasten it.
    fn pause(&self, now: Instant) -> Duration {
        let pause = if self.has_changes() && !self.failing {
            CHANGE_PAUSE
        } else if self.is_under_pressure {
            SWEEP_UNDER_PRESSURE
        } else {
            SWEEP
        };
        self.ended.map_or(Duration::ZERO, |ended| {
            pause.saturating_sub(now.saturating_duration_since(ended))
        })
    }

    /// Begins a sweep: returns whether flows are checked with it.
    fn begin(&mut self) -> bool {
        let has_changes = self.has_changes();
        if has_changes {
            self.checked = self.changes.take_due();
        }
        has_changes
    }

    /// The sweep ended well.
    fn succeed(&mut self, is_under_pressure: bool, now: Instant) {
        self.checked = ChangedServices::default();
        self.is_under_pressure = is_under_pressure;
        self.failing = false;
        self.ended = Some(now);
    }

    /// The sweep failed: the next one checks what it had to. Returns whether that is new.
    fn fail(&mut self, now: Instant) -> bool {
        self.changes.request(std::mem::take(&mut self.checked));
        self.ended = Some(now);
        !std::mem::replace(&mut self.failing, true)
    }
}

impl Conntrack {
    pub(super) fn new(flows: Flows, timeouts: Timeouts, source_ports: u32) -> Self {
        Self {
            flows: Arc::new(flows),
            timeouts,
            source_ports,
            started: Instant::now(),
            log_once: LogOnce::default(),
            working: None,
            schedule: SweepSchedule::default(),
        }
    }

    /// Starts a sweep if one is due. Call it at least every second.
    ///
    /// Time alone ends flows from the start of the agent on. Which backends serve is known once
    /// the agent is `ready`.
    pub(super) fn start(&mut self, ready: bool, now: Instant) {
        self.schedule.is_ready = ready;
        if self.working.is_some() || !self.schedule.pause(now).is_zero() {
            return;
        }
        // Flows are returned only if there is something to check.
        let with_udp = self.schedule.begin();
        let (flows, timeouts) = (Arc::clone(&self.flows), self.timeouts);
        let sweep = spawn_blocking(move || flows.sweep(&timeouts, with_udp));
        self.working = Some(Working::Sweep(sweep));
    }

    /// Resolves when what runs is done, or a sweep for a change may start.
    pub(super) async fn next_completion(&mut self) -> Done {
        let done = match &mut self.working {
            Some(Working::Sweep(sweep)) => Done::Swept(flatten(sweep.await)),
            Some(Working::Remove(remove, left)) => Done::Removed(flatten(remove.await), *left),
            None if self.schedule.has_changes() => {
                tokio::time::sleep(self.schedule.pause(Instant::now())).await;
                return Done::Paused;
            }
            None => std::future::pending().await,
        };
        self.working = None;
        done
    }

    /// Takes in what ended: starts the removal of flows whose backend no longer serves. Returns
    /// how many entries the map has, if that is known now.
    pub(super) fn handle(&mut self, done: Done, planner: &Planner, now: Instant) -> Option<usize> {
        let (left, stale) = match done {
            Done::Paused => return None,
            Done::Swept(Ok(mut swept)) => {
                self.say_if_ports_are_scarce(swept.busiest, now);
                let left = Left {
                    removed: swept.removed,
                    entries: swept.entries,
                    is_under_pressure: swept.is_under_pressure,
                };
                let mut index = ServingIndex::new(planner);
                swept.udp.retain(|flow| {
                    let (frontend, backend) = (frontend(flow.frontend), backend(flow.backend));
                    !index.may_stay(&frontend, &backend, &self.schedule.checked)
                });
                if !swept.udp.is_empty() {
                    let flows = Arc::clone(&self.flows);
                    let remove = spawn_blocking(move || flows.remove(&swept.udp));
                    self.working = Some(Working::Remove(remove, left));
                    return None;
                }
                (left, 0)
            }
            Done::Removed(Ok(stale), left) => (left, stale),
            Done::Swept(Err(error)) | Done::Removed(Err(error), _) => {
                if self.schedule.fail(now) {
                    warn!("flows from outside cannot be swept now: {error}");
                }
                return None;
            }
        };
        if left.removed + stale > 0 {
            debug!(
                over = left.removed,
                stale, "flows from outside were removed"
            );
        }
        self.schedule.succeed(left.is_under_pressure, now);
        Some(left.entries.saturating_sub(2 * stale))
    }

    /// Warns where a backend has nearly as many connections as there are source ports.
    fn say_if_ports_are_scarce(&mut self, busiest: Option<BusyBackend>, now: Instant) {
        let Some(busiest) = busiest.filter(|busiest| are_scarce(busiest.ports, self.source_ports))
        else {
            return;
        };
        let BusyBackend {
            ports,
            backend,
            proto,
        } = busiest;
        let since_start = now.saturating_duration_since(self.started);
        if self
            .log_once
            .first(&format!("{proto} {backend}"), since_start)
        {
            warn!(
                "{ports} of {} source ports are in use for connections to {backend} ({proto}), and \
                 further ones will be dropped (drop_no_port); give a larger --source-ports, or the \
                 Service more backends",
                self.source_ports
            );
        }
    }
}

/// Whether so many of the source ports are in use that there will soon be none.
const fn are_scarce(in_use: u32, source_ports: u32) -> bool {
    in_use.saturating_mul(10) >= source_ports.saturating_mul(9)
}

/// A thread that panicked is an error like another.
fn flatten<T>(result: Result<io::Result<T>, JoinError>) -> io::Result<T> {
    result.unwrap_or_else(|panic| Err(io::Error::other(panic)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule() -> SweepSchedule {
        SweepSchedule {
            is_ready: true,
            ..SweepSchedule::default()
        }
    }

    #[test]
    fn ports_are_scarce_from_nine_tenths_on() {
        assert!(are_scarce(9900, 11_000));
        assert!(!are_scarce(9899, 11_000));
    }

    #[test]
    fn a_check_that_failed_is_due_again_and_waits_for_the_next_sweep() {
        let now = Instant::now();
        let mut schedule = schedule();
        schedule.changes.request(ChangedServices::all());
        assert_eq!(schedule.pause(now), Duration::ZERO);
        assert!(schedule.begin() && !schedule.has_changes());
        assert!(schedule.fail(now), "it is logged");
        assert!(schedule.has_changes(), "it is forgotten");
        assert_eq!(schedule.pause(now), SWEEP);
        assert_eq!(schedule.pause(now + SWEEP), Duration::ZERO);
        assert!(schedule.begin());
        assert!(!schedule.fail(now + SWEEP), "it is logged once");
        assert_eq!(schedule.pause(now + SWEEP), SWEEP);
        assert!(schedule.begin());
        schedule.succeed(false, now);
        assert!(!schedule.has_changes());
    }

    #[test]
    fn changes_hasten_a_sweep_to_half_a_second_after_the_last() {
        let now = Instant::now();
        let mut schedule = schedule();
        assert!(!schedule.begin());
        schedule.succeed(false, now);
        assert_eq!(schedule.pause(now), SWEEP);
        schedule.changes.request(ChangedServices::all());
        assert_eq!(schedule.pause(now), CHANGE_PAUSE);
        assert_eq!(schedule.pause(now + CHANGE_PAUSE), Duration::ZERO);
        // Which backends serve is not known yet.
        schedule.is_ready = false;
        assert_eq!(schedule.pause(now), SWEEP);
        assert!(!schedule.begin());
    }

    #[test]
    fn a_map_with_little_room_is_swept_more_often() {
        let now = Instant::now();
        let mut schedule = schedule();
        schedule.begin();
        schedule.succeed(true, now);
        assert_eq!(schedule.pause(now), SWEEP_UNDER_PRESSURE);
    }
}
