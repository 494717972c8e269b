//! Who may have an address and port that several Services claim.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use svclb_common::FrontendKey;

use crate::model::ObjectName;
use crate::plan::{Frontend, FrontendKind};

/// A Service's claim to a frontend. The order is the precedence: the kind of address, then
/// the older Service, and of two of one age the one whose name comes first, so that every
/// node agrees.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Contender {
    kind: FrontendKind,
    created: i64,
    service: ObjectName,
}

/// The claims of all Services.
///
/// Almost every frontend has one claimant, who is held in place; a set is made only where
/// two Services meet.
#[derive(Default)]
pub(crate) struct Conflicts {
    holders: HashMap<FrontendKey, Contender>,
    contested: BTreeMap<FrontendKey, BTreeSet<Contender>>,
    by_service: HashMap<ObjectName, (i64, Vec<Frontend>)>,
}

impl Conflicts {
    /// Replaces the claims of a Service, and returns the other Services that thereby won
    /// or lost a frontend.
    pub(crate) fn set(
        &mut self,
        service: &ObjectName,
        created: i64,
        mut frontends: Vec<Frontend>,
    ) -> BTreeSet<ObjectName> {
        let mut affected = BTreeSet::new();
        // Of several claims to one frontend a Service makes the strongest one.
        frontends.sort_unstable();
        let mut seen = BTreeSet::new();
        frontends.retain(|frontend| seen.insert(frontend.key));
        let unchanged = self
            .by_service
            .get(service)
            .is_some_and(|known| known.0 == created && known.1 == frontends);
        if unchanged {
            return affected;
        }
        let claim = |kind, created| Contender {
            kind,
            created,
            service: service.clone(),
        };
        if let Some((created, frontends)) = self.by_service.remove(service) {
            for Frontend { kind, key } in frontends {
                self.withdraw(key, &claim(kind, created), &mut affected);
            }
        }
        for Frontend { kind, key } in &frontends {
            self.add(*key, claim(*kind, created), &mut affected);
        }
        if !frontends.is_empty() {
            self.by_service
                .insert(service.clone(), (created, frontends));
        }
        affected.remove(service);
        affected
    }

    /// The Service that has the frontend.
    pub(crate) fn holder(&self, key: &FrontendKey) -> Option<&ObjectName> {
        self.holders.get(key).map(|claim| &claim.service)
    }

    fn add(&mut self, key: FrontendKey, claim: Contender, affected: &mut BTreeSet<ObjectName>) {
        match self.holders.get_mut(&key) {
            None => {
                self.holders.insert(key, claim);
            }
            Some(holder) => {
                let set = self.contested.entry(key).or_default();
                set.insert(holder.clone());
                set.insert(claim.clone());
                if claim < *holder {
                    affected.insert(holder.service.clone());
                    *holder = claim;
                }
            }
        }
    }

    fn withdraw(
        &mut self,
        key: FrontendKey,
        claim: &Contender,
        affected: &mut BTreeSet<ObjectName>,
    ) {
        let Some(set) = self.contested.get_mut(&key) else {
            self.holders.remove(&key);
            return;
        };
        set.remove(claim);
        if let Some(first) = set.first() {
            if self.holders.get(&key) == Some(claim) {
                affected.insert(first.service.clone());
            }
            self.holders.insert(key, first.clone());
        }
        if set.len() < 2 {
            self.contested.remove(&key);
        }
    }
}
