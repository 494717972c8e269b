//! At which addresses and ports a Service is reached.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use svclb_common::{Addr16, FrontendKey, PortBe, Proto, Scope};

use crate::model::{Family, NodeConfig, Service, ServicePort, ServiceType};

/// What kind of address a frontend is. The order is the precedence where several Services
/// want one address and port: what Kubernetes allots is never taken away by what a user writes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `status.loadBalancer.ingress[].ip`.
    LoadBalancer,
    /// `spec.externalIPs`.
    ExternalIp,
    /// `spec.ports[].nodePort` at an address of this node.
    NodePort,
}

/// A frontend that a Service wants.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Frontend {
    /// What kind of address it is.
    pub kind: FrontendKind,
    /// The address and port.
    pub key: FrontendKey,
}

/// Every frontend that a Service wants, whatever its endpoints are.
pub(crate) fn candidates(service: &Service, node_config: &NodeConfig) -> Vec<Frontend> {
    let mut all = Vec::new();
    for family in families(service) {
        for port in served_ports(service) {
            all.extend(of_port(service, port, family, node_config));
        }
        all.extend(other_ports(service, family, node_config));
    }
    all
}

/// The families in which a Service is served.
pub(super) fn families(service: &Service) -> impl Iterator<Item = Family> {
    let is_served =
        service.kind != ServiceType::ExternalName && served_ports(service).next().is_some();
    [Family::V4, Family::V6].into_iter().filter(move |family| {
        is_served && of_family(&service.cluster_ips, *family).next().is_some()
    })
}

/// The ports that have hooks: there is none that could serve SCTP.
pub(super) fn served_ports(service: &Service) -> impl Iterator<Item = &ServicePort> {
    let ports = service.ports.iter();
    ports.filter(|port| port.proto != Proto::SCTP)
}

/// The frontends of one port.
pub(super) fn of_port(
    service: &Service,
    port: &ServicePort,
    family: Family,
    node_config: &NodeConfig,
) -> Vec<Frontend> {
    let frontend = |kind, addr, number, scope| Frontend {
        kind,
        key: FrontendKey {
            addr,
            port: PortBe::new(number),
            proto: port.proto,
            scope,
        },
    };
    let at = |kind, ips: &[IpAddr]| -> Vec<Frontend> {
        of_family(ips, family)
            .map(|addr| frontend(kind, addr, port.port, Scope::ANY))
            .collect()
    };
    let mut all = at(FrontendKind::ClusterIp, &service.cluster_ips);
    for frontend in &mut all {
        if is_own(frontend.key.addr, node_config) {
            frontend.key.scope = Scope::BYPASSED;
        }
    }
    if service.kind == ServiceType::LoadBalancer {
        all.extend(at(FrontendKind::LoadBalancer, &service.ingress_ips));
    }
    if node_config.external_ips {
        all.extend(at(FrontendKind::ExternalIp, &service.external_ips));
    }
    let has_node_port = matches!(
        service.kind,
        ServiceType::NodePort | ServiceType::LoadBalancer
    );
    if has_node_port && port.node_port != 0 {
        let kind = FrontendKind::NodePort;
        let ips = of_family(&node_config.node_port_ips, family);
        all.extend(ips.map(|addr| frontend(kind, addr, port.node_port, Scope::ANY)));
        all.push(frontend(
            kind,
            loopback(family),
            port.node_port,
            Scope::HOST,
        ));
    }
    all
}

/// A cluster IP is the Service's alone: what it has no port for is refused, as kube-proxy's
/// nftables mode does.
pub(super) fn other_ports(
    service: &Service,
    family: Family,
    node_config: &NodeConfig,
) -> impl Iterator<Item = Frontend> {
    of_family(&service.cluster_ips, family)
        .filter(|addr| !is_own(*addr, node_config))
        .map(|addr| Frontend {
            kind: FrontendKind::ClusterIp,
            key: FrontendKey::other_ports(addr, Scope::ANY),
        })
}

/// Whether the node has an address on a device.
pub(super) fn is_own(addr: Addr16, node_config: &NodeConfig) -> bool {
    node_config.own_ips.contains(&addr.to_ip())
}

/// The loopback address that stands for all of them.
const fn loopback(family: Family) -> Addr16 {
    match family {
        Family::V4 => Addr16::from_ip(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Family::V6 => Addr16::from_ip(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    }
}

fn of_family(ips: &[IpAddr], family: Family) -> impl Iterator<Item = Addr16> {
    ips.iter()
        .filter(move |ip| Family::of(**ip) == family)
        .map(|ip| Addr16::from_ip(*ip))
}
