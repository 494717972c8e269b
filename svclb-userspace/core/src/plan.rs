//! Kubernetes' rules: from one Service and its slices to what its addresses should lead to.
//!
//! A pure function. Nothing outside this file knows what a traffic policy or a
//! terminating endpoint means.

use std::collections::BTreeMap;

use svclb_common::{
    Addr16, BackendValue, FrontendKey, Label, PortBe, Proto, Scope, ServiceFamily, ServiceRecord,
    SlotRange,
};

use crate::model::{EndpointSlice, Family, Node, Service, ServicePort, ServiceType, TrafficPolicy};

/// What one port of a Service should be in the maps, in one address family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortPlan {
    /// Whose it is.
    pub record: ServiceRecord,
    /// The addresses that lead to it.
    pub frontends: Vec<FrontendKey>,
    /// The backends, ordered so that every policy's choice is a range of them.
    pub slots: Vec<BackendValue>,
    /// What clients inside the cluster choose from.
    pub internal: SlotRange,
    /// What clients outside the cluster choose from.
    pub external: SlotRange,
    /// How long a client stays with its backend after its last new connection, in
    /// seconds; zero without session affinity.
    pub affinity_seconds: u32,
    /// Whether a backend must be findable by its id within the slots: for session
    /// affinity, and for UDP sockets that stay with their backend while it lives.
    pub members: bool,
}

/// What a Service should be in the maps: one plan for each port and family.
///
/// `slices` are those that carry the Service's name in their label
/// `kubernetes.io/service-name`. ExternalName Services and Services without an address
/// have no plan.
pub fn plan<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice> + Clone,
    node: &Node,
) -> Vec<PortPlan> {
    if service.kind == ServiceType::ExternalName {
        return Vec::new();
    }
    let mut plans = Vec::new();
    for family in [Family::V4, Family::V6] {
        if !service
            .cluster_ips
            .iter()
            .any(|ip| Family::of(*ip) == family)
        {
            continue;
        }
        for port in &service.ports {
            // SCTP has no socket hook that could serve it.
            if port.proto == Proto::SCTP {
                continue;
            }
            let Some(record) = record(service, port, family) else {
                continue;
            };
            let endpoints = Endpoints::of(port, slices.clone(), family, node);
            let (slots, internal, external) = endpoints.arrange(service);
            let affinity_seconds = service.affinity_seconds.unwrap_or(0);
            plans.push(PortPlan {
                record,
                frontends: port_frontends(service, port, family),
                slots,
                internal,
                external,
                affinity_seconds,
                members: affinity_seconds > 0 || port.proto == Proto::UDP,
            });
        }
    }
    plans
}

/// The frontends that a Service claims, whatever its endpoints are.
pub(crate) fn frontends(service: &Service) -> Vec<FrontendKey> {
    if service.kind == ServiceType::ExternalName {
        return Vec::new();
    }
    let served = service
        .ports
        .iter()
        .filter(|port| port.proto != Proto::SCTP);
    served
        .flat_map(|port| {
            [Family::V4, Family::V6].map(|family| port_frontends(service, port, family))
        })
        .flatten()
        .collect()
}

fn port_frontends(service: &Service, port: &ServicePort, family: Family) -> Vec<FrontendKey> {
    service
        .cluster_ips
        .iter()
        .filter(|ip| Family::of(**ip) == family)
        .map(|ip| FrontendKey {
            addr: Addr16::from_ip(*ip),
            port: PortBe::new(port.port),
            proto: port.proto,
            scope: Scope::ANY,
        })
        .collect()
}

/// `None` for a name that Kubernetes would not have allowed.
fn record(service: &Service, port: &ServicePort, family: Family) -> Option<ServiceRecord> {
    Some(ServiceRecord {
        namespace: Label::new(&service.name.namespace).ok()?,
        name: Label::new(&service.name.name).ok()?,
        port_name: Label::new(&port.name).ok()?,
        proto: port.proto,
        family: match family {
            Family::V4 => ServiceFamily::V4,
            Family::V6 => ServiceFamily::V6,
        },
        reserved: [0; 2],
    })
}

/// The usable endpoints of one Service port, in the four groups that policies tell apart.
/// The order of the groups makes each policy's choice one range.
#[derive(Default)]
struct Endpoints {
    terminating_local: Vec<BackendValue>,
    ready_local: Vec<BackendValue>,
    ready_remote: Vec<BackendValue>,
    terminating_remote: Vec<BackendValue>,
}

#[derive(Clone, Copy)]
struct Found {
    ready: bool,
    local: bool,
    terminating: bool,
}

impl Endpoints {
    fn of<'a>(
        port: &ServicePort,
        slices: impl Iterator<Item = &'a EndpointSlice>,
        family: Family,
        node: &Node,
    ) -> Self {
        // Sorted by address and port, so that the same endpoints always give the same slots.
        let mut found = BTreeMap::<BackendValue, Found>::new();
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
                        local: endpoint.node.as_deref() == Some(&*node.name),
                        terminating: conditions.terminating,
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
        let mut endpoints = Self::default();
        for (backend, found) in found {
            match (found.ready, found.local) {
                (true, true) => &mut endpoints.ready_local,
                (true, false) => &mut endpoints.ready_remote,
                (false, true) => &mut endpoints.terminating_local,
                (false, false) => &mut endpoints.terminating_remote,
            }
            .push(backend);
        }
        endpoints
    }

    /// The slots, and the ranges of internal and external clients.
    ///
    /// In each scope Ready endpoints are used; if it has none, those that terminate but
    /// still serve (KEP-1669). `Local` looks at this node's endpoints only.
    fn arrange(mut self, service: &Service) -> (Vec<BackendValue>, SlotRange, SlotRange) {
        let any_ready = !self.ready_local.is_empty() || !self.ready_remote.is_empty();
        let local_wanted = service.internal_policy == TrafficPolicy::Local
            || service.external_policy == TrafficPolicy::Local;
        if any_ready {
            self.terminating_remote.clear();
            if !self.ready_local.is_empty() || !local_wanted {
                self.terminating_local.clear();
            }
        }
        let fallback = length(&self.terminating_local);
        let ready_local = length(&self.ready_local);
        let all_ready = ready_local + length(&self.ready_remote);

        let cluster = if any_ready {
            range(fallback, all_ready)
        } else {
            range(0, fallback + length(&self.terminating_remote))
        };
        let local = if ready_local > 0 {
            range(fallback, ready_local)
        } else {
            range(0, fallback)
        };
        let choice = |policy| match policy {
            TrafficPolicy::Cluster => cluster,
            TrafficPolicy::Local => local,
        };
        let (internal, external) = (
            choice(service.internal_policy),
            choice(service.external_policy),
        );

        let mut slots = self.terminating_local;
        slots.append(&mut self.ready_local);
        slots.append(&mut self.ready_remote);
        slots.append(&mut self.terminating_remote);
        (slots, internal, external)
    }
}

/// An empty range starts at zero, so that equal plans are equal values.
const fn range(first: u32, count: u32) -> SlotRange {
    SlotRange {
        first: if count == 0 { 0 } else { first },
        count,
    }
}

fn length(backends: &[BackendValue]) -> u32 {
    u32::try_from(backends.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
