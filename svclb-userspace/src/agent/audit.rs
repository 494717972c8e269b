//! Compares maps, pins and programs with what they should be, and repairs what differs: a deleted
//! element, a removed pin, a detached program, the writes of another program.

use std::time::{Duration, Instant};

use svclb_core::serving::ChangedServices;
use svclb_dataplane::{Attachment, OpenError};
use tracing::warn;

use super::run::Agent;

/// When the next audit is due.
pub(super) struct AuditSchedule {
    interval: Duration,
    /// When the last one was; `None` if one was asked for.
    last: Option<Instant>,
}

impl AuditSchedule {
    /// The first audit is an interval from now.
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            last: Some(Instant::now()),
        }
    }

    /// Makes an audit due now.
    pub(super) const fn request(&mut self) {
        self.last = None;
    }

    fn is_due(&self) -> bool {
        self.last.is_none_or(|last| last.elapsed() >= self.interval)
    }
}

impl Agent {
    /// Whether an audit waits for the end of a grace period. No other one may begin until it has
    /// run, so that a node on which something changes all the time is audited as well.
    pub(super) fn is_audit_due(&self) -> bool {
        self.ready && self.audit_schedule.is_due()
    }

    /// Audits if that is due and no grace period is under way. An audit that finds a difference
    /// replaces what the writer knows by what is in the maps, and entries that are about to be
    /// deleted must not be among that.
    pub(super) fn audit_if_due(&mut self) -> anyhow::Result<()> {
        if !self.is_audit_due() || self.reconciler.is_in_grace_period() {
            return Ok(());
        }
        self.audit_schedule.last = Some(Instant::now());
        self.verify_maps();
        self.verify_pins()?;
        self.verify_device_table();
        self.verify_programs();
        // Whatever was missed: all UDP flows are checked once more.
        self.conntrack
            .schedule
            .changes
            .request(ChangedServices::all());
        Ok(())
    }

    fn verify_maps(&mut self) {
        match self.reconciler.verify() {
            Ok(drift) if drift.total() == 0 => {}
            Ok(drift) => {
                warn!(
                    services = drift.services,
                    backends = drift.backends,
                    ports = drift.ports,
                    "the maps were not as svclb left them; what differs is written again"
                );
                self.metrics.drifted(drift.total());
            }
            Err(error) => warn!(
                services = error.drift.services,
                backends = error.drift.backends,
                ports = error.drift.ports,
                "the maps cannot be compared with what was written, or not all be repaired now: {error}"
            ),
        }
    }

    fn verify_pins(&mut self) -> anyhow::Result<()> {
        match self.dataplane.pin_again() {
            Ok(0) => {}
            Ok(pins) => {
                warn!(
                    pins,
                    "pins were removed; they are there again, and nothing was detached"
                );
                self.metrics.drifted(pins);
            }
            // Two agents would undo each other's writes.
            Err(error @ OpenError::PinLock(_)) => return Err(error.into()),
            Err(error) => warn!("what is not pinned cannot be pinned again: {error}"),
        }
        Ok(())
    }

    fn verify_device_table(&self) {
        let (entries, result) = self.node_context.verify_device_table();
        if entries > 0 {
            warn!(
                entries,
                "entries of the map DEVICES were changed by others; they are written again"
            );
            self.metrics.drifted(entries);
        }
        if let Err(error) = result {
            warn!("the map DEVICES cannot be compared or repaired: {error}");
        }
    }

    fn verify_programs(&mut self) {
        let mut missing = self.node_context.sync_devices(&mut self.dataplane, true);
        match self.dataplane.attach() {
            Ok(attached) => {
                let is_new = |how: &&Attachment| matches!(how, Attachment::New(_));
                missing += attached.iter().filter(is_new).count();
            }
            Err(error) => warn!("the programs cannot be attached again: {error}"),
        }
        if missing > 0 {
            warn!(
                programs = missing,
                "programs were detached; they are attached again"
            );
            self.metrics.drifted(missing);
        }
    }
}
