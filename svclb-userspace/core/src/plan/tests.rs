use std::net::IpAddr;
use std::sync::Arc;

use super::*;
use crate::model::{Conditions, Endpoint, EndpointPort, ObjectName};

fn service() -> Service {
    Service {
        name: ObjectName::new("default", "web"),
        created: 0,
        kind: ServiceType::ClusterIp,
        cluster_ips: vec!["10.96.0.1".parse().unwrap()],
        external_ips: Vec::new(),
        ingress_ips: Vec::new(),
        ports: vec![ServicePort {
            name: "http".into(),
            port: 80,
            proto: Proto::TCP,
            node_port: 0,
        }],
        affinity_seconds: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
    }
}

const READY: (bool, bool, bool) = (true, true, false);
const TERMINATING: (bool, bool, bool) = (false, true, true);
const UNREADY: (bool, bool, bool) = (false, false, false);

fn slice(port: u16, endpoints: &[(&str, &str, (bool, bool, bool))]) -> EndpointSlice {
    EndpointSlice {
        name: ObjectName::new("default", format!("web-{port}")),
        service: "web".into(),
        family: Family::V4,
        ports: vec![EndpointPort {
            name: "http".into(),
            port,
            proto: Proto::TCP,
        }],
        endpoints: endpoints
            .iter()
            .map(|(addr, node, (ready, serving, terminating))| Endpoint {
                addr: addr.parse().unwrap(),
                conditions: Conditions {
                    ready: *ready,
                    serving: *serving,
                    terminating: *terminating,
                },
                node: Some(Arc::from(*node)),
            })
            .collect(),
    }
}

/// The backends that clients inside the cluster choose from, on node `here`.
fn internal(service: &Service, slices: &[EndpointSlice]) -> Vec<String> {
    let node = Node {
        name: "here".into(),
        ..Node::default()
    };
    let plans = plan(service, slices.iter(), &node);
    let plan = &plans[0];
    let range = plan.internal.first as usize..(plan.internal.first + plan.internal.count) as usize;
    plan.slots[range]
        .iter()
        .map(|b| b.socket_addr().to_string())
        .collect()
}

#[test]
fn ready_endpoints_are_used_and_others_are_not() {
    let slices = [slice(
        8080,
        &[
            ("10.0.0.1", "here", READY),
            ("10.0.0.2", "there", UNREADY),
            ("10.0.0.3", "there", READY),
        ],
    )];
    assert_eq!(
        internal(&service(), &slices),
        ["10.0.0.1:8080", "10.0.0.3:8080"]
    );
}

#[test]
fn terminating_endpoints_serve_only_when_none_is_ready() {
    let both = [slice(
        1,
        &[
            ("10.0.0.1", "here", TERMINATING),
            ("10.0.0.2", "there", READY),
        ],
    )];
    assert_eq!(internal(&service(), &both), ["10.0.0.2:1"]);
    let only = [slice(
        1,
        &[
            ("10.0.0.1", "here", TERMINATING),
            ("10.0.0.2", "there", TERMINATING),
        ],
    )];
    assert_eq!(internal(&service(), &only), ["10.0.0.1:1", "10.0.0.2:1"]);
}

#[test]
fn internal_traffic_policy_local_uses_this_nodes_endpoints() {
    let local = Service {
        internal_policy: TrafficPolicy::Local,
        ..service()
    };
    let both = [slice(
        1,
        &[("10.0.0.2", "there", READY), ("10.0.0.9", "here", READY)],
    )];
    assert_eq!(internal(&local, &both), ["10.0.0.9:1"]);
    let none = [slice(1, &[("10.0.0.2", "there", READY)])];
    assert!(internal(&local, &none).is_empty());
}

#[test]
fn local_falls_back_to_this_nodes_terminating_endpoints_though_others_are_ready() {
    let local = Service {
        internal_policy: TrafficPolicy::Local,
        ..service()
    };
    let slices = [slice(
        1,
        &[
            ("10.0.0.2", "there", READY),
            ("10.0.0.9", "here", TERMINATING),
        ],
    )];
    assert_eq!(internal(&local, &slices), ["10.0.0.9:1"]);
}

#[test]
fn slices_are_united_and_duplicates_count_once() {
    let slices = [
        slice(1, &[("10.0.0.1", "here", READY)]),
        slice(1, &[("10.0.0.1", "here", READY)]),
        slice(2, &[("10.0.0.1", "here", READY)]),
    ];
    assert_eq!(internal(&service(), &slices), ["10.0.0.1:1", "10.0.0.1:2"]);
}

#[test]
fn of_two_records_of_one_address_the_one_that_does_not_terminate_wins() {
    for order in [[TERMINATING, READY], [READY, TERMINATING]] {
        let slices = order.map(|conditions| slice(1, &[("10.0.0.1", "here", conditions)]));
        let node = Node {
            name: "here".into(),
            ..Node::default()
        };
        let plans = plan(&service(), slices.iter(), &node);
        assert_eq!(plans[0].internal.count, 1);
        assert!(
            Endpoints::of(&service().ports[0], slices.iter(), Family::V4, &node)
                .terminating_local
                .is_empty()
        );
    }
}

#[test]
fn headless_and_external_name_services_have_no_plan() {
    let headless = Service {
        cluster_ips: Vec::new(),
        ..service()
    };
    let alias = Service {
        kind: ServiceType::ExternalName,
        ..service()
    };
    let node = Node::default();
    assert!(plan(&headless, [].iter(), &node).is_empty());
    assert!(plan(&alias, [].iter(), &node).is_empty());
}

#[test]
fn each_family_has_its_own_plan_and_endpoints() {
    let v6: IpAddr = "fd00::1".parse().unwrap();
    let dual = Service {
        cluster_ips: vec!["10.96.0.1".parse().unwrap(), v6],
        ..service()
    };
    let slices = [slice(1, &[("10.0.0.1", "here", READY)])];
    let plans = plan(&dual, slices.iter(), &Node::default());
    assert_eq!(plans.len(), 2);
    assert_eq!((plans[0].internal.count, plans[1].internal.count), (1, 0));
}

#[test]
fn ports_are_matched_by_name_and_protocol() {
    let mut other = service();
    other.ports[0].name = "https".into();
    let slices = [slice(1, &[("10.0.0.1", "here", READY)])];
    assert!(internal(&other, &slices).is_empty());
}
