//! What is in the maps, as far as the agent wrote it: the "current" of every diff.
//!
//! It is changed only after the map was, one operation at a time, so that after a failure
//! it is still what the maps hold. At start it is read back from them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use svclb_common::{
    BackendId, BackendValue, FrontendKey, FrontendValue, Generation, ServiceId, ServiceRecord,
    SlotIndex, SlotKey, SlotValue, SourceKey, SourceRange,
};

use crate::apply::Snapshot;
use crate::op::Op;
use crate::ports::PortSet;

/// What one generation of a service holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SlotSet {
    /// The backend at each position.
    pub backends: Vec<BackendId>,
    /// Whether each backend has a member row too.
    pub members: bool,
    /// The source ranges, in order.
    pub sources: Vec<SourceRange>,
}

/// A row of a generation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Row {
    /// In `SLOTS`.
    Slot(SlotIndex),
    /// In `SOURCES`.
    Source(SourceRange),
}

impl Row {
    /// None is before it.
    const FIRST: Self = Self::Slot(SlotIndex::position(0));

    /// The operation that takes it away.
    const fn delete(self, service: ServiceId, generation: Generation) -> Op {
        match self {
            Self::Slot(index) => Op::DeleteSlot(SlotKey {
                service,
                generation,
                index,
            }),
            Self::Source(range) => Op::DeleteSource(SourceKey::new(service, generation, range)),
        }
    }
}

impl SlotSet {
    /// All rows.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        let slots = self.slots().map(|(index, _, _)| Row::Slot(index));
        slots.chain(self.sources.iter().copied().map(Row::Source))
    }

    /// The rows in `SLOTS`: index and position, for every slot and member row.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (SlotIndex, u32, BackendId)> + '_ {
        self.backends
            .iter()
            .zip(0_u32..)
            .flat_map(|(&backend, position)| {
                let slot = (SlotIndex::position(position), position, backend);
                let member = (SlotIndex::member(backend), position, backend);
                [Some(slot), self.members.then_some(member)]
            })
            .flatten()
    }
}

/// One service id in the maps.
#[derive(Clone, Debug)]
pub(crate) struct ServiceImage {
    pub(crate) record: ServiceRecord,
    /// The frontends that name this service now.
    pub(crate) frontends: BTreeSet<FrontendKey>,
    /// The complete generations.
    pub(crate) sets: BTreeMap<Generation, SlotSet>,
    /// Rows of generations that are not complete: a crash or a full map left them.
    pub(crate) strays: BTreeSet<(Generation, Row)>,
    /// Since when nothing uses the id.
    unused_since: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct BackendImage {
    value: BackendValue,
    /// How many complete generations hold the backend.
    uses: u32,
    unused_since: Option<Duration>,
}

/// The rows that were found of one generation.
#[derive(Default)]
struct Rows {
    slots: BTreeMap<SlotIndex, SlotValue>,
    sources: BTreeSet<SourceRange>,
}

impl Rows {
    fn all(&self) -> impl Iterator<Item = Row> + '_ {
        let slots = self.slots.keys().copied().map(Row::Slot);
        slots.chain(self.sources.iter().copied().map(Row::Source))
    }
}

/// The maps' contents.
#[derive(Clone, Debug, Default)]
pub struct Image {
    services: BTreeMap<ServiceId, ServiceImage>,
    by_record: HashMap<ServiceRecord, ServiceId>,
    backends: HashMap<BackendId, BackendImage>,
    by_backend: HashMap<BackendValue, BackendId>,
    frontends: HashMap<FrontendKey, FrontendValue>,
    ports: PortSet,
    /// Services that may have rows which no frontend names.
    touched: BTreeSet<ServiceId>,
    /// Rows of ids that have no record.
    orphan_rows: BTreeSet<(ServiceId, Generation, Row)>,
    /// Frontends that name an id that has no record.
    orphan_frontends: BTreeMap<ServiceId, BTreeSet<FrontendKey>>,
}

impl Image {
    /// From what was read back.
    ///
    /// Two ids of one record, or of one backend: the lower is adopted and the other
    /// is left to be collected when nothing names it any more.
    pub fn adopt(snapshot: Snapshot) -> Self {
        let mut image = Self {
            ports: snapshot.ports,
            ..Self::default()
        };
        for (id, record) in snapshot.services {
            image.put_service(id, record);
        }
        for (id, value) in snapshot.backends {
            image.put_backend(id, value);
        }
        for (key, value) in snapshot.frontends {
            image.put_frontend(key, value);
        }
        let mut rows = BTreeMap::<_, Rows>::new();
        for (key, value) in snapshot.slots {
            let rows = rows.entry((key.service, key.generation)).or_default();
            rows.slots.insert(key.index, value);
        }
        for key in snapshot.sources {
            let source = key.source;
            let rows = rows.entry((source.service, source.generation)).or_default();
            rows.sources.insert(key.range());
        }
        for ((service, generation), rows) in rows {
            image.adopt_rows(service, generation, &rows);
        }
        image.touched = image.services.keys().copied().collect();
        image
    }

    fn adopt_rows(&mut self, service: ServiceId, generation: Generation, rows: &Rows) {
        let complete = self.complete_set(rows);
        let Some(owner) = self.services.get_mut(&service) else {
            let orphans = rows.all().map(|row| (service, generation, row));
            self.orphan_rows.extend(orphans);
            return;
        };
        match complete {
            Some(set) => {
                for id in &set.backends {
                    if let Some(backend) = self.backends.get_mut(id) {
                        backend.uses += 1;
                    }
                }
                owner.sets.insert(generation, set);
            }
            None => owner.strays.extend(rows.all().map(|row| (generation, row))),
        }
    }

    /// The set that the rows make, if they are exactly the rows of one and agree with `BACKENDS`.
    fn complete_set(&self, rows: &Rows) -> Option<SlotSet> {
        let mut set = SlotSet {
            sources: rows.sources.iter().copied().collect(),
            ..SlotSet::default()
        };
        for (index, value) in &rows.slots {
            match index.as_member() {
                None if index.get() as usize == set.backends.len() => {
                    set.backends.push(value.backend);
                }
                None => return None,
                Some(_) => set.members = true,
            }
        }
        let expected: BTreeMap<_, _> = set
            .slots()
            .map(|(index, position, id)| {
                let backend = self.backends.get(&id)?;
                Some((index, slot_value(id, backend.value, position)))
            })
            .collect::<Option<_>>()?;
        (expected == rows.slots).then_some(set)
    }

    /// Notes an operation that was performed. Rows of generations are strays until theirs is
    /// complete, by [`put_set`](Self::put_set), or gone.
    pub(crate) fn note(&mut self, op: &Op) {
        match op {
            Op::PutService(id, record) => self.put_service(*id, **record),
            Op::PutBackend(id, value) => self.put_backend(*id, *value),
            Op::PutFrontend(key, value) => self.put_frontend(*key, *value),
            Op::DeleteFrontend(key) => self.delete_frontend(key),
            Op::DeleteBackend(id) => self.delete_backend(*id),
            Op::DeleteService(id) => self.delete_service(*id),
            Op::SetPort(bit) => self.ports.insert(*bit),
            Op::ClearPort(bit) => self.ports.remove(*bit),
            Op::PutSlot(key, _) => {
                self.put_row(key.service, key.generation, Row::Slot(key.index));
            }
            Op::PutSource(key) => {
                let (service, generation) = (key.source.service, key.source.generation);
                self.put_row(service, generation, Row::Source(key.range()));
            }
            Op::DeleteSlot(key) => {
                self.delete_row(key.service, key.generation, Row::Slot(key.index));
            }
            Op::DeleteSource(key) => {
                let (service, generation) = (key.source.service, key.source.generation);
                self.delete_row(service, generation, Row::Source(key.range()));
            }
        }
    }

    fn put_row(&mut self, service: ServiceId, generation: Generation, row: Row) {
        match self.services.get_mut(&service) {
            Some(image) => {
                image.strays.insert((generation, row));
                self.touched.insert(service);
            }
            None => {
                self.orphan_rows.insert((service, generation, row));
            }
        }
    }

    fn delete_row(&mut self, service: ServiceId, generation: Generation, row: Row) {
        self.orphan_rows.remove(&(service, generation, row));
        if let Some(service) = self.services.get_mut(&service) {
            service.strays.remove(&(generation, row));
        }
    }

    fn put_service(&mut self, id: ServiceId, record: ServiceRecord) {
        self.by_record.entry(record).or_insert(id);
        self.services.entry(id).or_insert_with(|| ServiceImage {
            record,
            frontends: BTreeSet::new(),
            sets: BTreeMap::new(),
            strays: BTreeSet::new(),
            unused_since: None,
        });
    }

    fn put_backend(&mut self, id: BackendId, value: BackendValue) {
        self.by_backend.entry(value).or_insert(id);
        self.backends.entry(id).or_insert(BackendImage {
            value,
            uses: 0,
            unused_since: None,
        });
    }

    fn put_frontend(&mut self, key: FrontendKey, value: FrontendValue) {
        self.delete_frontend(&key);
        self.frontends.insert(key, value);
        match self.services.get_mut(&value.service) {
            Some(service) => {
                service.frontends.insert(key);
                service.unused_since = None;
            }
            None => {
                let orphans = self.orphan_frontends.entry(value.service).or_default();
                orphans.insert(key);
            }
        }
    }

    fn delete_frontend(&mut self, key: &FrontendKey) {
        let Some(value) = self.frontends.remove(key) else {
            return;
        };
        if let Some(service) = self.services.get_mut(&value.service) {
            service.frontends.remove(key);
            // The generation that it named may be named by no other.
            self.touched.insert(value.service);
        } else if let Some(orphans) = self.orphan_frontends.get_mut(&value.service) {
            orphans.remove(key);
            if orphans.is_empty() {
                self.orphan_frontends.remove(&value.service);
            }
        }
    }

    fn delete_backend(&mut self, id: BackendId) {
        if let Some(backend) = self.backends.remove(&id)
            && self.by_backend.get(&backend.value) == Some(&id)
        {
            self.by_backend.remove(&backend.value);
        }
    }

    fn delete_service(&mut self, id: ServiceId) {
        if let Some(service) = self.services.remove(&id)
            && self.by_record.get(&service.record) == Some(&id)
        {
            self.by_record.remove(&service.record);
        }
    }

    /// Notes that a generation is complete: what its rows were noted as before, and the
    /// use that it makes of its backends.
    pub(crate) fn put_set(&mut self, service: ServiceId, generation: Generation, set: SlotSet) {
        for id in &set.backends {
            if let Some(backend) = self.backends.get_mut(id) {
                backend.uses += 1;
                backend.unused_since = None;
            }
        }
        if let Some(service) = self.services.get_mut(&service) {
            for row in set.rows() {
                service.strays.remove(&(generation, row));
            }
            service.sets.insert(generation, set);
        }
    }

    /// What deletes every row that no frontend names, after a grace period. Rows stay known,
    /// and are returned again, until their deletion is [noted](Self::note).
    pub(crate) fn retire(&mut self) -> Vec<Op> {
        let orphans = self.orphan_rows.iter();
        // Readers may still use the rows of an id whose record was lost.
        let unnamed = orphans.filter(|(id, ..)| !self.orphan_frontends.contains_key(id));
        let mut rows: Vec<_> = unnamed
            .map(|(id, generation, row)| row.delete(*id, *generation))
            .collect();
        for id in std::mem::take(&mut self.touched) {
            let of_service = self.retire_service(id);
            if !of_service.is_empty() {
                self.touched.insert(id);
            }
            rows.extend(of_service);
        }
        rows
    }

    /// Whether what [`retire`](Self::retire) returned is still to be deleted.
    pub(crate) fn is_retired(&self, op: &Op) -> bool {
        let is_retired = |service, generation, row| {
            self.orphan_rows.contains(&(service, generation, row))
                || self
                    .services
                    .get(&service)
                    .is_some_and(|image| image.strays.contains(&(generation, row)))
        };
        match op {
            Op::DeleteSlot(key) => is_retired(key.service, key.generation, Row::Slot(key.index)),
            Op::DeleteSource(key) => is_retired(
                key.source.service,
                key.source.generation,
                Row::Source(key.range()),
            ),
            _ => false,
        }
    }

    /// Turns the generations of a service that no frontend names into strays, and returns what
    /// deletes all its strays.
    fn retire_service(&mut self, id: ServiceId) -> Vec<Op> {
        let Some(service) = self.services.get_mut(&id) else {
            return Vec::new();
        };
        let named: BTreeSet<_> = service
            .frontends
            .iter()
            .filter_map(|key| self.frontends.get(key))
            .map(|value| value.generation)
            .collect();
        service.sets.retain(|generation, set| {
            if named.contains(generation) {
                return true;
            }
            for id in &set.backends {
                if let Some(backend) = self.backends.get_mut(id) {
                    backend.uses = backend.uses.saturating_sub(1);
                }
            }
            service
                .strays
                .extend(set.rows().map(|row| (*generation, row)));
            false
        });
        let strays = service.strays.iter();
        strays
            .map(|(generation, row)| row.delete(id, *generation))
            .collect()
    }

    /// What deletes the rows of a generation that is not complete.
    pub(crate) fn unfinished_rows(&self, id: ServiceId, generation: Generation) -> Vec<Op> {
        let service = self.services.get(&id).into_iter();
        let rows = service.flat_map(|service| service.strays.range((generation, Row::FIRST)..));
        rows.take_while(|(of, _)| *of == generation)
            .map(|(_, row)| row.delete(id, generation))
            .collect()
    }

    /// Puts unused ids into quarantine, and returns those whose quarantine is over.
    ///
    /// `now` is any clock that only goes forward.
    pub(crate) fn quarantine(
        &mut self,
        now: Duration,
        quarantine: Duration,
    ) -> (Vec<BackendId>, Vec<ServiceId>) {
        let is_over = |since: &mut Option<Duration>, is_used: bool| {
            if is_used {
                *since = None;
                return false;
            }
            now.saturating_sub(*since.get_or_insert(now)) >= quarantine
        };
        let backends = self
            .backends
            .iter_mut()
            .filter_map(|(id, b)| is_over(&mut b.unused_since, b.uses > 0).then_some(*id))
            .collect();
        let services = self
            .services
            .iter_mut()
            .filter_map(|(id, s)| {
                let is_used = !s.frontends.is_empty() || !s.sets.is_empty() || !s.strays.is_empty();
                is_over(&mut s.unused_since, is_used).then_some(*id)
            })
            .collect();
        (backends, services)
    }

    /// The generation that a service writes next: none that any row still carries.
    pub(crate) fn next_generation(&self, id: ServiceId) -> Generation {
        let Some(service) = self.services.get(&id) else {
            return Generation::new(1);
        };
        let taken = |generation: Generation| {
            service.sets.contains_key(&generation)
                || service.strays.iter().any(|(stray, _)| *stray == generation)
                || service
                    .frontends
                    .iter()
                    .filter_map(|key| self.frontends.get(key))
                    .any(|value| value.generation == generation)
        };
        let newest = service
            .frontends
            .iter()
            .filter_map(|key| self.frontends.get(key))
            .map(|value| value.generation)
            .chain(
                service
                    .sets
                    .last_key_value()
                    .map(|(generation, _)| *generation),
            )
            .max()
            .unwrap_or_default();
        let mut next = newest;
        loop {
            next = Generation::new(next.get().wrapping_add(1));
            if next != Generation::EMPTY && !taken(next) {
                return next;
            }
        }
    }

    /// The services of which two images differ in what readers see: records, frontends and
    /// the slots of the generations that these name. Also those that exist in neither, and to
    /// which frontends of the other image lead.
    pub(crate) fn differing(&self, other: &Self) -> BTreeSet<ServiceId> {
        let ids = self.services.keys().chain(other.services.keys());
        let frontends = self.frontends.iter().chain(&other.frontends);
        let strangers = frontends
            .filter(|(key, _)| self.frontends.get(*key) != other.frontends.get(*key))
            .map(|(_, value)| value.service);
        ids.copied()
            .filter(|id| self.seen(*id) != other.seen(*id))
            .chain(strangers)
            .chain(other.orphan_frontends.keys().copied())
            .collect()
    }

    /// A service's record, and the sets that its frontends name.
    fn seen(&self, id: ServiceId) -> Option<(ServiceRecord, Vec<Option<&SlotSet>>)> {
        let service = self.services.get(&id)?;
        let values = service
            .frontends
            .iter()
            .filter_map(|key| self.frontends.get(key));
        let sets = values.map(|value| service.sets.get(&value.generation));
        Some((service.record, sets.collect()))
    }

    /// The frontends that name an id that has no record.
    pub(crate) fn orphan_frontends(&self) -> impl Iterator<Item = &FrontendKey> {
        self.orphan_frontends.values().flatten()
    }

    /// The id of a Service port, if it has one.
    pub fn service_id(&self, record: &ServiceRecord) -> Option<ServiceId> {
        self.by_record.get(record).copied()
    }

    /// The id of a backend, if it has one.
    pub fn backend_id(&self, value: &BackendValue) -> Option<BackendId> {
        self.by_backend.get(value).copied()
    }

    /// The backend of an id.
    pub fn backend(&self, id: BackendId) -> Option<BackendValue> {
        self.backends.get(&id).map(|backend| backend.value)
    }

    /// The bits of `PORTS`.
    pub(crate) const fn ports(&self) -> &PortSet {
        &self.ports
    }

    /// What a frontend leads to.
    pub fn frontend(&self, key: &FrontendKey) -> Option<&FrontendValue> {
        self.frontends.get(key)
    }

    /// The backends that have an id, also those whose id is in quarantine.
    pub(crate) fn backends(&self) -> impl Iterator<Item = (BackendId, BackendValue)> {
        let backends = self.backends.iter();
        backends.map(|(id, backend)| (*id, backend.value))
    }

    pub(crate) fn service(&self, id: ServiceId) -> Option<&ServiceImage> {
        self.services.get(&id)
    }

    /// The Service port that a frontend leads to.
    pub(crate) fn owner(&self, key: &FrontendKey) -> Option<(ServiceId, &ServiceRecord)> {
        let id = self.frontends.get(key)?.service;
        self.services.get(&id).map(|service| (id, &service.record))
    }

    /// The frontends that lead to a service.
    pub(crate) fn frontends_of(&self, id: ServiceId) -> impl Iterator<Item = &FrontendKey> {
        let service = self.services.get(&id);
        service.into_iter().flat_map(|service| &service.frontends)
    }

    /// The Service ports that have an id, also those whose id is in quarantine.
    pub fn records(&self) -> impl Iterator<Item = (ServiceId, &ServiceRecord)> {
        self.services
            .iter()
            .map(|(id, service)| (*id, &service.record))
    }

    /// How many entries each map has.
    pub fn fill(&self) -> Fill {
        let sets = || self.services.values().flat_map(|s| s.sets.values());
        let strays = self.services.values().flat_map(|s| &s.strays);
        let orphans = self.orphan_rows.iter().map(|(_, _, row)| row);
        let (slots, sources): (Vec<&Row>, Vec<&Row>) = strays
            .map(|(_, row)| row)
            .chain(orphans)
            .partition(|row| matches!(row, Row::Slot(_)));
        Fill {
            frontends: self.frontends.len(),
            slots: slots.len()
                + sets()
                    .map(|set| set.backends.len() << usize::from(set.members))
                    .sum::<usize>(),
            sources: sources.len() + sets().map(|set| set.sources.len()).sum::<usize>(),
            backends: self.backends.len(),
            services: self.services.len(),
        }
    }

    pub(crate) fn highest_ids(&self) -> (ServiceId, BackendId) {
        (
            self.services.keys().last().copied().unwrap_or_default(),
            self.backends.keys().max().copied().unwrap_or_default(),
        )
    }

    /// Whether a service id is taken: by a record, or by what was left without one.
    pub(crate) fn has_service(&self, id: u32) -> bool {
        let id = ServiceId::new(id);
        let rows = (id, Generation::EMPTY, Row::FIRST)..;
        self.services.contains_key(&id)
            || self.orphan_frontends.contains_key(&id)
            || self
                .orphan_rows
                .range(rows)
                .next()
                .is_some_and(|(owner, ..)| *owner == id)
    }

    pub(crate) fn has_backend(&self, id: u32) -> bool {
        self.backends.contains_key(&BackendId::new(id))
    }
}

/// How many entries the planned maps have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fill {
    /// `FRONTENDS`.
    pub frontends: usize,
    /// `SLOTS`.
    pub slots: usize,
    /// `SOURCES`.
    pub sources: usize,
    /// `BACKENDS`.
    pub backends: usize,
    /// `SERVICES`.
    pub services: usize,
}

/// The row of a backend at a position.
pub(crate) const fn slot_value(id: BackendId, backend: BackendValue, position: u32) -> SlotValue {
    SlotValue {
        addr: backend.addr,
        backend: id,
        position,
        port: backend.port,
        locality: backend.locality,
        reserved: 0,
    }
}
