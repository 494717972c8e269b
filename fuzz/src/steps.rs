//! Services and endpoints of a small world, where everything meets everything.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use svclb_common::Proto;
use svclb_core::model::{
    Conditions, Endpoint, EndpointPort, EndpointSlice, Family, Hints, Node, Object, ObjectKey,
    ObjectName, Service, ServicePort, ServiceType, TrafficPolicy,
};

use crate::cluster::{Cluster, NODE};

/// One thing that happens.
#[derive(Arbitrary, Debug)]
enum Step {
    PutService(u8, Shape),
    DeleteService(u8),
    PutSlice(u8, Slice),
    DeleteSlice(u8),
    PutNode {
        zone: Option<bool>,
        leaves: bool,
    },
    /// Everything is written.
    Write,
    /// The agent is killed after so many operations, and another one starts.
    Crash(u8),
}

#[derive(Arbitrary, Debug)]
struct Shape {
    created: u8,
    kind: u8,
    cluster_ip: Option<u8>,
    has_v6: bool,
    external: Option<u8>,
    ingress: Option<u8>,
    ranges: u8,
    ports: [Option<(bool, u8, u8)>; 3],
    affinity: Option<u8>,
    internal_is_local: bool,
    external_is_local: bool,
    health: u8,
}

#[derive(Arbitrary, Debug)]
struct Slice {
    service: u8,
    is_v6: bool,
    ports: [Option<(bool, u8)>; 3],
    endpoints: Vec<(u8, u8, u8)>,
}

/// Steps, of which each is written or not; at its end an agent that saw the same objects in
/// another order, or all at once, would have written the same.
pub fn plan(bytes: &[u8]) {
    const MOST: usize = 40;
    let mut cluster = Cluster::new();
    let mut source = Unstructured::new(bytes);
    cluster.synced();
    for _ in 0..MOST {
        if source.is_empty() {
            break;
        }
        let Ok(step) = source.arbitrary::<Step>() else {
            break;
        };
        match step {
            Step::PutService(number, shape) => {
                observe(&mut cluster, Object::Service(shape.service(number)));
            }
            Step::DeleteService(number) => {
                cluster.observe(ObjectKey::Service(service_name(number)), None);
            }
            Step::PutSlice(number, slice) => {
                observe(&mut cluster, Object::EndpointSlice(slice.slice(number)));
            }
            Step::DeleteSlice(number) => {
                cluster.observe(ObjectKey::EndpointSlice(slice_name(number)), None);
            }
            Step::PutNode { zone, leaves } => observe(
                &mut cluster,
                Object::Node(Node {
                    name: NODE.into(),
                    zone: zone.map(zone_name),
                    internal_ips: vec![Ipv4Addr::new(192, 0, 2, 1).into()],
                    being_deleted: leaves,
                    scaled_down: leaves,
                }),
            ),
            Step::Write => assert!(cluster.write(None)),
            Step::Crash(after) => {
                let _whole = cluster.write(Some(after.into()));
                cluster.restart();
            }
        }
    }
    assert!(cluster.write(None));
    cluster.check();
}

fn observe(cluster: &mut Cluster, object: Object) {
    cluster.observe(object.key(), Some(object));
}

fn service_name(number: u8) -> ObjectName {
    ObjectName::new("default", format!("service-{}", number % 4))
}

fn slice_name(number: u8) -> ObjectName {
    ObjectName::new("default", format!("slice-{}", number % 6))
}

fn port_name(is_first: bool) -> Arc<str> {
    if is_first { "a".into() } else { "b".into() }
}

fn zone_name(is_first: bool) -> Arc<str> {
    if is_first {
        "east".into()
    } else {
        "west".into()
    }
}

fn protocol(number: u8) -> Proto {
    [Proto::TCP, Proto::UDP, Proto::SCTP][usize::from(number % 3)]
}

fn policy(is_local: bool) -> TrafficPolicy {
    if is_local {
        TrafficPolicy::Local
    } else {
        TrafficPolicy::Cluster
    }
}

/// One of four addresses of each kind, so that Services want the same ones.
fn address(kind: u8, number: u8, is_v6: bool) -> IpAddr {
    let host = 1 + number % 4;
    if is_v6 {
        Ipv6Addr::new(0xfd00, kind.into(), 0, 0, 0, 0, 0, host.into()).into()
    } else {
        Ipv4Addr::new(10, kind, 0, host).into()
    }
}

impl Shape {
    fn service(self, number: u8) -> Service {
        let kinds = [
            ServiceType::ClusterIp,
            ServiceType::NodePort,
            ServiceType::LoadBalancer,
            ServiceType::ExternalName,
        ];
        let both = |kind, number: Option<u8>| {
            let addresses = number.into_iter().flat_map(move |number| {
                let v6 = self.has_v6.then(|| address(kind, number, true));
                [address(kind, number, false)].into_iter().chain(v6)
            });
            addresses.collect::<Vec<_>>()
        };
        let ranges = ["192.0.2.0/24", "0.0.0.0/0", "fd00::/16", "192.0.2.7/32"];
        let chosen = (0..)
            .zip(ranges)
            .filter(|(bit, _)| self.ranges >> bit & 1 != 0);
        let mut names = BTreeSet::new();
        let mut ports: Vec<_> = self
            .ports
            .into_iter()
            .flatten()
            .map(|(name, port, proto)| ServicePort {
                name: port_name(name),
                port: 80 + u16::from(port % 3),
                proto: protocol(proto),
                node_port: 30_000 * u16::from(port & 8 != 0),
            })
            .collect();
        ports.retain(|port| names.insert((Arc::clone(&port.name), port.proto)));
        Service {
            name: service_name(number),
            created: i64::from(self.created % 3),
            kind: kinds[usize::from(self.kind % 4)],
            cluster_ips: both(96, self.cluster_ip),
            external_ips: both(1, self.external),
            ingress_ips: both(2, self.ingress),
            source_ranges: chosen
                .map(|(_, range)| range.parse().expect("it is one"))
                .collect(),
            ports,
            affinity_seconds: self.affinity.map(u32::from),
            internal_policy: policy(self.internal_is_local),
            external_policy: policy(self.external_is_local),
            health_check_node_port: 31_000 * u16::from(self.health & 1),
            local_source: None,
        }
    }
}

impl Slice {
    fn slice(self, number: u8) -> EndpointSlice {
        let endpoints = self.endpoints.into_iter().take(6);
        EndpointSlice {
            name: slice_name(number),
            service: service_name(self.service).name,
            family: if self.is_v6 { Family::V6 } else { Family::V4 },
            ports: self
                .ports
                .into_iter()
                .flatten()
                .map(|(name, port)| EndpointPort {
                    name: port_name(name),
                    port: 8080 + u16::from(port % 2),
                    proto: protocol(port >> 1),
                })
                .collect(),
            endpoints: endpoints
                .map(|(host, state, location)| Endpoint {
                    addr: address(244, host, self.is_v6),
                    conditions: Conditions {
                        ready: state & 1 == 0,
                        serving: state & 2 == 0,
                        terminating: state & 4 != 0,
                    },
                    node: match location % 3 {
                        0 => None,
                        1 => Some(NODE.into()),
                        _ => Some("node2".into()),
                    },
                    hints: (state & 8 != 0).then(|| {
                        Box::new(Hints {
                            zones: vec![zone_name(location & 4 != 0)],
                            nodes: Vec::new(),
                        })
                    }),
                })
                .collect(),
        }
    }
}
