//! What must hold in the maps at every moment, each with a name.

use std::collections::BTreeSet;
use std::fmt;

use svclb_common::{
    BackendId, FrontendFlags, FrontendKey, ServiceId, SlotIndex, SlotKey, SlotRange,
};

use crate::apply::Snapshot;
use crate::ports::{PortBit, PortRules};

/// A broken invariant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Violation {
    /// A frontend names a service id that has no record.
    FrontendWithoutService(FrontendKey, ServiceId),
    /// A frontend's range reaches a slot that is not there.
    SlotMissing(FrontendKey, SlotKey),
    /// A slot that a frontend reaches does not agree with `BACKENDS`.
    SlotWithoutBackend(SlotKey, BackendId),
    /// A frontend is for clients of source ranges, and its generation has none.
    SourcesMissing(FrontendKey),
    /// A frontend's packets are passed over: its port has no bit.
    FrontendWithoutPort(FrontendKey, PortBit),
    /// A backend's replies are passed over: its port has no bit.
    SlotWithoutPort(SlotKey, PortBit),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FrontendWithoutService(key, id) => {
                write!(f, "frontend {key} names {id}, which has no record")
            }
            Self::SlotMissing(key, slot) => write!(f, "frontend {key} reaches no slot {slot:?}"),
            Self::SourcesMissing(key) => write!(f, "frontend {key} has no source ranges"),
            Self::FrontendWithoutPort(key, bit) => write!(f, "frontend {key} has no port {bit}"),
            Self::SlotWithoutPort(slot, bit) => write!(f, "slot {slot:?} has no port {bit}"),
            Self::SlotWithoutBackend(slot, id) => {
                write!(f, "slot {slot:?} does not agree with backend {id}")
            }
        }
    }
}

/// Every violation in the maps.
pub fn check(maps: &Snapshot, port_rules: &PortRules) -> Vec<Violation> {
    let slots: std::collections::BTreeMap<_, _> = maps.slots.iter().copied().collect();
    let mut violations = Vec::new();
    for (key, value) in &maps.frontends {
        if !maps.services.contains_key(&value.service) {
            violations.push(Violation::FrontendWithoutService(*key, value.service));
        }
        if let Some(bit) = port_rules.of_frontend(key, value)
            && !maps.ports.contains(bit)
        {
            violations.push(Violation::FrontendWithoutPort(*key, bit));
        }
        let has_sources = || {
            let generations = maps.sources.iter().map(|key| key.source);
            let mut of_service = generations.filter(|source| source.service == value.service);
            of_service.any(|source| source.generation == value.generation)
        };
        let is_limited = value.flags.contains(FrontendFlags::SOURCE_RANGES);
        if is_limited && value.external.count > 0 && !has_sources() {
            violations.push(Violation::SourcesMissing(*key));
        }
        for position in positions(&[value.internal, value.external]) {
            let slot = SlotKey {
                service: value.service,
                generation: value.generation,
                index: SlotIndex::position(position),
            };
            let Some(found) = slots.get(&slot) else {
                violations.push(Violation::SlotMissing(*key, slot));
                continue;
            };
            let agrees = maps.backends.get(&found.backend).is_some_and(|b| {
                (b.addr, b.port, b.locality) == (found.addr, found.port, found.locality)
            });
            if !agrees {
                violations.push(Violation::SlotWithoutBackend(slot, found.backend));
            }
        }
    }
    for (key, slot) in &maps.slots {
        let bit = PortRules::of_slot(slot.port);
        if !maps.ports.contains(bit) {
            violations.push(Violation::SlotWithoutPort(*key, bit));
        }
    }
    violations
}

fn positions(ranges: &[SlotRange]) -> BTreeSet<u32> {
    ranges
        .iter()
        .flat_map(|range| range.first..range.first.saturating_add(range.count))
        .collect()
}
