//! What rounds asked of frontends and no write has done yet.
//!
//! Empty while every write succeeds. Otherwise it is what makes a later round finish what an
//! earlier one could not: a frontend that no Service port asks for is dropped, also when the
//! Service port that was to take it over is deleted before it could be written.

use std::collections::{BTreeMap, BTreeSet};

use svclb_common::{FrontendKey, ServiceId, ServiceRecord};

use crate::diff::Change;
use crate::image::Image;
use crate::op::Op;
use crate::planner::Round;

#[derive(Clone, Default, Debug)]
pub(crate) struct Backlog {
    /// Frontends that are to lead to a Service port and do not yet. An address that moves from
    /// one Service to another is replaced, never absent: until then it stays as it is.
    flips: BTreeMap<FrontendKey, ServiceRecord>,
    /// Frontends that the Service port which they lead to does not ask for.
    drops: BTreeSet<FrontendKey>,
}

impl Backlog {
    /// Takes in a round. Its `changes` drop everything that their Service ports do not ask for;
    /// left to them is what nothing is to take over, and what earlier rounds left is added.
    pub(crate) fn plan(&mut self, round: &Round, changes: &mut Vec<Change>, image: &Image) {
        self.supersede(round, image);
        for change in &mut *changes {
            self.drops.extend(&change.drop);
            change.drop.retain(|key| !self.flips.contains_key(key));
        }
        let planned: BTreeSet<_> = changes.iter().map(|change| change.id).collect();
        let others = self.outstanding(image);
        changes.extend(others.filter(|change| !planned.contains(&change.id)));
        changes.retain(|change| !change.is_empty());
    }

    /// A round says anew what its Service ports ask for.
    fn supersede(&mut self, round: &Round, image: &Image) {
        let planned = round.plans.iter().map(|plan| &plan.record);
        let records: BTreeSet<_> = planned.chain(&round.removed).collect();
        self.flips.retain(|_, record| !records.contains(record));
        for id in records.iter().filter_map(|record| image.service_id(record)) {
            self.keep(id, image);
        }
        for plan in &round.plans {
            let id = image.service_id(&plan.record);
            let keys = plan.frontends.iter().map(|frontend| frontend.key);
            let asked = keys.filter(|key| match image.owner(key) {
                Some((owner, _)) => id != Some(owner),
                None => true,
            });
            self.flips.extend(asked.map(|key| (key, plan.record)));
        }
    }

    /// Adds the frontends of Service ports that there should not be. Only those that are
    /// `wanted` can be waited for.
    pub(crate) fn drop_others(&mut self, wanted: &BTreeSet<ServiceRecord>, image: &Image) {
        self.flips.retain(|_, record| wanted.contains(record));
        for (id, record) in image.records() {
            if !wanted.contains(record) || image.service_id(record) != Some(id) {
                self.drops.extend(image.frontends_of(id));
            }
        }
    }

    /// What drops the frontends that nothing is to take over, by Service port.
    pub(crate) fn outstanding(&self, image: &Image) -> impl Iterator<Item = Change> {
        let mut changes = BTreeMap::new();
        let drops = self.drops.iter();
        for key in drops.filter(|key| !self.flips.contains_key(key)) {
            let Some((id, record)) = image.owner(key) else {
                continue;
            };
            let change = changes
                .entry(id)
                .or_insert_with(|| Change::dropping(id, *record, Vec::new()));
            change.drop.push(*key);
        }
        changes.into_values()
    }

    /// Drops nothing of a Service port: its change failed, and it stays as it is until it is
    /// planned again.
    pub(crate) fn keep(&mut self, id: ServiceId, image: &Image) {
        for key in image.frontends_of(id) {
            self.drops.remove(key);
        }
    }

    /// Notes an operation that was performed.
    pub(crate) fn note(&mut self, op: &Op) {
        if let Op::PutFrontend(key, _) | Op::DeleteFrontend(key) = op {
            self.flips.remove(key);
            self.drops.remove(key);
        }
    }

    /// Forgets what is to be dropped: everything is planned again.
    pub(crate) fn forget_drops(&mut self) {
        self.drops.clear();
    }
}
