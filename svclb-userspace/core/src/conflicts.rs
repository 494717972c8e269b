//! Which Service holds an address and port that several want.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use svclb_common::FrontendKey;

use crate::model::ObjectName;
use crate::plan::{Frontend, FrontendKind};

/// A Service that wants a frontend. The order is the precedence: the kind of address, then
/// the older Service, and of two of one age the one whose name comes first, so that every
/// node agrees.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Contender {
    kind: FrontendKind,
    created: i64,
    service: ObjectName,
}

/// The holder of every frontend, and the Services that wait for it.
///
/// Almost every frontend has one contender, which is its holder; a set is made only where there
/// are several.
#[derive(Default)]
pub(crate) struct Conflicts {
    holders: HashMap<FrontendKey, Contender>,
    conflicts: BTreeMap<FrontendKey, BTreeSet<Contender>>,
    by_service: HashMap<ObjectName, (i64, Vec<Frontend>)>,
}

impl Conflicts {
    /// Replaces the frontends that a Service wants, and returns the other Services that thereby
    /// gained or lost one.
    pub(crate) fn set(
        &mut self,
        service: &ObjectName,
        created: i64,
        mut frontends: Vec<Frontend>,
    ) -> BTreeSet<ObjectName> {
        let mut affected = BTreeSet::new();
        // Of several kinds of one frontend the first in precedence counts.
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
        let contender = |kind, created| Contender {
            kind,
            created,
            service: service.clone(),
        };
        if let Some((created, frontends)) = self.by_service.remove(service) {
            for Frontend { kind, key } in frontends {
                self.withdraw(key, &contender(kind, created), &mut affected);
            }
        }
        for Frontend { kind, key } in &frontends {
            self.add(*key, contender(*kind, created), &mut affected);
        }
        if !frontends.is_empty() {
            self.by_service
                .insert(service.clone(), (created, frontends));
        }
        affected.remove(service);
        affected
    }

    /// The Service that holds the frontend.
    pub(crate) fn holder(&self, key: &FrontendKey) -> Option<&ObjectName> {
        self.holders.get(key).map(|holder| &holder.service)
    }

    fn add(&mut self, key: FrontendKey, contender: Contender, affected: &mut BTreeSet<ObjectName>) {
        match self.holders.get_mut(&key) {
            None => {
                self.holders.insert(key, contender);
            }
            Some(holder) => {
                let set = self.conflicts.entry(key).or_default();
                set.insert(holder.clone());
                set.insert(contender.clone());
                if contender < *holder {
                    affected.insert(holder.service.clone());
                    *holder = contender;
                }
            }
        }
    }

    fn withdraw(
        &mut self,
        key: FrontendKey,
        contender: &Contender,
        affected: &mut BTreeSet<ObjectName>,
    ) {
        let Some(set) = self.conflicts.get_mut(&key) else {
            self.holders.remove(&key);
            return;
        };
        set.remove(contender);
        if let Some(first) = set.first() {
            if self.holders.get(&key) == Some(contender) {
                affected.insert(first.service.clone());
            }
            self.holders.insert(key, first.clone());
        }
        if set.len() < 2 {
            self.conflicts.remove(&key);
        }
    }
}
