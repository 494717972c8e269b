//! The health checks of all Services, and who has a port that two of them claim.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::model::ObjectName;
use crate::plan::HealthCheck;

/// The health checks given out so far.
#[derive(Default)]
pub(crate) struct HealthChecks {
    checks: HashMap<ObjectName, Known>,
    /// Who claims a port, the older Service first, as with frontends.
    claims: HashMap<u16, BTreeSet<(i64, ObjectName)>>,
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
        let old_claim = before.as_ref().map(|b| (b.check.port, b.created));
        let new_claim = check.as_ref().map(|check| (check.port, created));
        if let Some(check) = check {
            // Who has the port is settled below if the claim changed, and else is as it was.
            let waits_for = before.as_ref().and_then(|b| b.check.waits_for.clone());
            let check = HealthCheck { waits_for, ..check };
            let known = Known { created, check };
            self.checks.insert(service.clone(), known);
        }
        let mut changed = BTreeMap::new();
        if old_claim != new_claim {
            if let Some((port, created)) = old_claim {
                self.withdraw(port, &(created, service.clone()));
            }
            if let Some((port, created)) = new_claim {
                let claims = self.claims.entry(port).or_default();
                claims.insert((created, service.clone()));
            }
            let ports = [old_claim, new_claim].into_iter().flatten();
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

    fn withdraw(&mut self, port: u16, claim: &(i64, ObjectName)) {
        if let Some(claims) = self.claims.get_mut(&port) {
            claims.remove(claim);
            if claims.is_empty() {
                self.claims.remove(&port);
            }
        }
    }

    /// Lets all but the first of a port's claimants wait for it.
    fn settle(&mut self, port: u16, changed: &mut BTreeMap<ObjectName, Option<HealthCheck>>) {
        let mut claims = self.claims.get(&port).into_iter().flatten();
        let mut holder = None;
        for (_, name) in &mut claims {
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
