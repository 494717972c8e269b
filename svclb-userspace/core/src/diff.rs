//! Desired against current: which writes a Service port needs.
//!
//! Pure. What comes out is a [`Change`]: complete enough to be performed phase by phase
//! without looking anything up again, and small enough that the changes of ten thousand
//! Services fit in memory (slots are spelled out only while they are written).

use std::collections::{BTreeSet, HashMap};

use svclb_common::{
    BackendId, BackendValue, FrontendKey, FrontendValue, Generation, ServiceId, ServiceRecord,
    SlotKey, SourceKey,
};

use crate::ids::Ids;
use crate::image::{Image, SlotSet, slot_value};
use crate::op::{Op, Phase};
use crate::plan::{Frontend, PortPlan};
use crate::ports::{PortBit, PortRules};

/// A new generation of slots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewSet {
    /// Its number.
    pub generation: Generation,
    /// What it holds.
    pub set: SlotSet,
    /// The backends of `set`, position by position.
    pub values: Vec<BackendValue>,
}

/// The writes that bring one Service port up to date, all but the collection of what it no longer uses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Whose.
    pub record: ServiceRecord,
    /// Its id.
    pub id: ServiceId,
    /// Whether the id is new.
    pub take_service: bool,
    /// The backends that have no id in the maps yet.
    pub take_backends: Vec<(BackendId, BackendValue)>,
    /// The bits of `PORTS` that its frontends and slots need and that are not set.
    pub set_ports: Vec<PortBit>,
    /// The generation to write, if none of those in use will do.
    pub fill: Option<NewSet>,
    /// The frontends to flip.
    pub flip: Vec<(FrontendKey, FrontendValue)>,
    /// The frontends to drop.
    pub drop: Vec<FrontendKey>,
}

impl Change {
    /// One that drops frontends and does nothing else.
    pub(crate) const fn dropping(
        id: ServiceId,
        record: ServiceRecord,
        drop: Vec<FrontendKey>,
    ) -> Self {
        Self {
            record,
            id,
            take_service: false,
            take_backends: Vec::new(),
            set_ports: Vec::new(),
            fill: None,
            flip: Vec::new(),
            drop,
        }
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        !self.take_service
            && self.take_backends.is_empty()
            && self.set_ports.is_empty()
            && self.fill.is_none()
            && self.flip.is_empty()
            && self.drop.is_empty()
    }

    /// How many rows it takes before its commit.
    pub(crate) fn new_rows(&self) -> usize {
        let of_set = |new: &NewSet| new.set.rows().count();
        self.fill.as_ref().map_or(0, of_set) + self.take_backends.len()
    }

    /// The operations of one phase.
    pub fn ops(&self, phase: Phase) -> Vec<Op> {
        match phase {
            Phase::TakeServices if self.take_service => {
                vec![Op::PutService(self.id, Box::new(self.record))]
            }
            Phase::TakeBackends => self
                .take_backends
                .iter()
                .map(|&(id, value)| Op::PutBackend(id, value))
                .collect(),
            Phase::SetPorts => self.set_ports.iter().copied().map(Op::SetPort).collect(),
            Phase::FillSlots => self.fill.iter().flat_map(|new| self.slots(new)).collect(),
            Phase::FillSources => self.fill.iter().flat_map(|new| self.sources(new)).collect(),
            Phase::FlipFrontends => self
                .flip
                .iter()
                .map(|&(key, value)| Op::PutFrontend(key, value))
                .collect(),
            Phase::DropFrontends => self
                .drop
                .iter()
                .map(|&key| Op::DeleteFrontend(key))
                .collect(),
            _ => Vec::new(),
        }
    }

    fn sources<'a>(&'a self, new: &'a NewSet) -> impl Iterator<Item = Op> + 'a {
        let ranges = new.set.sources.iter();
        ranges.map(|range| Op::PutSource(SourceKey::new(self.id, new.generation, *range)))
    }

    fn slots<'a>(&'a self, new: &'a NewSet) -> impl Iterator<Item = Op> + 'a {
        new.set.slots().filter_map(move |(index, position, id)| {
            let backend = *new.values.get(position as usize)?;
            let key = SlotKey {
                service: self.id,
                generation: new.generation,
                index,
            };
            Some(Op::PutSlot(key, slot_value(id, backend, position)))
        })
    }
}

/// Every id is taken: 2^31 of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("all {0} ids are taken")]
pub struct IdsExhausted(pub &'static str);

/// Computes changes, and hands out the ids that they need.
pub(crate) struct Differ<'a> {
    image: &'a Image,
    port_rules: &'a PortRules,
    service_ids: &'a mut Ids,
    backend_ids: &'a mut Ids,
    /// Ids handed out in this round for backends that are not in the image yet.
    pending: HashMap<BackendValue, BackendId>,
    pending_ids: BTreeSet<u32>,
}

impl<'a> Differ<'a> {
    pub(crate) fn new(
        image: &'a Image,
        port_rules: &'a PortRules,
        service_ids: &'a mut Ids,
        backend_ids: &'a mut Ids,
    ) -> Self {
        Self {
            image,
            port_rules,
            service_ids,
            backend_ids,
            pending: HashMap::new(),
            pending_ids: BTreeSet::new(),
        }
    }

    /// What a Service port needs.
    pub(crate) fn upsert(&mut self, plan: &PortPlan) -> Result<Change, IdsExhausted> {
        let (id, take_service) = match self.image.service_id(&plan.record) {
            Some(id) => (id, false),
            None => {
                let id = self
                    .service_ids
                    .next(|id| self.image.has_service(id))
                    .ok_or(IdsExhausted("service"))?;
                (ServiceId::new(id), true)
            }
        };
        let mut take_backends = Vec::new();
        let mut backends = Vec::with_capacity(plan.slots.len());
        for value in &plan.slots {
            backends.push(match self.image.backend_id(value) {
                Some(id) => id,
                None => self.pending_backend(*value, &mut take_backends)?,
            });
        }
        let set = SlotSet {
            // A set without backends needs no ranges: there is nothing to keep clients from.
            sources: match backends.is_empty() {
                true => Vec::new(),
                false => plan.sources.clone(),
            },
            backends,
            members: plan.members,
        };
        // Only a generation that a frontend names may be used again: any other may be
        // about to be deleted.
        let in_use = self.generation_in_use(id, &set);
        let generation = match in_use {
            Some(generation) => generation,
            None if set.backends.is_empty() => Generation::EMPTY,
            None => self.image.next_generation(id),
        };
        let frontends = plan.frontends.iter();
        let frontends: Vec<_> = frontends
            .map(|frontend| (frontend.key, plan.value(frontend, id, generation)))
            .collect();
        let mut ports: BTreeSet<_> = frontends
            .iter()
            .filter_map(|(key, value)| self.port_rules.of_frontend(key, value))
            .collect();
        let mut flip = frontends;
        flip.retain(|(key, value)| self.image.frontend(key) != Some(value));
        let leads_anywhere = flip.iter().any(|(key, _)| !key.is_other_ports());
        let fill =
            (in_use.is_none() && leads_anywhere && !set.backends.is_empty()).then(|| NewSet {
                generation,
                set,
                values: plan.slots.clone(),
            });
        if fill.is_none() {
            // No slot will name them: a Service whose frontends all wait for another's.
            take_backends.clear();
        }
        if fill.is_some() || in_use.is_some() {
            let slots = plan.slots.iter();
            ports.extend(slots.map(|slot| PortRules::of_slot(slot.port)));
        }
        ports.retain(|bit| !self.image.ports().contains(*bit));
        Ok(Change {
            record: plan.record,
            id,
            take_service: take_service && !flip.is_empty(),
            take_backends,
            set_ports: ports.into_iter().collect(),
            fill,
            flip,
            drop: self.surplus(id, &plan.frontends),
        })
    }

    /// What it takes to remove a Service port; `None` if it is not there.
    pub(crate) fn remove(&self, record: &ServiceRecord) -> Option<Change> {
        let id = self.image.service_id(record)?;
        Some(Change::dropping(id, *record, self.surplus(id, &[])))
    }

    fn pending_backend(
        &mut self,
        value: BackendValue,
        take: &mut Vec<(BackendId, BackendValue)>,
    ) -> Result<BackendId, IdsExhausted> {
        if let Some(id) = self.pending.get(&value) {
            // Another change of this round takes it as well. Both write the row, so that
            // neither depends on the other's success.
            take.push((*id, value));
            return Ok(*id);
        }
        let (image, pending_ids) = (self.image, &self.pending_ids);
        let id = self
            .backend_ids
            .next(|id| image.has_backend(id) || pending_ids.contains(&id))
            .map(BackendId::new)
            .ok_or(IdsExhausted("backend"))?;
        self.pending.insert(value, id);
        self.pending_ids.insert(id.get());
        take.push((id, value));
        Ok(id)
    }

    /// The generation in which a frontend of the service already has these slots.
    fn generation_in_use(&self, id: ServiceId, set: &SlotSet) -> Option<Generation> {
        let service = self.image.service(id)?;
        service
            .frontends
            .iter()
            .filter_map(|key| self.image.frontend(key))
            .map(|value| value.generation)
            .find(|generation| match service.sets.get(generation) {
                Some(known) => known == set,
                None => false,
            })
    }

    /// The frontends that lead to the service and should not.
    fn surplus(&self, id: ServiceId, wanted: &[Frontend]) -> Vec<FrontendKey> {
        let wanted: BTreeSet<_> = wanted.iter().map(|frontend| &frontend.key).collect();
        self.image
            .service(id)
            .into_iter()
            .flat_map(|service| &service.frontends)
            .filter(|key| !wanted.contains(key))
            .copied()
            .collect()
    }
}
