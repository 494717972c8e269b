use std::sync::Arc;

use svclb_common::Proto;

use super::*;
use crate::model::{Conditions, Endpoint, EndpointPort, ServicePort};

fn service() -> Service {
    Service {
        name: ObjectName::new("default", "web"),
        created: 0,
        kind: ServiceType::LoadBalancer,
        cluster_ips: vec!["10.96.0.1".parse().unwrap()],
        external_ips: Vec::new(),
        ingress_ips: Vec::new(),
        source_ranges: Vec::new(),
        ports: vec![ServicePort {
            name: "http".into(),
            port: 80,
            proto: Proto::TCP,
            node_port: 0,
        }],
        affinity_seconds: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Local,
        health_check_node_port: 32_000,
        local_source: None,
    }
}

const READY: Conditions = Conditions {
    ready: true,
    serving: true,
    terminating: false,
};
const UNREADY: Conditions = Conditions {
    ready: false,
    serving: false,
    terminating: false,
};
const TERMINATING: Conditions = Conditions {
    ready: false,
    serving: true,
    terminating: true,
};

/// A slice of one port.
fn slice(port: u16, endpoints: &[(&str, &str, Conditions)]) -> EndpointSlice {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|(addr, node, conditions)| Endpoint {
            addr: addr.parse().unwrap(),
            conditions: *conditions,
            node: Some(Arc::from(*node)),
            hints: None,
        })
        .collect();
    EndpointSlice {
        name: ObjectName::new("default", format!("web-{port}")),
        service: "web".into(),
        family: Family::of(endpoints[0].addr),
        ports: vec![EndpointPort {
            name: "http".into(),
            port,
            proto: Proto::TCP,
        }],
        endpoints,
    }
}

fn check(service: &Service, slices: &[EndpointSlice]) -> Option<HealthCheck> {
    let node = Node {
        name: "here".into(),
        ..Node::default()
    };
    health_check(service, slices.iter(), &node)
}

fn local_endpoints(slices: &[EndpointSlice]) -> usize {
    check(&service(), slices).unwrap().local_endpoints
}

#[test]
fn only_a_load_balancer_with_local_traffic_and_a_port_for_it_is_checked() {
    assert_eq!(check(&service(), &[]).unwrap().port, 32_000);
    for other in [
        Service {
            kind: ServiceType::NodePort,
            ..service()
        },
        Service {
            external_policy: TrafficPolicy::Cluster,
            ..service()
        },
        Service {
            health_check_node_port: 0,
            local_source: None,
            ..service()
        },
    ] {
        assert_eq!(check(&other, &[]), None, "{other:?}");
    }
}

#[test]
fn a_service_that_is_not_proxied_is_not_checked() {
    for other in [
        Service {
            cluster_ips: Vec::new(),
            ..service()
        },
        Service {
            ports: Vec::new(),
            ..service()
        },
    ] {
        assert_eq!(check(&other, &[]), None, "{other:?}");
    }
}

#[test]
fn ready_endpoints_on_this_node_count() {
    let endpoints = [
        ("10.0.0.1", "here", READY),
        ("10.0.0.2", "here", UNREADY),
        ("10.0.0.3", "there", READY),
        ("10.0.0.4", "here", READY),
    ];
    assert_eq!(local_endpoints(&[slice(1, &endpoints)]), 2);
    assert_eq!(local_endpoints(&[]), 0);
}

#[test]
fn an_endpoint_without_a_node_is_on_no_node() {
    let mut slice = slice(1, &[("10.0.0.1", "here", READY)]);
    slice.endpoints[0].node = None;
    assert_eq!(local_endpoints(&[slice]), 0);
}

#[test]
fn a_terminating_endpoint_does_not_count_even_while_it_serves() {
    let only = [("10.0.0.1", "here", TERMINATING)];
    assert_eq!(local_endpoints(&[slice(1, &only)]), 0);
}

#[test]
fn an_address_counts_once_however_many_ports_it_serves() {
    let endpoints = [("10.0.0.1", "here", READY)];
    let both = [slice(1, &endpoints), slice(2, &endpoints)];
    assert_eq!(local_endpoints(&both), 1);
    let mut without_ports = slice(1, &endpoints);
    without_ports.ports.clear();
    assert_eq!(local_endpoints(&[without_ports]), 0);
}

#[test]
fn a_pod_with_an_address_of_each_family_counts_once() {
    let v4 = slice(
        1,
        &[("10.0.0.1", "here", READY), ("10.0.0.2", "here", READY)],
    );
    let v6 = slice(2, &[("fd00::1", "here", READY)]);
    assert_eq!(local_endpoints(&[v4, v6.clone()]), 2);
    assert_eq!(local_endpoints(&[v6]), 1);
}

#[test]
fn a_node_that_is_about_to_go_is_not_eligible() {
    assert_eq!(ineligible(&Node::default()), None);
    let deleted = Node {
        being_deleted: true,
        ..Node::default()
    };
    let scaled_down = Node {
        scaled_down: true,
        ..Node::default()
    };
    for node in [deleted, scaled_down] {
        assert!(ineligible(&node).is_some(), "{node:?}");
    }
}
