//! Brings the maps to what the source's objects ask for: rounds of plans, their writes, and the
//! deletion of what these leave behind after a grace period.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Context;
use svclb_common::{FrontendKey, Scope, ServiceRecord};
use svclb_core::image::Fill;
use svclb_core::log_once::LogOnce;
use svclb_core::model::Event;
use svclb_core::planner::{Conflict, Planner, Round};
use svclb_core::writer::{AuditError, Drift, QUARANTINE, Retired, Writer};
use svclb_dataplane::{Dataplane, GracePeriod, KernelMaps};
use svclb_source::EventRecorder;
use tokio::task::JoinHandle;
use tracing::{debug, error, info, warn};

use super::health::FailedWrites;

/// How many Services are planned and written in one round. The loop takes in events, signals and
/// the ends of grace periods between two rounds; before the first full sync it only writes.
const ROUND: usize = 1024;

/// The planner, the only writer of the planned maps, and what is under way between them.
pub(super) struct Reconciler {
    pub(super) planner: Planner,
    pub(super) failed_writes: FailedWrites,
    writer: Writer<KernelMaps>,
    grace_period: GracePeriod,
    waiting: Option<Waiting>,
    /// Whether the bits of `PORTS` that nothing needs are to be cleared after the next grace period.
    clears_ports: bool,
    /// Whether the last deletion of retired slots failed, and that was logged.
    collect_failed: bool,
    /// Log lines about conflicts and health checks.
    pub(super) log_once: LogOnce,
    started: Instant,
}

/// A grace period that has begun, and what may be deleted after it.
struct Waiting {
    end: JoinHandle<std::io::Result<()>>,
    retired: Retired,
    clears_ports: bool,
}

/// A round that was written.
pub(super) struct Committed {
    pub(super) round: Round,
    /// How many map operations it took.
    pub(super) writes: usize,
    pub(super) took: Duration,
}

impl Reconciler {
    /// Adopts what is in the maps.
    pub(super) fn new(
        dataplane: &Dataplane,
        node_name: &str,
        event_recorder: EventRecorder,
        started: Instant,
    ) -> anyhow::Result<Self> {
        let maps = dataplane.maps()?;
        let grace_period = maps.grace();
        let writer = Writer::adopt(maps, dataplane.port_rules())
            .context("the pinned maps cannot be read back")?;
        let fill = writer.fill();
        if fill.frontends > 0 {
            info!(
                frontends = fill.frontends,
                slots = fill.slots,
                "adopted what is in the maps; it goes on being served"
            );
        }
        Ok(Self {
            planner: Planner::new(node_name),
            failed_writes: FailedWrites::new(event_recorder, node_name),
            writer,
            grace_period,
            waiting: None,
            clears_ports: false,
            collect_failed: false,
            log_once: LogOnce::default(),
            started,
        })
    }

    /// How many entries the planned maps have.
    pub(super) fn fill(&self) -> Fill {
        self.writer.fill()
    }

    /// Takes a batch of the source's events in.
    pub(super) fn observe(&mut self, batch: Vec<Event>) {
        for event in batch {
            self.planner.observe(event);
        }
    }

    /// Plans the next round of changed Services. [`commit`](Self::commit) writes it.
    pub(super) fn next_round(&mut self) -> Option<Round> {
        self.planner.next_round(ROUND)
    }

    /// The frontends of a round that are not in the maps and that packets may be for.
    pub(super) fn new_frontends(&self, round: &Round) -> BTreeSet<FrontendKey> {
        let image = self.writer.image();
        let frontends = round.plans.iter().flat_map(|plan| &plan.frontends);
        frontends
            .map(|frontend| frontend.key)
            .filter(|key| key.scope == Scope::ANY && !key.is_other_ports())
            .filter(|key| image.frontend(key).is_none())
            .collect()
    }

    /// Writes a round.
    pub(super) fn commit(&mut self, round: Round) -> Committed {
        let begun = Instant::now();
        let report = self.writer.commit(&round);
        let took = begun.elapsed();
        for conflict in &round.conflicts {
            log_conflict(conflict, &mut self.log_once, self.started.elapsed());
        }
        self.failed_writes
            .update(&round, report.failed, Instant::now());
        Committed {
            round,
            writes: report.performed,
            took,
        }
    }

    /// Removes every Service port that is in the maps and not in `wanted`.
    pub(super) fn remove_others(&mut self, wanted: &BTreeSet<ServiceRecord>) {
        for failed in self.writer.remove_others(wanted).failed {
            error!(service = %failed.record, "cannot be removed: {}", failed.reason);
            self.planner.retry(failed.record);
        }
    }

    /// Begins a grace period if something waits for one and none is under way; `None` if one is
    /// under way already, else whether there is one now.
    pub(super) fn begin_grace_period(&mut self) -> Option<bool> {
        if self.waiting.is_some() {
            return None;
        }
        let retired = self.writer.retire();
        if retired.is_empty() && !self.clears_ports {
            return Some(false);
        }
        let grace_period = self.grace_period.clone();
        self.waiting = Some(Waiting {
            end: tokio::task::spawn_blocking(move || grace_period.wait()),
            retired,
            clears_ports: std::mem::take(&mut self.clears_ports),
        });
        Some(true)
    }

    /// Whether a grace period is under way: the maps hold entries that are about to be deleted.
    pub(super) const fn is_in_grace_period(&self) -> bool {
        self.waiting.is_some()
    }

    /// Resolves at the end of the grace period that is under way.
    pub(super) async fn grace_period_end(&mut self) -> std::io::Result<()> {
        match &mut self.waiting {
            Some(waiting) => (&mut waiting.end).await.map_err(std::io::Error::other)?,
            None => std::future::pending().await,
        }
    }

    /// Deletes what was retired before the grace period that ended.
    pub(super) fn collect(&mut self, ended: std::io::Result<()>) {
        let Some(waiting) = self.waiting.take() else {
            return;
        };
        let has_passed = ended.is_ok();
        let result = match ended {
            Ok(()) => self.writer.collect(waiting.retired).map_err(Into::into),
            // What was retired is retired again.
            Err(error) => Err(anyhow::Error::from(error)),
        };
        match result {
            Ok(_) => self.collect_failed = false,
            // They stay in the maps, where no frontend refers to them, and are tried again.
            Err(error) if !std::mem::replace(&mut self.collect_failed, true) => {
                warn!("old slots cannot be deleted now: {error:#}");
            }
            Err(_) => {}
        }
        if waiting.clears_ports && has_passed {
            self.clear_ports();
        }
    }

    /// The programs of before are replaced: the bits of `PORTS` that nothing needs may be cleared
    /// after a grace period.
    pub(super) const fn programs_replaced(&mut self) {
        self.clears_ports = true;
    }

    fn clear_ports(&mut self) {
        match self.writer.clear_ports() {
            Ok(bits) => debug!(bits, "bits of PORTS that nothing needs are cleared"),
            // They cost a look-up for each packet with these ports. The next start clears them.
            Err(error) => warn!("bits of PORTS that nothing needs cannot be cleared: {error}"),
        }
    }

    /// Compares the maps with what was written to them, and plans everything again if they
    /// differ.
    pub(super) fn verify(&mut self) -> Result<Drift, AuditError> {
        let audited = self.writer.audit();
        let drift = match &audited {
            Ok(drift) => drift,
            Err(error) => &error.drift,
        };
        if drift.services > 0 {
            self.planner.retry_all();
            self.remove_others(&self.planner.wanted());
        }
        audited
    }

    /// Frees ids whose quarantine is over, and plans Services again whose writes failed a while
    /// ago.
    pub(super) fn tick(&mut self) {
        if let Err(error) = self.writer.free(self.started.elapsed(), QUARANTINE) {
            warn!("ids cannot be freed now: {error}");
        }
        for record in self.failed_writes.due(Instant::now()) {
            self.planner.retry(record);
        }
    }

    /// Logs a committed round.
    pub(super) fn log(committed: &Committed) {
        if committed.writes > 0 {
            debug!(
                services = committed.round.plans.len() + committed.round.removed.len(),
                writes = committed.writes,
                microseconds = committed.took.as_micros(),
                "written"
            );
        }
    }
}

fn log_conflict(conflict: &Conflict, log_once: &mut LogOnce, now: Duration) {
    let Conflict {
        frontend, waiting, ..
    } = conflict;
    match &conflict.holder {
        Some(holder) => {
            let line = format!(
                "Service {waiting} waits for {frontend}, which the older Service {holder} has"
            );
            if log_once.first(&line, now) {
                warn!("{line}");
            }
        }
        None => {
            let line = format!("Service {waiting} no longer waits for {frontend}");
            if log_once.first(&line, now) {
                info!("{line}");
            }
        }
    }
}
