//! The health checks of all Services, and which Service holds a port that several want.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::model::ObjectName;
use crate::plan::HealthCheck;

/// The health checks given out so far.
#[derive(Default)]
pub(crate) struct HealthChecks {
    checks: HashMap<ObjectName, Known>,
    /// The Services that want a port, the older first, as with frontends.
    candidates: HashMap<u16, BTreeSet<(i64, ObjectName)>>,
}

struct Known {
    created: i64,
    check: HealthCheck,
}

impl HealthChecks {
    /// Replaces a Service's health check, and returns those that are different now: its own,
    /// and those of Services that won or lost their port by it.
    pub(crate) fn set(
        &mut self,
        service: &ObjectName,
        created: i64,
        check: Option<HealthCheck>,
    ) -> BTreeMap<ObjectName, Option<HealthCheck>> {
        let before = self.checks.remove(service);
        let before_at = before.as_ref().map(|b| (b.check.port, b.created));
        let now_at = check.as_ref().map(|check| (check.port, created));
        if let Some(check) = check {
            // The port's holder is chosen below if this changed, and else is as it was.
            let waits_for = before.as_ref().and_then(|b| b.check.waits_for.clone());
            let check = HealthCheck { waits_for, ..check };
            let known = Known { created, check };
            self.checks.insert(service.clone(), known);
        }
        let mut changed = BTreeMap::new();
        if before_at != now_at {
            if let Some((port, created)) = before_at {
                self.withdraw(port, &(created, service.clone()));
            }
            if let Some((port, created)) = now_at {
                let candidates = self.candidates.entry(port).or_default();
                candidates.insert((created, service.clone()));
            }
            let ports = [before_at, now_at].into_iter().flatten();
            for port in ports.map(|(port, _)| port).collect::<BTreeSet<_>>() {
                self.settle(port, &mut changed);
            }
        }
        let after = self.checks.get(service).map(|known| known.check.clone());
        if before.map(|known| known.check) == after {
            changed.remove(service);
        } else {
            changed.insert(service.clone(), after);
        }
        changed
    }

    fn withdraw(&mut self, port: u16, candidate: &(i64, ObjectName)) {
        if let Some(candidates) = self.candidates.get_mut(&port) {
            candidates.remove(candidate);
            if candidates.is_empty() {
                self.candidates.remove(&port);
            }
        }
    }

    /// Lets all but the first of a port's candidates wait for it.
    fn settle(&mut self, port: u16, changed: &mut BTreeMap<ObjectName, Option<HealthCheck>>) {
        let mut candidates = self.candidates.get(&port).into_iter().flatten();
        let mut holder = None;
        for (_, name) in &mut candidates {
            if let Some(known) = self.checks.get_mut(name)
                && known.check.waits_for.as_ref() != holder
            {
                known.check.waits_for = holder.cloned();
                changed.insert(name.clone(), Some(known.check.clone()));
            }
            holder = holder.or(Some(name));
        }
    }
}

#[cfg(test)]
mod tests;
