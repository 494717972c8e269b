//! From events to rounds: the plans of the Services that changed, and of no others.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use svclb_common::{FrontendKey, Generation, PortBe, Proto, ServiceId, ServiceRecord};

use crate::cluster::Cluster;
use crate::conflicts::Conflicts;
use crate::health_checks::HealthChecks;
use crate::model::{Event, NodeConfig, ObjectName};
use crate::plan::{
    Frontend, HealthCheck, PortPlan, ServingBackend, candidates, health_check, plan, serving,
};

/// What changed since the round before.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Round {
    /// Service ports that are new, or may be different now.
    pub plans: Vec<PortPlan>,
    /// Service ports that are no more.
    pub removed: Vec<ServiceRecord>,
    /// Conflicts over an address and port that began or ended.
    pub conflicts: Vec<Conflict>,
    /// Health checks that are new or different now, or, if `None`, no more.
    pub health_checks: BTreeMap<ObjectName, Option<HealthCheck>>,
}

/// A Service began or ceased to wait for a frontend that another Service holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// The address and port.
    pub frontend: FrontendKey,
    /// The Service that waits, or waited.
    pub waiting: ObjectName,
    /// The Service that holds it; `None` if the wait is over.
    pub holder: Option<ObjectName>,
}

/// Turns events into rounds.
pub struct Planner {
    cluster: Cluster,
    conflicts: Conflicts,
    /// Services that have to be in one round.
    partners: HashMap<ObjectName, BTreeSet<ObjectName>>,
    /// The Service ports in the maps for each Service, by the plans so far.
    planned: HashMap<ObjectName, Vec<ServiceRecord>>,
    waiting: BTreeMap<ObjectName, BTreeMap<FrontendKey, ObjectName>>,
    health_checks: HealthChecks,
}

impl Planner {
    /// A planner for the node of this name.
    pub fn new(node_name: &str) -> Self {
        Self {
            cluster: Cluster::new(node_name),
            conflicts: Conflicts::default(),
            partners: HashMap::new(),
            planned: HashMap::new(),
            waiting: BTreeMap::new(),
            health_checks: HealthChecks::default(),
        }
    }

    /// The source's objects.
    pub const fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Takes an event in.
    pub fn observe(&mut self, event: Event) {
        self.cluster.observe(event);
    }

    /// Takes in the node's configuration: the addresses of NodePorts.
    pub fn set_node_config(&mut self, node_config: NodeConfig) {
        self.cluster.set_node_config(node_config);
    }

    /// Plans the Service of a Service port again in the next round, after its writes failed. If
    /// the Service, or the port, is no more, the round removes it again.
    pub fn retry(&mut self, record: ServiceRecord) {
        let name = ObjectName::new(record.namespace.as_str(), record.name.as_str());
        let planned = self.planned.entry(name.clone()).or_default();
        if !planned.contains(&record) {
            planned.push(record);
        }
        self.cluster.mark_dirty(name);
    }

    /// Plans every Service again, after the maps were found to differ from what was written.
    pub fn retry_all(&mut self) {
        self.cluster.mark_all_dirty();
    }

    /// The Service ports that there should be, by the plans so far.
    pub fn wanted(&self) -> BTreeSet<ServiceRecord> {
        self.planned.values().flatten().copied().collect()
    }

    /// The Service that has a frontend.
    pub(crate) fn holder(&self, frontend: &FrontendKey) -> Option<&ObjectName> {
        self.conflicts.holder(frontend)
    }

    /// The serving backends of a Service for clients of a port number (or NodePort).
    pub(crate) fn serving_backends(
        &self,
        name: &ObjectName,
        number: PortBe,
        proto: Proto,
    ) -> impl Iterator<Item = ServingBackend> {
        let service = self.cluster.service(name).into_iter();
        service.flat_map(move |service| serving(service, self.cluster.slices(name), number, proto))
    }

    /// Whether a frontend refuses its clients inside the cluster: its Service has no endpoint
    /// for them, or not the port.
    pub fn refuses(&self, frontend: &FrontendKey) -> bool {
        let Some(name) = self.conflicts.holder(frontend) else {
            let others = FrontendKey::other_ports(frontend.addr, frontend.scope);
            return self.conflicts.holder(&others).is_some();
        };
        self.plan_one(name).iter().any(|plan| {
            let frontends = plan.frontends.iter();
            frontends.filter(|ours| ours.key == *frontend).any(|ours| {
                let value = plan.value(ours, ServiceId::default(), Generation::EMPTY);
                value.internal.count == 0
            })
        })
    }

    /// Which Services wait for a frontend that another one holds: the Service that waits, the
    /// frontend, and its holder.
    pub fn waiting(&self) -> impl Iterator<Item = (&ObjectName, &FrontendKey, &ObjectName)> {
        self.waiting.iter().flat_map(|(service, waits)| {
            waits
                .iter()
                .map(move |(key, holder)| (service, key, holder))
        })
    }

    /// The next round, of at most `most` Services (and those that they contend with), or
    /// `None` if nothing changed.
    ///
    /// Nothing is planned before the source is synced: a part of the objects would remove
    /// what the others still serve.
    pub fn next_round(&mut self, most: usize) -> Option<Round> {
        if !self.cluster.is_synced() || !self.cluster.is_dirty() {
            return None;
        }
        self.resolve_conflicts();
        let mut planned = BTreeMap::new();
        let mut contending = BTreeSet::new();
        loop {
            let next = contending.pop_first().or_else(|| {
                (planned.len() < most)
                    .then(|| self.cluster.take_dirty())
                    .flatten()
            });
            let Some(name) = next else { break };
            self.cluster.clean(&name);
            contending.extend(self.partners.remove(&name).unwrap_or_default());
            let plans = self.plan_one(&name);
            planned.insert(name, plans);
            contending.retain(|other| !planned.contains_key(other));
        }
        let mut round = Round::default();
        for (name, plans) in planned {
            self.check_health(&name, &mut round);
            self.settle(name, plans, &mut round);
        }
        Some(round)
    }

    /// Chooses the holder of each frontend, before anything is planned. A Service that loses a
    /// frontend and the one that takes it over become partners: they must be in one round, or
    /// the address would be absent in between.
    fn resolve_conflicts(&mut self) {
        let dirty: Vec<_> = self.cluster.dirty().cloned().collect();
        for name in dirty {
            let (created, keys) = match self.cluster.service(&name) {
                Some(service) => (
                    service.created,
                    candidates(service, self.cluster.node_config()),
                ),
                None => (0, Vec::new()),
            };
            for other in self.conflicts.set(&name, created, keys) {
                self.cluster.mark_dirty(other.clone());
                self.partners
                    .entry(other.clone())
                    .or_default()
                    .insert(name.clone());
                self.partners.entry(name.clone()).or_default().insert(other);
            }
        }
    }

    fn plan_one(&self, name: &ObjectName) -> Vec<PortPlan> {
        self.cluster.service(name).map_or_else(Vec::new, |service| {
            plan(
                service,
                self.cluster.slices(name),
                self.cluster.node(),
                self.cluster.node_config(),
            )
        })
    }

    fn check_health(&mut self, name: &ObjectName, round: &mut Round) {
        let (created, check) = match self.cluster.service(name) {
            Some(service) => {
                let slices = self.cluster.slices(name);
                let check = health_check(service, slices, self.cluster.node());
                (service.created, check)
            }
            None => (0, None),
        };
        let changed = self.health_checks.set(name, created, check);
        round.health_checks.extend(changed);
    }

    /// Leaves each plan the frontends that its Service holds, and notes what is removed
    /// and what is waited for.
    fn settle(&mut self, name: ObjectName, mut plans: Vec<PortPlan>, round: &mut Round) {
        let mut taken = BTreeSet::new();
        let mut waits = BTreeMap::new();
        for plan in &mut plans {
            plan.frontends.sort_unstable();
            plan.frontends.retain(|Frontend { key, .. }| {
                let Some(holder) = self.conflicts.holder(key) else {
                    return false;
                };
                if *holder != name {
                    // Which Service refuses an address's other ports makes no difference.
                    if !key.is_other_ports() {
                        waits.insert(*key, holder.clone());
                    }
                    return false;
                }
                // Two ports of one Service with the same number: the first has it.
                taken.insert(*key)
            });
        }
        self.note_waits(&name, waits, round);

        let records: Vec<_> = plans.iter().map(|plan| plan.record).collect();
        let before = if records.is_empty() {
            self.planned.remove(&name).unwrap_or_default()
        } else {
            self.planned
                .insert(name, records.clone())
                .unwrap_or_default()
        };
        round.removed.extend(
            before
                .into_iter()
                .filter(|record| !records.contains(record)),
        );
        round.plans.append(&mut plans);
    }

    fn note_waits(
        &mut self,
        name: &ObjectName,
        waits: BTreeMap<FrontendKey, ObjectName>,
        round: &mut Round,
    ) {
        let before = self.waiting.remove(name).unwrap_or_default();
        for frontend in before.keys().filter(|key| !waits.contains_key(key)) {
            round.conflicts.push(Conflict {
                frontend: *frontend,
                waiting: name.clone(),
                holder: None,
            });
        }
        for (frontend, holder) in waits
            .iter()
            .filter(|(key, holder)| before.get(key) != Some(holder))
        {
            round.conflicts.push(Conflict {
                frontend: *frontend,
                waiting: name.clone(),
                holder: Some(holder.clone()),
            });
        }
        if !waits.is_empty() {
            self.waiting.insert(name.clone(), waits);
        }
    }
}

#[cfg(test)]
mod tests;
