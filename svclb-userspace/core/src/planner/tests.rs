use std::net::IpAddr;

use svclb_common::Proto;

use super::*;
use crate::model::{Object, ObjectKey, Service, ServicePort, ServiceType, TrafficPolicy};
use crate::serving::ServingIndex;

fn service(name: &str, created: i64) -> Service {
    Service {
        name: ObjectName::new("default", name),
        created,
        kind: ServiceType::ClusterIp,
        cluster_ips: vec![IpAddr::from([10, 96, 0, 1])],
        external_ips: Vec::new(),
        ingress_ips: Vec::new(),
        source_ranges: Vec::new(),
        ports: vec![ServicePort {
            name: "".into(),
            port: 80,
            proto: Proto::TCP,
            node_port: 0,
        }],
        affinity_seconds: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        health_check_node_port: 0,
        local_source: None,
    }
}

fn keys(service: &Service) -> Vec<FrontendKey> {
    let candidates = candidates(service, &NodeConfig::default());
    candidates
        .into_iter()
        .map(|frontend| frontend.key)
        .collect()
}

fn planner(services: &[Service]) -> Planner {
    let mut planner = Planner::new("node1");
    for service in services {
        planner.observe(Event::Apply(Object::Service(service.clone())));
    }
    planner
}

/// The Services that have the one frontend after a round.
fn holder(round: &Round) -> Vec<String> {
    round
        .plans
        .iter()
        .filter(|plan| !plan.frontends.is_empty())
        .map(|plan| plan.record.name.to_string())
        .collect()
}

#[test]
fn nothing_is_planned_before_the_source_is_synced() {
    let mut planner = planner(&[service("a", 1)]);
    assert_eq!(planner.next_round(100), None);
    planner.observe(Event::Synced);
    assert_eq!(
        planner.next_round(100).map(|round| round.plans.len()),
        Some(1)
    );
    assert_eq!(planner.next_round(100), None);
}

#[test]
fn the_older_service_has_the_address_and_the_other_takes_over_in_the_round_that_removes_it() {
    let mut planner = planner(&[service("a", 2), service("z", 1)]);
    planner.observe(Event::Synced);
    let round = planner.next_round(1).unwrap();
    assert_eq!(holder(&round), ["z"]);
    assert_eq!(round.conflicts.len(), 1);
    assert_eq!(planner.waiting().count(), 1);
    planner.observe(Event::Delete(ObjectKey::Service(ObjectName::new(
        "default", "z",
    ))));
    let round = planner.next_round(1).unwrap();
    assert_eq!(holder(&round), ["a"]);
    assert_eq!(round.removed.len(), 1);
    assert_eq!(planner.waiting().count(), 0);
}

#[test]
fn an_older_service_that_comes_later_takes_the_address() {
    let mut planner = planner(&[service("a", 2)]);
    planner.observe(Event::Synced);
    assert_eq!(holder(&planner.next_round(10).unwrap()), ["a"]);
    planner.observe(Event::Apply(Object::Service(service("z", 1))));
    assert_eq!(holder(&planner.next_round(10).unwrap()), ["z"]);
}

#[test]
fn a_service_that_did_not_change_is_not_planned_again() {
    let mut planner = planner(&[service("a", 1)]);
    planner.observe(Event::Synced);
    planner.next_round(10);
    planner.observe(Event::Apply(Object::Service(service("a", 1))));
    assert_eq!(planner.next_round(10), None);
}

#[test]
fn a_change_of_this_nodes_labels_plans_every_service_again_and_the_same_labels_none() {
    let mut planner = planner(&[service("a", 1)]);
    planner.observe(Event::Synced);
    assert!(planner.next_round(100).is_some());
    let node = crate::model::Node {
        name: "node1".into(),
        zone: Some("west".into()),
        ..crate::model::Node::default()
    };
    for changed in [true, false] {
        planner.observe(Event::Apply(Object::Node(node.clone())));
        assert_eq!(planner.next_round(100).is_some(), changed);
    }
    planner.observe(Event::Delete(ObjectKey::Node));
    assert!(planner.next_round(100).is_some(), "the zone is gone");
}

fn one_endpoint(service: &str) -> Event {
    use crate::model::{Conditions, Endpoint, EndpointPort, EndpointSlice, Family};
    Event::Apply(Object::EndpointSlice(EndpointSlice {
        name: ObjectName::new("default", format!("{service}-1")),
        service: service.into(),
        family: Family::V4,
        ports: vec![EndpointPort {
            name: "".into(),
            port: 8080,
            proto: Proto::TCP,
        }],
        endpoints: vec![Endpoint {
            addr: IpAddr::from([10, 0, 0, 1]),
            conditions: Conditions::default(),
            node: None,
            hints: None,
        }],
    }))
}

#[test]
fn a_flow_may_go_on_while_its_service_has_the_frontend_and_the_endpoint_serves() {
    let mut planner = planner(&[service("a", 1)]);
    planner.observe(one_endpoint("a"));
    planner.observe(Event::Synced);
    let _round = planner.next_round(100);
    let frontend = keys(&service("a", 1))[0];
    let backend = svclb_common::BackendValue::new(
        IpAddr::from([10, 0, 0, 1]).into(),
        svclb_common::PortBe::new(8080),
        Proto::TCP,
    );
    assert!(ServingIndex::new(&planner).serves(&frontend, &backend));
    planner.observe(Event::Delete(ObjectKey::Service(ObjectName::new(
        "default", "a",
    ))));
    let _round = planner.next_round(100);
    assert!(
        !ServingIndex::new(&planner).serves(&frontend, &backend),
        "the Service is gone"
    );
}

#[test]
fn a_socket_stays_refused_until_its_service_has_an_endpoint_or_is_gone() {
    let mut planner = planner(&[service("a", 1)]);
    let keys = keys(&service("a", 1));
    let (frontend, unknown) = (
        keys[0],
        FrontendKey {
            port: svclb_common::PortBe::new(81),
            ..keys[0]
        },
    );
    assert!(!planner.refuses(&frontend), "nothing is planned yet");
    planner.observe(Event::Synced);
    let _round = planner.next_round(100);
    assert!(planner.refuses(&frontend) && planner.refuses(&unknown));
    planner.observe(one_endpoint("a"));
    let _round = planner.next_round(100);
    assert!(!planner.refuses(&frontend), "it has an endpoint");
    assert!(planner.refuses(&unknown), "not a port of it");
    planner.observe(Event::Delete(ObjectKey::Service(ObjectName::new(
        "default", "a",
    ))));
    let _round = planner.next_round(100);
    assert!(!planner.refuses(&frontend) && !planner.refuses(&unknown));
}

#[test]
fn an_address_goes_to_the_cluster_ip_then_the_balancer_then_the_external_ip_then_the_node_port() {
    let ip = IpAddr::from([192, 0, 2, 1]);
    let at = |name: &str, created| {
        let mut service = service(name, created);
        service.cluster_ips = vec![IpAddr::from([10, 96, 1, created as u8])];
        service.kind = ServiceType::LoadBalancer;
        service
    };
    let mut node_port = at("node-port", 1);
    node_port.ports[0].node_port = 80;
    let mut external = at("external", 2);
    external.external_ips = vec![ip];
    let mut balanced = at("balanced", 3);
    balanced.ingress_ips = vec![ip];
    let mut cluster = at("cluster", 4);
    cluster.cluster_ips = vec![ip];
    let mut planner = Planner::new("node1");
    planner.set_node_config(NodeConfig {
        node_port_ips: vec![ip],
        external_ips: true,
        ..NodeConfig::default()
    });
    planner.observe(Event::Synced);
    let key = FrontendKey {
        addr: ip.into(),
        ..keys(&service("a", 1))[0]
    };
    // Each one that comes is the stronger one, and the one before is back when it goes.
    let services = [node_port, external, balanced, cluster];
    for service in &services {
        planner.observe(Event::Apply(Object::Service(service.clone())));
        let _round = planner.next_round(100);
        assert_eq!(planner.conflicts.holder(&key), Some(&service.name));
    }
    for pair in services.windows(2).rev() {
        planner.observe(Event::Delete(ObjectKey::Service(pair[1].name.clone())));
        let _round = planner.next_round(100);
        assert_eq!(planner.conflicts.holder(&key), Some(&pair[0].name));
    }
}

#[test]
fn node_ports_follow_the_nodes_addresses() {
    let mut service = service("a", 1);
    service.kind = ServiceType::NodePort;
    service.ports[0].node_port = 30080;
    let mut planner = planner(&[service]);
    planner.observe(Event::Synced);
    let mut reached = |ips: &[IpAddr]| {
        planner.set_node_config(NodeConfig {
            node_port_ips: ips.to_vec(),
            external_ips: true,
            ..NodeConfig::default()
        });
        let round = planner.next_round(100)?;
        let frontends = round.plans[0].frontends.iter();
        let node_ports = frontends.filter(|f| f.key.port.get() == 30080);
        Some(node_ports.map(|f| f.key.addr.to_ip()).collect::<Vec<_>>())
    };
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
    assert_eq!(reached(&[one]), Some(vec![loopback, one]));
    assert_eq!(reached(&[one]), None, "nothing changed");
    assert_eq!(reached(&[other]), Some(vec![loopback, other]));
}

fn balanced(name: &str, created: i64) -> Service {
    Service {
        kind: ServiceType::LoadBalancer,
        external_policy: TrafficPolicy::Local,
        health_check_node_port: 32_000,
        ..service(name, created)
    }
}

#[test]
fn a_round_says_which_health_checks_changed_and_no_others() {
    let mut planner = planner(&[balanced("a", 1), service("b", 2)]);
    planner.observe(Event::Synced);
    let round = planner.next_round(100).unwrap();
    let names: Vec<_> = round.health_checks.keys().map(|name| &*name.name).collect();
    assert_eq!(names, ["a"]);
    // An endpoint on no node changes a plan, and no health check.
    planner.observe(one_endpoint("a"));
    let round = planner.next_round(100).unwrap();
    assert!(!round.plans.is_empty() && round.health_checks.is_empty());
    planner.observe(Event::Apply(Object::Service(service("a", 1))));
    let round = planner.next_round(100).unwrap();
    let gone = (ObjectName::new("default", "a"), None);
    assert_eq!(round.health_checks.into_iter().collect::<Vec<_>>(), [gone]);
}

#[test]
fn a_node_that_is_about_to_go_plans_nothing_again() {
    let mut planner = planner(&[service("a", 1)]);
    planner.observe(Event::Synced);
    let _round = planner.next_round(100);
    assert_eq!(planner.cluster().known_node(), None);
    let node = crate::model::Node {
        name: "node1".into(),
        scaled_down: true,
        ..crate::model::Node::default()
    };
    planner.observe(Event::Apply(Object::Node(node.clone())));
    assert_eq!(planner.next_round(100), None);
    assert_eq!(planner.cluster().known_node(), Some(&node));
}

#[test]
fn what_could_not_be_written_is_in_the_next_round_again() {
    let mut both = service("a", 1);
    both.ports.push(ServicePort {
        name: "other".into(),
        port: 81,
        proto: Proto::TCP,
        node_port: 0,
    });
    let mut planner = planner(std::slice::from_ref(&both));
    planner.observe(Event::Synced);
    let round = planner.next_round(100).unwrap();
    let records: Vec<_> = round.plans.iter().map(|plan| plan.record).collect();

    planner.retry(records[0]);
    let round = planner.next_round(100).unwrap();
    assert_eq!((round.plans.len(), round.removed.len()), (2, 0));

    // A port that is no more.
    both.ports.pop();
    planner.observe(Event::Apply(Object::Service(both.clone())));
    for _ in 0..2 {
        let round = planner.next_round(100).unwrap();
        assert_eq!((round.plans.len(), round.removed), (1, vec![records[1]]));
        planner.retry(records[1]);
    }

    // A Service that is no more.
    planner.observe(Event::Delete(ObjectKey::Service(both.name)));
    let _removed = planner.next_round(100).unwrap();
    for record in records {
        planner.retry(record);
        let round = planner.next_round(100).unwrap();
        assert_eq!((round.plans.len(), round.removed), (0, vec![record]));
        assert!(planner.wanted().is_empty());
    }
    assert_eq!(planner.next_round(100), None);
}
