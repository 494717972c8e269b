//! The cluster: two nodes, their pods, and two Services with backends in common.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use svclb_common::Proto;
use svclb_core::model::{
    Conditions, Endpoint, EndpointPort, EndpointSlice, Event, Family, Object, ObjectName, Service,
    ServicePort, ServiceType, TrafficPolicy,
};

use super::node::PODS;

pub(crate) const NODES: usize = 2;
/// The first one is reached with `externalTrafficPolicy: Cluster`, the other one with `Local`.
pub(crate) const SERVICES: usize = 2;
/// Where all pods listen.
pub(crate) const TARGET: u16 = 8080;
/// Where load balancers announce all Services.
pub(crate) const PORT: u16 = 80;
/// The ports that nodes give to flows.
pub(crate) const SOURCE_PORTS: Range<u16> = 50_000..50_200;
/// Where servers outside the cluster listen.
pub(crate) const SERVER_PORT: u16 = 53;

fn ip(is_v6: bool, v4: [u8; 4], v6: [u16; 2]) -> IpAddr {
    if is_v6 {
        Ipv6Addr::new(0x2001, 0xdb8, v6[0], 0, 0, 0, 0, v6[1]).into()
    } else {
        Ipv4Addr::from(v4).into()
    }
}

pub(crate) fn node_name(node: usize) -> String {
    format!("node{node}")
}

fn small(number: usize) -> u8 {
    u8::try_from(number).unwrap()
}

pub(crate) fn node_ip(node: usize, is_v6: bool) -> IpAddr {
    let host = small(node) + 1;
    ip(is_v6, [192, 0, 2, host], [2, host.into()])
}

pub(crate) fn router(is_v6: bool) -> IpAddr {
    ip(is_v6, [192, 0, 2, 254], [2, 0xfe])
}

pub(crate) fn pod_ip(node: usize, pod: usize, is_v6: bool) -> IpAddr {
    let (net, host) = (small(node) + 1, small(pod) + 10);
    ip(
        is_v6,
        [10, 244, net, host],
        [0x244 + u16::from(net), host.into()],
    )
}

/// A client and server outside the cluster.
pub(crate) fn outside_ip(number: usize, is_v6: bool) -> IpAddr {
    let host = small(number) + 9;
    ip(is_v6, [198, 51, 100, host], [0x198, host.into()])
}

/// Where a load balancer announces a Service.
pub(crate) fn balanced(service: usize, is_v6: bool) -> IpAddr {
    let host = small(service) + 10;
    ip(is_v6, [203, 0, 113, host], [0x203, host.into()])
}

pub(crate) fn cluster_ip(service: usize, is_v6: bool) -> IpAddr {
    let host = small(service) + 10;
    ip(is_v6, [10, 96, 0, host], [0x96, host.into()])
}

pub(crate) const fn node_port(service: usize) -> u16 {
    30_080 + service as u16
}

/// Whether an address is a server's outside the cluster.
pub(crate) fn is_server(at: SocketAddr) -> bool {
    at.port() == SERVER_PORT
}

/// A port that a network plugin's rule gives to a pod's flow: any, among them those that have a meaning here.
pub(crate) fn masquerading_port() -> u16 {
    match fastrand::u8(0..4) {
        0 => node_port(fastrand::usize(0..SERVICES)),
        1 => fastrand::u16(SOURCE_PORTS),
        _ => fastrand::u16(32_768..=u16::MAX),
    }
}

/// The endpoints of each Service, as node and pod.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct View {
    pub(crate) endpoints: [BTreeSet<(usize, usize)>; SERVICES],
}

impl View {
    /// Any endpoints; sometimes none.
    pub(crate) fn random() -> Self {
        let one = |_| {
            let all = (0..NODES).flat_map(|node| (0..PODS).map(move |pod| (node, pod)));
            all.filter(|_| fastrand::u8(0..3) > 0).collect()
        };
        Self {
            endpoints: std::array::from_fn(one),
        }
    }

    /// The slices that say so.
    pub(crate) fn events(&self) -> Vec<Event> {
        let slices = self
            .endpoints
            .iter()
            .enumerate()
            .flat_map(|(service, endpoints)| {
                [false, true].map(|is_v6| slice(service, endpoints, is_v6))
            });
        slices
            .map(|slice| Event::Apply(Object::EndpointSlice(slice)))
            .collect()
    }
}

pub(crate) fn service(number: usize) -> Service {
    let port = |name: &str, proto| ServicePort {
        name: name.into(),
        port: PORT,
        proto,
        node_port: node_port(number),
    };
    let both = |of: fn(usize, bool) -> IpAddr| vec![of(number, false), of(number, true)];
    Service {
        name: ObjectName::new("default", format!("web{number}")),
        created: 0,
        kind: ServiceType::LoadBalancer,
        cluster_ips: both(cluster_ip),
        external_ips: Vec::new(),
        ingress_ips: both(balanced),
        source_ranges: Vec::new(),
        ports: vec![port("tcp", Proto::TCP), port("udp", Proto::UDP)],
        affinity_seconds: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: if number == 0 {
            TrafficPolicy::Cluster
        } else {
            TrafficPolicy::Local
        },
        health_check_node_port: 0,
        local_source: None,
    }
}

fn slice(service: usize, endpoints: &BTreeSet<(usize, usize)>, is_v6: bool) -> EndpointSlice {
    let port = |name: &str, proto| EndpointPort {
        name: name.into(),
        port: TARGET,
        proto,
    };
    let service: Arc<str> = format!("web{service}").into();
    EndpointSlice {
        name: ObjectName::new("default", format!("{service}-{is_v6}")),
        service,
        family: if is_v6 { Family::V6 } else { Family::V4 },
        ports: vec![port("tcp", Proto::TCP), port("udp", Proto::UDP)],
        endpoints: endpoints
            .iter()
            .map(|(node, pod)| Endpoint {
                addr: pod_ip(*node, *pod, is_v6),
                conditions: Conditions::default(),
                node: Some(node_name(*node).into()),
                hints: None,
            })
            .collect(),
    }
}
