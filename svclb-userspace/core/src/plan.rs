//! Kubernetes' rules: from one Service and its slices to what its addresses should lead to.
//!
//! A pure function. Nothing outside this file knows what a traffic policy or a
//! terminating endpoint means.

mod endpoints;
mod frontends;
mod health;
mod sources;

use std::collections::BTreeSet;
use std::sync::Arc;

use svclb_common::{
    Addr16, BackendValue, FrontendFlags, FrontendKey, FrontendValue, Generation, Label, PortBe,
    Proto, ServiceFamily, ServiceId, ServiceRecord, SlotRange, SourceRange,
};

use crate::model::{
    EndpointSlice, Family, LocalSource, Node, NodeConfig, Service, ServicePort, TrafficPolicy,
};
use endpoints::Endpoints;
pub(crate) use frontends::candidates;
pub use frontends::{Frontend, FrontendKind};
use frontends::{families, is_own, of_port, other_ports, served_ports};
pub use health::{HealthCheck, health_check, ineligible};
use sources::sources;

/// What one port of a Service should be in the maps, in one address family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortPlan {
    /// The Service port.
    pub record: ServiceRecord,
    /// The addresses that lead to it.
    pub frontends: Vec<Frontend>,
    /// The backends, ordered so that every policy's choice is a range of them.
    pub slots: Vec<BackendValue>,
    /// What clients of the cluster IP choose from (`internalTrafficPolicy`).
    pub internal: SlotRange,
    /// What clients inside the cluster that use an address for outside clients choose from:
    /// any endpoint, as if they had gone out and come back in.
    pub inside: SlotRange,
    /// What clients outside choose from (`externalTrafficPolicy`).
    pub external: SlotRange,
    /// The clients that may use the load balancer's addresses, in order; all if there is none.
    pub sources: Vec<SourceRange>,
    /// Which of its addresses the node itself has.
    pub own: BTreeSet<FrontendKey>,
    /// Whether backends on this node see an address of the node instead of a client's outside.
    pub masquerade: bool,
    /// Whether any endpoint serves, on whichever node.
    pub served: bool,
    /// How long a client stays with its backend after its last new connection, in
    /// seconds; zero without session affinity.
    pub affinity_seconds: u32,
    /// Whether a backend must be findable by its id within the slots: for session
    /// affinity, and for UDP sockets that stay with their backend while it lives.
    pub members: bool,
}

impl PortPlan {
    /// What one of its frontends leads to, in a generation that holds [`slots`](Self::slots).
    pub(crate) fn value(
        &self,
        frontend: &Frontend,
        service: ServiceId,
        generation: Generation,
    ) -> FrontendValue {
        let nowhere = FrontendValue {
            service,
            flags: FrontendFlags::CLUSTER_IP,
            ..FrontendValue::default()
        };
        if frontend.key.is_other_ports() {
            return nowhere;
        }
        let (internal, external) = match frontend.kind {
            FrontendKind::ClusterIp => (self.internal, self.internal),
            FrontendKind::LoadBalancer | FrontendKind::ExternalIp | FrontendKind::NodePort => {
                (self.inside, self.external)
            }
        };
        let flag = |flag, is_set| if is_set { flag } else { FrontendFlags::NONE };
        FrontendValue {
            generation,
            internal,
            external,
            affinity_seconds: self.affinity_seconds,
            flags: flag(FrontendFlags::MEMBERS, self.members)
                .union(flag(
                    FrontendFlags::DROPS_OUTSIDE,
                    self.served && external.count == 0,
                ))
                .union(flag(
                    FrontendFlags::NODE_PORT,
                    frontend.kind == FrontendKind::NodePort,
                ))
                .union(flag(
                    FrontendFlags::NODE_ADDRESS,
                    self.own.contains(&frontend.key),
                ))
                .union(flag(
                    FrontendFlags::MASQUERADE,
                    self.masquerade && frontend.kind != FrontendKind::ClusterIp,
                ))
                .union(flag(
                    FrontendFlags::CLUSTER_IP,
                    frontend.kind == FrontendKind::ClusterIp,
                ))
                .union(flag(
                    FrontendFlags::SOURCE_RANGES,
                    // An empty generation has no ranges.
                    frontend.kind == FrontendKind::LoadBalancer
                        && !self.sources.is_empty()
                        && !self.slots.is_empty(),
                )),
            ..nowhere
        }
    }
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
    node_config: &NodeConfig,
) -> Vec<PortPlan> {
    let mut plans = Vec::new();
    for family in families(service) {
        let first = plans.len();
        for port in served_ports(service) {
            let Some(record) = record(service, port, family) else {
                continue;
            };
            let endpoints = Endpoints::of(port, slices.clone(), family);
            let (slots, choices) = endpoints.arrange(service, node);
            let affinity_seconds = service.affinity_seconds.unwrap_or(0);
            let frontends = of_port(service, port, family, node_config);
            let has_balancer = frontends
                .iter()
                .any(|frontend| frontend.kind == FrontendKind::LoadBalancer);
            plans.push(PortPlan {
                record,
                sources: match has_balancer {
                    true => sources(service, family, node),
                    false => Vec::new(),
                },
                own: frontends
                    .iter()
                    .filter(|frontend| {
                        // A NodePort is at an address of the node, whatever device has it.
                        frontend.kind == FrontendKind::NodePort
                            || is_own(frontend.key.addr, node_config)
                    })
                    .map(|frontend| frontend.key)
                    .collect(),
                // With the policy Local backends see their clients.
                masquerade: service.external_policy == TrafficPolicy::Cluster
                    && service.local_source.unwrap_or(node_config.local_source)
                        == LocalSource::Masquerade,
                frontends,
                slots,
                internal: choices.of(service.internal_policy),
                inside: choices.of(TrafficPolicy::Cluster),
                external: choices.of(service.external_policy),
                served: !endpoints.is_empty(),
                affinity_seconds,
                members: affinity_seconds > 0 || port.proto == Proto::UDP,
            });
        }
        // It has to be in one port's plan; in which makes no difference.
        if let Some(plan) = plans.get_mut(first) {
            plan.frontends
                .extend(other_ports(service, family, node_config));
        }
    }
    plans
}

/// The address and port of an endpoint that serves.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct ServingBackend {
    addr: Addr16,
    port: PortBe,
}

impl From<&BackendValue> for ServingBackend {
    fn from(backend: &BackendValue) -> Self {
        Self {
            addr: backend.addr,
            port: backend.port,
        }
    }
}

/// The endpoints of a Service that serve clients of a port number (or NodePort), whatever
/// policies, topology or termination are: established flows to them stay where they are, as TCP's
/// do.
pub(crate) fn serving<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    number: PortBe,
    proto: Proto,
) -> impl Iterator<Item = ServingBackend> {
    let names: Vec<_> = served_ports(service)
        .filter(|port| [port.port, port.node_port].contains(&number.get()) && port.proto == proto)
        .map(|port| Arc::clone(&port.name))
        .collect();
    slices.flat_map(move |slice| {
        let ports = slice.ports.iter();
        let ports: Vec<_> = ports
            .filter(|port| names.contains(&port.name) && port.proto == proto)
            .map(|port| PortBe::new(port.port))
            .collect();
        let endpoints = slice.endpoints.iter();
        let endpoints =
            endpoints.filter(|endpoint| endpoint.conditions.ready || endpoint.conditions.serving);
        endpoints.flat_map(move |endpoint| {
            let addr = Addr16::from_ip(endpoint.addr);
            let ports = ports.clone().into_iter();
            ports.map(move |port| ServingBackend { addr, port })
        })
    })
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

#[cfg(test)]
mod tests;
