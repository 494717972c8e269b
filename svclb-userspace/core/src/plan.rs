//! Kubernetes' rules: from one Service and its slices to what its addresses should lead to.
//!
//! A pure function. Nothing outside this file knows what a traffic policy or a
//! terminating endpoint means.

mod endpoints;
mod health;

use svclb_common::{
    Addr16, BackendValue, FrontendKey, Label, PortBe, Proto, Scope, ServiceFamily, ServiceRecord,
    SlotRange,
};

use crate::model::{EndpointSlice, Family, Node, Service, ServicePort, ServiceType};
use endpoints::Endpoints;
pub use health::{HealthCheck, health_check, ineligible};

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
        if cluster_addresses(service, family).next().is_none() {
            continue;
        }
        let first = plans.len();
        for port in served_ports(service) {
            let Some(record) = record(service, port, family) else {
                continue;
            };
            let endpoints = Endpoints::of(port, slices.clone(), family);
            let (slots, internal, external) = endpoints.arrange(service, node);
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
        // It needs an owner; which port's plan that is makes no difference.
        if let Some(plan) = plans.get_mut(first) {
            plan.frontends.extend(other_ports(service, family));
        }
    }
    plans
}

/// Whether one of a Service's endpoints serves at an address and port, whatever policies,
/// topology or termination say: established flows to it stay where they are, as TCP's do.
pub(crate) fn serves<'a>(
    service: &Service,
    mut slices: impl Iterator<Item = &'a EndpointSlice>,
    frontend: &FrontendKey,
    backend: &BackendValue,
) -> bool {
    let names: Vec<_> = served_ports(service)
        .filter(|port| PortBe::new(port.port) == frontend.port && port.proto == frontend.proto)
        .map(|port| &port.name)
        .collect();
    slices.any(|slice| {
        let port = slice.ports.iter().any(|port| {
            names.contains(&&port.name)
                && port.proto == frontend.proto
                && PortBe::new(port.port) == backend.port
        });
        port && slice.endpoints.iter().any(|endpoint| {
            let conditions = endpoint.conditions;
            (conditions.ready || conditions.serving)
                && Addr16::from_ip(endpoint.addr) == backend.addr
        })
    })
}

/// The frontends that a Service claims, whatever its endpoints are.
pub(crate) fn frontends(service: &Service) -> Vec<FrontendKey> {
    if service.kind == ServiceType::ExternalName {
        return Vec::new();
    }
    let families = [Family::V4, Family::V6].into_iter().filter(|family| {
        cluster_addresses(service, *family).next().is_some()
            && served_ports(service).next().is_some()
    });
    families
        .flat_map(|family| {
            let ports =
                served_ports(service).flat_map(move |port| port_frontends(service, port, family));
            ports.chain(other_ports(service, family))
        })
        .collect()
}

/// SCTP has no socket hook that could serve it.
fn served_ports(service: &Service) -> impl Iterator<Item = &ServicePort> {
    let ports = service.ports.iter();
    ports.filter(|port| port.proto != Proto::SCTP)
}

fn cluster_addresses(service: &Service, family: Family) -> impl Iterator<Item = Addr16> {
    let ips = service.cluster_ips.iter();
    ips.filter(move |ip| Family::of(**ip) == family)
        .map(|ip| Addr16::from_ip(*ip))
}

/// A cluster IP is the Service's alone: what it has no port for is refused, as kube-proxy's
/// nftables mode does.
fn other_ports(service: &Service, family: Family) -> impl Iterator<Item = FrontendKey> {
    cluster_addresses(service, family).map(|addr| FrontendKey::other_ports(addr, Scope::ANY))
}

fn port_frontends(service: &Service, port: &ServicePort, family: Family) -> Vec<FrontendKey> {
    cluster_addresses(service, family)
        .map(|addr| FrontendKey {
            addr,
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

#[cfg(test)]
mod tests;
