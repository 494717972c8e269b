//! Performs rounds on the maps, and collects what they leave behind.
//!
//! ```text
//! commit ──► retire ──► (a grace period passes) ──► collect ──► (quarantine) ──► free
//! ```
//! [`Writer::commit`] makes a round visible to readers and returns at once. What readers
//! may still hold is handed out by [`Writer::retire`]; after a grace period that began
//! after that call, [`Writer::collect`] deletes it. [`Writer::free`] frees the ids whose
//! quarantine is over. Stopping anywhere is safe: the next start adopts what it finds. So is a
//! failure: what a round could not do, a later one does, and a Service that does not fit takes no
//! room from others.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use svclb_common::ServiceRecord;

use crate::apply::{Failure, Maps, Snapshot};
use crate::backlog::Backlog;
use crate::diff::{Change, Differ};
use crate::failures::Failures;
use crate::ids::Ids;
use crate::image::{Fill, Image};
use crate::op::{Op, Phase};
use crate::planner::Round;
use crate::ports::{PortRules, PortSet};

/// How long an id stays taken after its last use, so that nothing which still holds it
/// (conntrack, affinity) can mean another's.
pub const QUARANTINE: Duration = Duration::from_secs(60);

/// The most operations that are spelled out at once; bounds memory, not correctness.
const CHUNK: usize = 8192;

/// What a change does before any reader can see it.
const PREPARATION: [Phase; 5] = [
    Phase::TakeServices,
    Phase::TakeBackends,
    Phase::SetPorts,
    Phase::FillSlots,
    Phase::FillSources,
];

/// A Service port whose change was not made. What it was before goes on being served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failed {
    /// Whose.
    pub record: ServiceRecord,
    /// Why.
    pub reason: String,
    /// Whether it was for want of room in a map.
    pub full: bool,
}

/// What a round did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// How many operations were performed.
    pub performed: usize,
    /// Service ports that could not be brought up to date.
    pub failed: Vec<Failed>,
}

/// What an audit found otherwise than it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Drift {
    /// Service ids whose record, frontends or slots differ.
    pub services: usize,
    /// Rows of `BACKENDS` that were missing or changed, and were written again.
    pub backends: usize,
    /// Bits of `PORTS` that were cleared, and were set again.
    pub ports: usize,
}

impl Drift {
    /// How many things there were to repair.
    pub const fn total(self) -> usize {
        self.services + self.backends + self.ports
    }
}

/// Why an audit did not repair all that it found.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct AuditError {
    /// What it found. If a service differs, everything has to be planned again.
    pub drift: Drift,
    source: io::Error,
}

/// Rows that no new reader can find, and that a reader of before may still be using. Where no
/// grace period can pass, it is dropped: the rows are retired again.
#[derive(Debug, Default)]
#[must_use = "retired rows stay in the maps until they are collected"]
pub struct Retired(Vec<Op>);

impl Retired {
    /// Whether there is nothing to collect.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The only writer of the planned maps.
pub struct Writer<M> {
    maps: M,
    image: Image,
    service_ids: Ids,
    backend_ids: Ids,
    backlog: Backlog,
    port_rules: PortRules,
}

impl<M: Maps> Writer<M> {
    /// Reads the maps back and treats what is in them as current. The bits of `PORTS` that are
    /// needed, by what is in the maps and by flows, are set where they are not. None is cleared:
    /// programs of before may run on, and open flows by other rules
    /// ([`clear_ports`](Self::clear_ports)).
    ///
    /// # Errors
    /// When the maps cannot be read, or a bit cannot be set.
    pub fn adopt(mut maps: M, port_rules: PortRules) -> io::Result<Self> {
        let snapshot = maps.snapshot()?;
        let needed = needed_ports(&mut maps, &port_rules, &snapshot)?;
        let missing: Vec<_> = needed
            .difference(&snapshot.ports)
            .map(Op::SetPort)
            .collect();
        let mut writer = Self::holding(maps, Image::adopt(snapshot), port_rules);
        writer.perform_all(&missing)?;
        Ok(writer)
    }

    /// Clears the bits of `PORTS` that nothing needs: neither what is in the maps, nor flows. Only
    /// after a grace period that began after the last program of before was replaced: such a one
    /// opens flows that need bits which these [`PortRules`] do not. How many were cleared.
    ///
    /// # Errors
    /// When the maps cannot be read, or a bit cannot be cleared.
    pub fn clear_ports(&mut self) -> io::Result<usize> {
        let snapshot = self.maps.snapshot()?;
        let needed = needed_ports(&mut self.maps, &self.port_rules, &snapshot)?;
        let unneeded: Vec<_> = self
            .image
            .ports()
            .difference(&needed)
            .map(Op::ClearPort)
            .collect();
        self.perform_all(&unneeded)?;
        Ok(unneeded.len())
    }

    fn holding(maps: M, image: Image, port_rules: PortRules) -> Self {
        let (service, backend) = image.highest_ids();
        Self {
            maps,
            service_ids: Ids::after(service.get()),
            backend_ids: Ids::after(backend.get()),
            image,
            backlog: Backlog::default(),
            port_rules,
        }
    }

    /// What is in the maps.
    pub const fn image(&self) -> &Image {
        &self.image
    }

    /// The maps themselves.
    pub const fn maps(&mut self) -> &mut M {
        &mut self.maps
    }

    /// How full the planned maps are.
    pub fn fill(&self) -> Fill {
        self.image.fill()
    }

    /// What a round would write: nothing is changed but the ids that it reserves.
    pub fn diff(&mut self, round: &Round) -> (Vec<Change>, Vec<Failed>) {
        let mut backlog = self.backlog.clone();
        self.plan(round, &mut backlog)
    }

    fn plan(&mut self, round: &Round, backlog: &mut Backlog) -> (Vec<Change>, Vec<Failed>) {
        let image = &self.image;
        let rules = &self.port_rules;
        let mut differ = Differ::new(image, rules, &mut self.service_ids, &mut self.backend_ids);
        let mut changes = Vec::new();
        let mut failed = Vec::new();
        for plan in &round.plans {
            match differ.upsert(plan) {
                Ok(change) => changes.push(change),
                Err(error) => failed.push(Failed {
                    record: plan.record,
                    reason: error.to_string(),
                    full: true,
                }),
            }
        }
        let removed = round.removed.iter();
        changes.extend(removed.filter_map(|record| differ.remove(record)));
        backlog.plan(round, &mut changes, image);
        (changes, failed)
    }

    /// Compares the maps with what was written to them. Records and backends of ids, and bits of
    /// `PORTS`, are written again at once; for everything else the maps are believed, and if a
    /// service differs, everything has to be planned again to repair it. Only while nothing is
    /// retired and not collected.
    ///
    /// # Errors
    /// When the maps cannot be read, or what is written at once cannot be: with the drift, of which
    /// the same holds. What could not be written, the next audit finds again.
    pub fn audit(&mut self) -> Result<Drift, AuditError> {
        let mut found = self.maps.snapshot().map_err(|source| AuditError {
            drift: Drift::default(),
            source,
        })?;
        let mut restored = Vec::new();
        let mut services = BTreeSet::new();
        for (id, record) in self.image.records() {
            if found.services.get(&id) != Some(record) {
                restored.push(Op::PutService(id, Box::new(*record)));
                found.services.insert(id, *record);
                services.insert(id);
            }
        }
        let mut backends = 0;
        for (id, value) in self.image.backends() {
            if found.backends.get(&id) != Some(&value) {
                restored.push(Op::PutBackend(id, value));
                found.backends.insert(id, value);
                backends += 1;
            }
        }
        let cleared: Vec<_> = self.image.ports().difference(&found.ports).collect();
        restored.extend(cleared.iter().copied().map(Op::SetPort));
        found.ports.extend(cleared.iter().copied());
        let mut result = self.perform_all(&restored);
        let found = Image::adopt(found);
        services.extend(self.image.differing(&found));
        let drift = Drift {
            services: services.len(),
            backends,
            ports: cleared.len(),
        };
        if drift.services > 0 {
            self.image = found;
            self.backlog.forget_drops();
            let orphans = self.orphan_frontends();
            let removed = self.perform_all(&orphans);
            result = result.and(removed);
        }
        result
            .map(|()| drift)
            .map_err(|source| AuditError { drift, source })
    }

    /// Removes every frontend that leads to no Service port of `wanted`, which are all that there
    /// should be: what was deleted while no agent ran. Only after the source is synced, and after
    /// all that is wanted was planned. A frontend that another Service port is to take over, whose
    /// write failed, stays.
    pub fn remove_others(&mut self, wanted: &BTreeSet<ServiceRecord>) -> Report {
        self.backlog.drop_others(wanted, &self.image);
        // Where it fails, the next audit finds them.
        let orphans = self.orphan_frontends();
        let _failure = self.perform_all(&orphans);
        let changes = self.backlog.outstanding(&self.image).collect();
        self.perform(changes, Vec::new())
    }

    /// What deletes the frontends that name an id without a record: none of ours leads there.
    fn orphan_frontends(&self) -> Vec<Op> {
        let orphans = self.image.orphan_frontends();
        orphans.copied().map(Op::DeleteFrontend).collect()
    }

    /// Makes a round visible to readers.
    pub fn commit(&mut self, round: &Round) -> Report {
        let mut backlog = std::mem::take(&mut self.backlog);
        let (changes, failed) = self.plan(round, &mut backlog);
        self.backlog = backlog;
        self.perform(changes, failed)
    }

    fn perform(&mut self, changes: Vec<Change>, failed: Vec<Failed>) -> Report {
        let mut report = Report {
            performed: 0,
            failed,
        };
        let mut failures = Failures::default();
        let all: Vec<_> = (0..changes.len()).collect();
        for phase in PREPARATION {
            self.perform_phase(phase, &changes, &all, &mut failures, &mut report);
        }
        // One by one: what fails in the last phase has taken nothing from the next.
        for index in failures.take_retries(&changes) {
            for phase in PREPARATION {
                self.perform_phase(phase, &changes, &[index], &mut failures, &mut report);
            }
        }
        self.note_sets(&changes, &failures);
        for phase in [Phase::FlipFrontends, Phase::DropFrontends] {
            if phase == Phase::DropFrontends {
                let failed = failures.changes().filter_map(|index| changes.get(index));
                failed.for_each(|change| self.backlog.keep(change.id, &self.image));
            }
            self.perform_phase(phase, &changes, &all, &mut failures, &mut report);
        }
        let failed = failures.into_changes();
        report.failed.extend(failed.filter_map(|(index, failure)| {
            Some(Failed {
                record: changes.get(index)?.record,
                full: failure.full,
                reason: failure.to_string(),
            })
        }));
        report
    }

    /// One phase of the changes of these numbers, in chunks, leaving out those that failed.
    fn perform_phase(
        &mut self,
        phase: Phase,
        changes: &[Change],
        numbers: &[usize],
        failures: &mut Failures,
        report: &mut Report,
    ) {
        let mut ops = Vec::new();
        let mut owners = Vec::new();
        for &index in numbers {
            let Some(change) = changes.get(index).filter(|_| !failures.contains(index)) else {
                continue;
            };
            let more = change.ops(phase);
            owners.extend(std::iter::repeat_n(index, more.len()));
            ops.extend(more);
            if ops.len() >= CHUNK {
                self.perform_chunk(changes, &mut ops, &mut owners, failures, report);
            }
        }
        self.perform_chunk(changes, &mut ops, &mut owners, failures, report);
    }

    fn perform_chunk(
        &mut self,
        changes: &[Change],
        ops: &mut Vec<Op>,
        owners: &mut Vec<usize>,
        failures: &mut Failures,
        report: &mut Report,
    ) {
        while let Some(phase) = ops.first().map(Op::phase) {
            let (done, failure) = match self.maps.perform(ops) {
                Ok(()) => (ops.len(), None),
                Err(failure) => (failure.done.min(ops.len()), Some(failure)),
            };
            for op in ops.drain(..done) {
                self.note(&op);
            }
            owners.drain(..done);
            report.performed += done;
            if let Some(failure) = failure {
                let Some(&owner) = owners.first() else { return };
                if PREPARATION.contains(&phase) {
                    report.performed += self.undo(owner, changes, failures);
                }
                failures.insert(owner, failure);
                let mut others = owners.iter().map(|other| *other != owner);
                ops.retain(|_| others.next().unwrap_or(false));
                owners.retain(|other| *other != owner);
            }
        }
    }

    /// Deletes at once what a change that fails has newly written, so that it takes no room from
    /// others. How many operations that took.
    fn undo(&mut self, change: usize, changes: &[Change], failures: &mut Failures) -> usize {
        let ops = failures.undo(change, changes, &self.image);
        // What stays is retired, or put into quarantine, like all that nothing uses.
        let (done, _result) = self.perform_in_order(&ops);
        if done > 0 {
            failures.made_room();
        }
        done
    }

    fn note_sets(&mut self, changes: &[Change], failures: &Failures) {
        for (index, change) in changes.iter().enumerate() {
            if let Some(new) = &change.fill
                && !failures.contains(index)
            {
                self.image
                    .put_set(change.id, new.generation, new.set.clone());
            }
        }
    }

    /// Hands out what no new reader can find. Everything committed before this call counts.
    pub fn retire(&mut self) -> Retired {
        let mut rows = self.image.retire();
        rows.sort_by_key(Op::phase);
        Retired(rows)
    }

    /// Deletes retired rows. A grace period must have begun after they were retired, and
    /// have ended.
    ///
    /// # Errors
    /// [`Failure`]; the next [`retire`](Self::retire) hands out again what is left.
    pub fn collect(&mut self, retired: Retired) -> Result<usize, Failure> {
        let Retired(mut rows) = retired;
        rows.retain(|row| self.image.is_retired(row));
        let (done, result) = self.perform_in_order(&rows);
        result.map(|()| done)
    }

    /// Frees ids that were in quarantine for that long. Call it now and then: the quarantine of an
    /// id begins at the first call that finds it unused. `now` is any clock that only goes forward.
    ///
    /// # Errors
    /// [`Failure`]; what is left is tried again by the next call.
    pub fn free(&mut self, now: Duration, quarantine: Duration) -> Result<usize, Failure> {
        let (backends, services) = self.image.quarantine(now, quarantine);
        let backends = backends.into_iter().map(Op::DeleteBackend);
        let services = services.into_iter().map(Op::DeleteService);
        let ids: Vec<_> = backends.chain(services).collect();
        let (done, result) = self.perform_in_order(&ids);
        result.map(|()| done)
    }

    /// Performs operations phase by phase as they stand. How many were, and what kept the others.
    fn perform_in_order(&mut self, ops: &[Op]) -> (usize, Result<(), Failure>) {
        let mut all = 0;
        let phases = ops.chunk_by(|a, b| a.phase() == b.phase());
        for chunk in phases.flat_map(|phase| phase.chunks(CHUNK)) {
            let result = self.maps.perform(chunk);
            let done = result
                .as_ref()
                .err()
                .map_or(chunk.len(), |failure| failure.done);
            for op in chunk.iter().take(done) {
                self.note(op);
            }
            all += done;
            if result.is_err() {
                return (all, result);
            }
        }
        (all, Ok(()))
    }

    /// Performs operations, or fails.
    fn perform_all(&mut self, ops: &[Op]) -> io::Result<()> {
        let (_, result) = self.perform_in_order(ops);
        result.map_err(|failure| io::Error::new(failure.source.kind(), failure.to_string()))
    }

    fn note(&mut self, op: &Op) {
        self.image.note(op);
        self.backlog.note(op);
    }

    /// Waits for a grace period and collects, in one go: for callers that have nothing
    /// else to do meanwhile.
    ///
    /// # Errors
    /// The system's error.
    pub fn settle(&mut self) -> io::Result<usize> {
        let retired = self.retire();
        if retired.is_empty() {
            return Ok(0);
        }
        self.maps.grace_period()?;
        self.collect(retired)
            .map_err(|failure| io::Error::new(failure.source.kind(), failure.to_string()))
    }
}

/// The bits of `PORTS` that these contents of the maps and the flows of now need.
fn needed_ports(
    maps: &mut impl Maps,
    port_rules: &PortRules,
    snapshot: &Snapshot,
) -> io::Result<PortSet> {
    // Read after the snapshot: no flow begins that needs a bit which nothing in it needs.
    let mut needed = maps.flow_ports()?;
    let of_maps = port_rules.needed(&snapshot.frontends, &snapshot.slots);
    needed.extend(of_maps.iter());
    Ok(needed)
}
