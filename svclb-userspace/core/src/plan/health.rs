//! Health checks by load balancers outside the cluster: whether to send traffic to this node.

use std::collections::BTreeSet;

use crate::model::{EndpointSlice, Family, Node, ObjectName, Service, ServiceType, TrafficPolicy};

/// The state that a Service's `healthCheckNodePort` reports on this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthCheck {
    /// Whose it is.
    pub service: ObjectName,
    /// `healthCheckNodePort`, 1 to 65535.
    pub port: u16,
    /// How many Ready endpoints are on this node.
    pub local_endpoints: usize,
    /// The older Service that has the port: this one has to wait for it.
    pub waits_for: Option<ObjectName>,
}

/// The health check of a Service. Only a load balancer that hands traffic to nodes with an
/// endpoint has to know which these are.
///
/// An endpoint is an address, however many ports it serves. One that terminates is none,
/// even while it still serves: nothing new is to be sent to it. The families are counted apart,
/// as kube-proxy's two halves do, and the greater number holds: a pod with an address of each is
/// one endpoint.
pub fn health_check<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice> + Clone,
    node: &Node,
) -> Option<HealthCheck> {
    let wanted = service.kind == ServiceType::LoadBalancer
        && service.external_policy == TrafficPolicy::Local
        && service.health_check_node_port != 0
        && !service.cluster_ips.is_empty()
        && !service.ports.is_empty();
    let local = |family| {
        slices
            .clone()
            .filter(move |slice| slice.family == family && !slice.ports.is_empty())
            .flat_map(|slice| &slice.endpoints)
            .filter(|endpoint| endpoint.conditions.ready)
            .filter(|endpoint| endpoint.node.as_deref() == Some(&*node.name))
            .map(|endpoint| endpoint.addr)
            .collect::<BTreeSet<_>>()
            .len()
    };
    wanted.then(|| HealthCheck {
        service: service.name.clone(),
        port: service.health_check_node_port,
        local_endpoints: local(Family::V4).max(local(Family::V6)),
        waits_for: None,
    })
}

/// Why load balancers should send this node nothing new, whatever the Service; `None` if they
/// may (KEP-3836). A node that is cordoned is eligible: its endpoints stay.
pub fn ineligible(node: &Node) -> Option<&'static str> {
    if node.being_deleted {
        Some("this node is being deleted")
    } else if node.scaled_down {
        Some("the cluster autoscaler is about to remove this node")
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
