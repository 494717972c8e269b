//! Which endpoints each kind of client may be given, and in which order they stand.

use std::collections::{BTreeMap, BTreeSet};

use svclb_common::{Addr16, BackendValue, Locality, PortBe, SlotRange};

use crate::model::{EndpointSlice, Family, Hints, Node, Service, ServicePort, TrafficPolicy};

/// The endpoints of one Service port that some client could use. Sorted by address and
/// port, so that the same endpoints always make the same slots.
pub(super) struct Endpoints<'a>(BTreeMap<BackendValue, Found<'a>>);

#[derive(Clone, Copy)]
struct Found<'a> {
    ready: bool,
    terminating: bool,
    node: Option<&'a str>,
    hints: Option<&'a Hints>,
}

/// The slots that each policy chooses from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Choices {
    local: SlotRange,
    cluster: SlotRange,
}

impl Choices {
    pub(super) const fn of(&self, policy: TrafficPolicy) -> SlotRange {
        match policy {
            TrafficPolicy::Local => self.local,
            TrafficPolicy::Cluster => self.cluster,
        }
    }
}

/// What hints narrow a choice down to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Topology<'a> {
    Node(&'a str),
    Zone(&'a str),
    Anywhere,
}

impl<'a> Endpoints<'a> {
    /// Unites a Service's slices.
    pub(super) fn of(
        port: &ServicePort,
        slices: impl Iterator<Item = &'a EndpointSlice>,
        family: Family,
    ) -> Self {
        let mut found = BTreeMap::<BackendValue, Found<'_>>::new();
        for slice in slices.filter(|slice| slice.family == family) {
            let ports = slice
                .ports
                .iter()
                .filter(|p| p.name == port.name && p.proto == port.proto);
            for endpoint_port in ports {
                for endpoint in &slice.endpoints {
                    let conditions = endpoint.conditions;
                    let usable = conditions.ready || (conditions.serving && conditions.terminating);
                    if !usable || Family::of(endpoint.addr) != family {
                        continue;
                    }
                    let backend = BackendValue::new(
                        Addr16::from_ip(endpoint.addr),
                        PortBe::new(endpoint_port.port),
                        port.proto,
                    );
                    let this = Found {
                        ready: conditions.ready,
                        terminating: conditions.terminating,
                        node: endpoint.node.as_deref(),
                        hints: endpoint.hints.as_deref(),
                    };
                    // One pod's address may be in two slices for a moment, or be reused by
                    // another pod: the record that is not terminating wins.
                    found
                        .entry(backend)
                        .and_modify(|known| {
                            if known.terminating || !this.terminating {
                                *known = this;
                            }
                        })
                        .or_insert(this);
                }
            }
        }
        Self(found)
    }

    /// Whether there is none that a client could use.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The slots, and the ranges that each policy chooses from.
    ///
    /// First what only `Local` may choose, then what both may, then what only `Cluster` may:
    /// so each choice is one range. A choice that no client makes has no slots.
    pub(super) fn arrange(&self, service: &Service, node: &Node) -> (Vec<BackendValue>, Choices) {
        // Inside the cluster, what is meant for outside clients is used as if it was `Cluster`.
        let everywhere = service
            .is_reached_from_outside()
            .then_some(TrafficPolicy::Cluster);
        let policies = [service.internal_policy, service.external_policy];
        let choice = |policy| {
            if policies.contains(&policy) || everywhere == Some(policy) {
                self.choice(policy, node)
            } else {
                BTreeSet::new()
            }
        };
        let local = choice(TrafficPolicy::Local);
        let cluster = choice(TrafficPolicy::Cluster);
        let only_local = local.difference(&cluster).count();
        let slots: Vec<_> = local
            .difference(&cluster)
            .chain(local.intersection(&cluster))
            .chain(cluster.difference(&local))
            .map(|backend| self.located(*backend, node))
            .collect();
        let choices = Choices {
            local: range(0, local.len()),
            cluster: range(only_local, cluster.len()),
        };
        (slots, choices)
    }

    fn located(&self, backend: BackendValue, node: &Node) -> BackendValue {
        let found = self.0.get(&backend);
        let is_local = found.is_some_and(|found| found.node == Some(&*node.name));
        backend.at(if is_local {
            Locality::LOCAL
        } else {
            Locality::REMOTE
        })
    }

    /// The endpoints that a policy may choose from: Ready ones; if it has none, those that
    /// terminate but still serve (KEP-1669).
    fn choice(&self, policy: TrafficPolicy, node: &Node) -> BTreeSet<BackendValue> {
        let topology = self.topology(node);
        let is_local = |found: &Found<'_>| found.node == Some(&*node.name);
        let pick = |allowed: &dyn Fn(&Found<'_>) -> bool| -> BTreeSet<BackendValue> {
            let all = self.0.iter();
            all.filter(|(_, found)| allowed(found))
                .map(|(backend, _)| *backend)
                .collect()
        };
        let ready = match policy {
            TrafficPolicy::Local => pick(&|found| found.ready && is_local(found)),
            TrafficPolicy::Cluster => pick(&|found| found.ready && topology.allows(found)),
        };
        if !ready.is_empty() {
            return ready;
        }
        match policy {
            TrafficPolicy::Local => pick(&|found| !found.ready && is_local(found)),
            TrafficPolicy::Cluster => pick(&|found| !found.ready),
        }
    }

    /// What the hints of the Ready endpoints allow, if all of them have some: this node's, if
    /// one is for it, else this zone's, if one is for that (KEP-2433, KEP-3015).
    fn topology<'n>(&self, node: &'n Node) -> Topology<'n> {
        let hints: Vec<_> = self
            .0
            .values()
            .filter(|found| found.ready)
            .map(|found| found.hints)
            .collect();
        let all = |names: fn(&Hints) -> &[std::sync::Arc<str>], wanted: &str| {
            let mut names = hints.iter().map(|hints| hints.map_or(&[][..], names));
            names.clone().all(|names| !names.is_empty())
                && names.any(|names| names.iter().any(|name| **name == *wanted))
        };
        if all(|hints| &hints.nodes, &node.name) {
            return Topology::Node(&node.name);
        }
        match node.zone.as_deref() {
            Some(zone) if all(|hints| &hints.zones, zone) => Topology::Zone(zone),
            _ => Topology::Anywhere,
        }
    }
}

impl Topology<'_> {
    fn allows(self, found: &Found<'_>) -> bool {
        let names = |names: fn(&Hints) -> &[std::sync::Arc<str>], wanted: &str| {
            found
                .hints
                .is_some_and(|hints| names(hints).iter().any(|name| **name == *wanted))
        };
        match self {
            Self::Node(node) => names(|hints| &hints.nodes, node),
            Self::Zone(zone) => names(|hints| &hints.zones, zone),
            Self::Anywhere => true,
        }
    }
}

/// An empty range starts at zero, so that equal plans are equal values.
fn range(first: usize, count: usize) -> SlotRange {
    let number = |number| u32::try_from(number).unwrap_or(u32::MAX);
    SlotRange {
        first: if count == 0 { 0 } else { number(first) },
        count: number(count),
    }
}
