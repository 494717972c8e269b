use std::net::IpAddr;
use std::sync::Arc;

use svclb_common::{FrontendKey, Scope};

use super::*;
use crate::model::{Conditions, Endpoint, EndpointPort, Hints, ObjectName, ServiceType};

fn service() -> Service {
    Service {
        name: ObjectName::new("default", "web"),
        created: 0,
        kind: ServiceType::ClusterIp,
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
        external_policy: TrafficPolicy::Cluster,
        health_check_node_port: 0,
        local_source: None,
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
                hints: None,
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
    let plans = plan(service, slices.iter(), &node, &NodeConfig::default());
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
        let plans = plan(&service(), slices.iter(), &node, &NodeConfig::default());
        assert_eq!(plans[0].slots.len(), 1);
        assert_eq!(plans[0].internal.count, 1);
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
    assert!(plan(&headless, [].iter(), &node, &NodeConfig::default()).is_empty());
    assert!(plan(&alias, [].iter(), &node, &NodeConfig::default()).is_empty());
}

#[test]
fn each_family_has_its_own_plan_and_endpoints() {
    let v6: IpAddr = "fd00::1".parse().unwrap();
    let dual = Service {
        cluster_ips: vec!["10.96.0.1".parse().unwrap(), v6],
        ..service()
    };
    let slices = [slice(1, &[("10.0.0.1", "here", READY)])];
    let plans = plan(
        &dual,
        slices.iter(),
        &Node::default(),
        &NodeConfig::default(),
    );
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

#[test]
fn two_slices_may_define_different_port_numbers_for_one_port_name() {
    let slices = [
        slice(8080, &[("10.0.0.1", "here", READY)]),
        slice(9090, &[("10.0.0.2", "there", READY)]),
    ];
    assert_eq!(
        internal(&service(), &slices),
        ["10.0.0.1:8080", "10.0.0.2:9090"]
    );
}

#[test]
fn an_endpoint_on_another_node_than_before_is_no_longer_local() {
    let local = Service {
        internal_policy: TrafficPolicy::Local,
        ..service()
    };
    let before = [slice(1, &[("10.0.0.1", "here", READY)])];
    let after = [slice(1, &[("10.0.0.1", "there", READY)])];
    assert_eq!(internal(&local, &before), ["10.0.0.1:1"]);
    assert!(internal(&local, &after).is_empty());
}

#[test]
fn a_terminating_endpoint_that_no_longer_serves_is_never_used() {
    let failed = (false, false, true);
    let slices = [slice(1, &[("10.0.0.1", "here", failed)])];
    assert!(internal(&service(), &slices).is_empty());
}

#[test]
fn publish_not_ready_addresses_comes_as_ready_from_upstream_and_needs_no_rule() {
    let published = (true, false, true);
    let slices = [slice(1, &[("10.0.0.1", "here", published)])];
    assert_eq!(internal(&service(), &slices), ["10.0.0.1:1"]);
}

#[test]
fn internal_and_external_policy_are_independent() {
    let service = Service {
        external_policy: TrafficPolicy::Local,
        ..service()
    };
    let slices = [slice(
        1,
        &[("10.0.0.1", "here", READY), ("10.0.0.2", "there", READY)],
    )];
    assert_eq!(internal(&service, &slices), ["10.0.0.1:1", "10.0.0.2:1"]);
    let plan = &plan(&service, slices.iter(), &here(None), &NodeConfig::default())[0];
    assert_eq!(plan.external, SlotRange { first: 0, count: 1 });
}

#[test]
fn with_external_policy_local_this_nodes_terminating_endpoints_serve_outside_clients_only() {
    let service = Service {
        external_policy: TrafficPolicy::Local,
        ..service()
    };
    let slices = [slice(
        1,
        &[
            ("10.0.0.1", "here", TERMINATING),
            ("10.0.0.2", "there", READY),
        ],
    )];
    let plan = &plan(&service, slices.iter(), &here(None), &NodeConfig::default())[0];
    assert_eq!(chosen(plan, plan.internal), ["10.0.0.2:1"]);
    assert_eq!(chosen(plan, plan.external), ["10.0.0.1:1"]);
}

fn here(zone: Option<&str>) -> Node {
    Node {
        name: "here".into(),
        zone: zone.map(Into::into),
        ..Node::default()
    }
}

fn chosen(plan: &PortPlan, range: SlotRange) -> Vec<String> {
    plan.slots[range.first as usize..(range.first + range.count) as usize]
        .iter()
        .map(|backend| backend.socket_addr().to_string())
        .collect()
}

/// A slice whose endpoints have hints: address, node, for which zones, for which nodes.
fn hinted(endpoints: &[(&str, &str, &[&str], &[&str])]) -> EndpointSlice {
    let plain: Vec<_> = endpoints
        .iter()
        .map(|(addr, node, ..)| (*addr, *node, READY))
        .collect();
    let mut slice = slice(1, &plain);
    for (endpoint, (.., zones, nodes)) in slice.endpoints.iter_mut().zip(endpoints) {
        let names = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
        endpoint.hints = Some(Box::new(Hints {
            zones: names(zones),
            nodes: names(nodes),
        }));
    }
    slice
}

fn in_zone(zone: Option<&str>, slices: &[EndpointSlice]) -> Vec<String> {
    let plan = &plan(
        &service(),
        slices.iter(),
        &here(zone),
        &NodeConfig::default(),
    )[0];
    chosen(plan, plan.internal)
}

#[test]
fn zone_hints_choose_the_endpoints_for_this_nodes_zone() {
    let slices = [hinted(&[
        ("10.0.0.1", "there", &["east"], &[]),
        ("10.0.0.2", "there", &["west"], &[]),
        ("10.0.0.3", "there", &["west", "east"], &[]),
    ])];
    assert_eq!(in_zone(Some("west"), &slices), ["10.0.0.2:1", "10.0.0.3:1"]);
}

#[test]
fn one_endpoint_without_a_zone_hint_disables_them_all() {
    let slices = [hinted(&[
        ("10.0.0.1", "there", &["east"], &[]),
        ("10.0.0.2", "there", &[], &[]),
    ])];
    assert_eq!(in_zone(Some("east"), &slices), ["10.0.0.1:1", "10.0.0.2:1"]);
    let none = [
        hinted(&[("10.0.0.1", "there", &["east"], &[])]),
        slice(1, &[("10.0.0.2", "there", READY)]),
    ];
    assert_eq!(in_zone(Some("east"), &none), ["10.0.0.1:1", "10.0.0.2:1"]);
}

#[test]
fn hints_that_name_no_endpoint_for_this_zone_or_unknown_zones_are_ignored() {
    let slices = [hinted(&[("10.0.0.1", "there", &["mars"], &[])])];
    assert_eq!(in_zone(Some("west"), &slices), ["10.0.0.1:1"]);
    assert_eq!(in_zone(None, &slices), ["10.0.0.1:1"]);
}

#[test]
fn node_hints_come_before_zone_hints() {
    let slices = [hinted(&[
        ("10.0.0.1", "here", &["west"], &["here"]),
        ("10.0.0.2", "there", &["west"], &["there"]),
    ])];
    assert_eq!(in_zone(Some("west"), &slices), ["10.0.0.1:1"]);
}

#[test]
fn without_an_endpoint_for_this_node_the_zones_hints_count() {
    let slices = [hinted(&[
        ("10.0.0.1", "there", &["east"], &["there"]),
        ("10.0.0.2", "there", &["west"], &["there"]),
    ])];
    assert_eq!(in_zone(Some("west"), &slices), ["10.0.0.2:1"]);
}

#[test]
fn a_terminating_endpoint_without_hints_disables_nothing_and_falls_back_without_topology() {
    let ready = hinted(&[
        ("10.0.0.1", "there", &["east"], &[]),
        ("10.0.0.2", "there", &["west"], &[]),
    ]);
    let terminating = slice(1, &[("10.0.0.3", "there", TERMINATING)]);
    let both = [ready, terminating.clone()];
    assert_eq!(in_zone(Some("west"), &both), ["10.0.0.2:1"]);
    let mut leaving = hinted(&[("10.0.0.1", "there", &["east"], &[])]);
    leaving.endpoints[0].conditions.ready = false;
    leaving.endpoints[0].conditions.terminating = true;
    let only = [leaving, terminating];
    assert_eq!(in_zone(Some("west"), &only), ["10.0.0.1:1", "10.0.0.3:1"]);
}

#[test]
fn topology_is_never_combined_with_local() {
    let slices = [hinted(&[
        ("10.0.0.1", "here", &["east"], &[]),
        ("10.0.0.2", "there", &["west"], &[]),
    ])];
    let service = Service {
        internal_policy: TrafficPolicy::Local,
        ..service()
    };
    let plan = &plan(
        &service,
        slices.iter(),
        &here(Some("west")),
        &NodeConfig::default(),
    )[0];
    assert_eq!(chosen(plan, plan.internal), ["10.0.0.1:1"]);
    assert_eq!(chosen(plan, plan.external), ["10.0.0.2:1"]);
}

#[test]
fn local_and_topology_may_share_endpoints_and_each_is_one_range() {
    let slices = [hinted(&[
        ("10.0.0.1", "here", &["east"], &[]),
        ("10.0.0.2", "here", &["west"], &[]),
        ("10.0.0.3", "there", &["west"], &[]),
    ])];
    let service = Service {
        internal_policy: TrafficPolicy::Local,
        ..service()
    };
    let plan = &plan(
        &service,
        slices.iter(),
        &here(Some("west")),
        &NodeConfig::default(),
    )[0];
    assert_eq!(chosen(plan, plan.internal), ["10.0.0.1:1", "10.0.0.2:1"]);
    assert_eq!(chosen(plan, plan.external), ["10.0.0.2:1", "10.0.0.3:1"]);
    assert_eq!(plan.slots.len(), 3);
}

#[test]
fn a_cluster_ip_refuses_the_ports_that_its_service_does_not_have() {
    let plans = plan(&service(), [].iter(), &here(None), &NodeConfig::default());
    let other = FrontendKey::other_ports(Addr16::from_ip([10, 96, 0, 1].into()), Scope::ANY);
    let planned = plans[0].frontends.iter();
    assert!(planned.map(|frontend| frontend.key).any(|key| key == other));
}

#[test]
fn a_service_of_sctp_ports_alone_has_no_frontend_at_all() {
    let mut sctp = service();
    sctp.ports[0].proto = Proto::SCTP;
    assert!(plan(&sctp, [].iter(), &here(None), &NodeConfig::default()).is_empty());
    assert!(candidates(&sctp, &NodeConfig::default()).is_empty());
}

#[test]
fn what_is_claimed_is_what_is_planned() {
    let dual = Service {
        cluster_ips: vec!["10.96.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        ..service()
    };
    for service in [service(), dual, balanced()] {
        let planned = plan(&service, [].iter(), &here(None), &node_config());
        let mut planned: Vec<_> = planned.into_iter().flat_map(|p| p.frontends).collect();
        let mut candidates = candidates(&service, &node_config());
        planned.sort();
        candidates.sort();
        assert_eq!(planned, candidates);
    }
}

#[test]
fn cluster_ips_may_come_from_any_range() {
    let two = Service {
        cluster_ips: vec!["192.0.2.7".parse().unwrap()],
        ..service()
    };
    let slices = [slice(1, &[("10.0.0.1", "here", READY)])];
    assert_eq!(internal(&two, &slices), ["10.0.0.1:1"]);
}

#[test]
fn a_flow_to_a_serving_endpoint_goes_on_whatever_policy_and_topology_say() {
    let local = Service {
        internal_policy: TrafficPolicy::Local,
        ..service()
    };
    let slices = [
        hinted(&[("10.0.0.1", "there", &["mars"], &[])]),
        slice(1, &[("10.0.0.2", "there", TERMINATING)]),
        slice(1, &[("10.0.0.3", "here", UNREADY)]),
    ];
    let serves = |addr: [u8; 4], port: u16| {
        let frontend = FrontendKey {
            addr: Addr16::from_ip([10, 96, 0, 1].into()),
            port: PortBe::new(80),
            proto: Proto::TCP,
            scope: Scope::ANY,
        };
        let backend =
            BackendValue::new(Addr16::from_ip(addr.into()), PortBe::new(port), Proto::TCP);
        serving(&local, slices.iter(), frontend.port, frontend.proto)
            .any(|serving| serving == ServingBackend::from(&backend))
    };
    assert!(serves([10, 0, 0, 1], 1), "another zone's");
    assert!(serves([10, 0, 0, 2], 1), "a terminating one");
    assert!(!serves([10, 0, 0, 3], 1), "one that does not serve");
    assert!(!serves([10, 0, 0, 1], 2), "another port");
    assert!(!serves([10, 0, 0, 4], 1), "one that is gone");
}

#[test]
fn of_two_slices_that_contradict_each_other_the_one_that_says_ready_counts() {
    for order in [[UNREADY, READY], [READY, UNREADY]] {
        let slices = order.map(|conditions| slice(1, &[("10.0.0.1", "here", conditions)]));
        assert_eq!(internal(&service(), &slices), ["10.0.0.1:1"]);
    }
}

#[test]
fn what_a_slice_does_not_say_of_an_endpoint_means_ready_serving_and_not_terminating() {
    let Conditions {
        ready,
        serving,
        terminating,
    } = Conditions::default();
    assert!(ready && serving && !terminating);
}

#[test]
fn without_a_usable_endpoint_a_frontend_stays_and_refuses() {
    for slices in [vec![], vec![slice(1, &[("10.0.0.1", "here", UNREADY)])]] {
        let plan = &plan(
            &service(),
            slices.iter(),
            &here(None),
            &NodeConfig::default(),
        )[0];
        assert_eq!((plan.internal.count, plan.external.count), (0, 0));
        assert!(!plan.frontends.is_empty());
    }
}

#[test]
fn two_ports_may_share_a_number_with_different_protocols() {
    let mut both = service();
    both.ports.push(ServicePort {
        name: "http-udp".into(),
        proto: Proto::UDP,
        ..both.ports[0].clone()
    });
    let plans = plan(&both, [].iter(), &here(None), &NodeConfig::default());
    let keys: Vec<_> = plans.iter().map(|plan| plan.frontends[0].key).collect();
    assert_eq!(keys[0].port, keys[1].port);
    assert_ne!(keys[0], keys[1]);
}

#[test]
fn affinity_is_of_each_service_port_and_switched_by_the_service() {
    let mut two = service();
    two.affinity_seconds = Some(100);
    two.ports.push(ServicePort {
        name: "other".into(),
        port: 81,
        ..two.ports[0].clone()
    });
    let plans = plan(&two, [].iter(), &here(None), &NodeConfig::default());
    assert_ne!(
        plans[0].record, plans[1].record,
        "an id of its own for each"
    );
    assert!(plans.iter().all(|p| p.affinity_seconds == 100 && p.members));
    two.affinity_seconds = None;
    let plans = plan(&two, [].iter(), &here(None), &NodeConfig::default());
    assert!(plans.iter().all(|p| p.affinity_seconds == 0 && !p.members));
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A node with an address of each family for NodePorts.
fn node_config() -> NodeConfig {
    NodeConfig {
        node_port_ips: vec![ip("192.0.2.7"), ip("2001:db8::7")],
        external_ips: true,
        ..NodeConfig::default()
    }
}

/// A LoadBalancer with every kind of address.
fn balanced() -> Service {
    let mut service = Service {
        kind: ServiceType::LoadBalancer,
        external_ips: vec![ip("198.51.100.1")],
        ingress_ips: vec![ip("203.0.113.1")],
        ..service()
    };
    service.ports[0].node_port = 30080;
    service
}

/// The frontends of a Service, but for the cluster IP's other ports.
fn reached_at(service: &Service, node_config: &NodeConfig) -> Vec<(FrontendKind, String)> {
    let mut candidates = candidates(service, node_config);
    candidates.retain(|frontend| !frontend.key.is_other_ports());
    candidates
        .iter()
        .map(|frontend| (frontend.kind, frontend.key.socket_addr().to_string()))
        .collect()
}

#[test]
fn a_load_balancer_is_reached_at_its_cluster_ip_ingress_ips_external_ips_and_node_port() {
    assert_eq!(
        reached_at(&balanced(), &node_config()),
        [
            (FrontendKind::ClusterIp, "10.96.0.1:80".to_owned()),
            (FrontendKind::LoadBalancer, "203.0.113.1:80".to_owned()),
            (FrontendKind::ExternalIp, "198.51.100.1:80".to_owned()),
            (FrontendKind::NodePort, "192.0.2.7:30080".to_owned()),
            (FrontendKind::NodePort, "127.0.0.1:30080".to_owned()),
        ]
    );
}

#[test]
fn a_node_port_at_a_loopback_address_is_for_the_host_alone() {
    for frontend in candidates(&balanced(), &node_config()) {
        let is_loopback = frontend.key.addr.is_loopback();
        assert_eq!(is_loopback, frontend.key.scope == Scope::HOST);
    }
}

#[test]
fn a_cluster_ip_that_the_node_has_on_a_device_is_its_own_and_other_addresses_are_served() {
    let service = balanced();
    let all = [service.cluster_ips.clone(), service.ingress_ips.clone()].concat();
    let node_config = NodeConfig {
        own_ips: all.into_iter().collect(),
        ..node_config()
    };
    let slices = [slice(8080, &[("10.244.0.2", "here", READY)])];
    let plans = plan(&service, slices.iter(), &here(None), &node_config);
    for frontend in &plans[0].frontends {
        let value = plans[0].value(frontend, ServiceId::new(1), Generation::new(1));
        let is_cluster_ip = frontend.kind == FrontendKind::ClusterIp;
        assert_eq!(is_cluster_ip, frontend.key.scope == Scope::BYPASSED);
        assert!(
            !frontend.key.is_other_ports(),
            "it refuses the node's ports"
        );
        // What a load balancer's address and the kernel's own have in common.
        let is_own = frontend.kind != FrontendKind::ExternalIp;
        let flagged = value.flags.contains(FrontendFlags::NODE_ADDRESS);
        assert_eq!(flagged, is_own, "{frontend:?}");
    }
}

#[test]
fn clients_outside_are_masqueraded_where_the_service_or_else_the_node_says_so_and_never_with_local()
{
    use LocalSource::{Keep, Masquerade};
    let slices = [slice(8080, &[("10.244.0.2", "here", READY)])];
    let masqueraded = |of_node, of_service, policy| {
        let service = Service {
            local_source: of_service,
            external_policy: policy,
            ..balanced()
        };
        let node_config = NodeConfig {
            local_source: of_node,
            ..node_config()
        };
        let plans = plan(&service, slices.iter(), &here(None), &node_config);
        let frontends = plans[0].frontends.iter().filter(|frontend| {
            let value = plans[0].value(frontend, ServiceId::new(1), Generation::new(1));
            value.flags.contains(FrontendFlags::MASQUERADE)
        });
        let kinds: BTreeSet<_> = frontends.map(|frontend| frontend.kind).collect();
        assert!(!kinds.contains(&FrontendKind::ClusterIp));
        !kinds.is_empty()
    };
    let cluster = TrafficPolicy::Cluster;
    assert!(!masqueraded(Keep, None, cluster));
    assert!(masqueraded(Masquerade, None, cluster));
    assert!(masqueraded(Keep, Some(Masquerade), cluster));
    assert!(!masqueraded(Masquerade, Some(Keep), cluster));
    assert!(!masqueraded(Masquerade, None, TrafficPolicy::Local));
}

fn sources_of(ranges: &[&str], internal_ips: Vec<IpAddr>) -> (Vec<String>, Vec<FrontendKind>) {
    let service = Service {
        source_ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        ..balanced()
    };
    let slices = [slice(8080, &[("10.244.0.2", "here", READY)])];
    let node = Node {
        name: "here".into(),
        internal_ips,
        ..Node::default()
    };
    let plans = plan(&service, slices.iter(), &node, &node_config());
    let plan = &plans[0];
    let limited = plan.frontends.iter().filter(|frontend| {
        let value = plan.value(frontend, ServiceId::new(1), Generation::new(1));
        value.flags.contains(FrontendFlags::SOURCE_RANGES)
    });
    let limited = limited.map(|frontend| frontend.kind).collect();
    (
        plan.sources.iter().map(ToString::to_string).collect(),
        limited,
    )
}

#[test]
fn source_ranges_limit_the_load_balancers_addresses_and_no_others() {
    let (sources, limited) = sources_of(&["198.51.100.0/24", "192.0.2.128/25"], Vec::new());
    assert_eq!(sources, ["192.0.2.128/25", "198.51.100.0/24"]);
    assert_eq!(limited, [FrontendKind::LoadBalancer]);
}

#[test]
fn ranges_of_the_other_family_and_lists_with_every_address_limit_nobody() {
    for ranges in [&[][..], &["2001:db8::/32"], &["192.0.2.0/24", "0.0.0.0/0"]] {
        let (sources, limited) = sources_of(ranges, Vec::new());
        assert!(sources.is_empty() && limited.is_empty(), "{ranges:?}");
    }
}

#[test]
fn where_the_node_may_use_a_load_balancer_so_may_the_balancers_own_address() {
    let node = vec![ip("192.0.2.7")];
    let (sources, _) = sources_of(&["192.0.2.0/24"], node.clone());
    assert_eq!(sources, ["192.0.2.0/24", "203.0.113.1/32"]);
    let (sources, _) = sources_of(&["198.51.100.0/24"], node);
    assert_eq!(sources, ["198.51.100.0/24"]);
}

#[test]
fn a_load_balancer_without_node_ports_is_reached_at_its_ingress_ips() {
    let mut service = balanced();
    service.ports[0].node_port = 0;
    let reached = reached_at(&service, &node_config());
    assert!(reached.contains(&(FrontendKind::LoadBalancer, "203.0.113.1:80".to_owned())));
    assert!(
        reached
            .iter()
            .all(|(kind, _)| *kind != FrontendKind::NodePort)
    );
}

#[test]
fn a_service_of_type_cluster_ip_is_not_reached_at_node_ports_or_ingress_ips_that_it_had_before() {
    let service = Service {
        kind: ServiceType::ClusterIp,
        external_ips: Vec::new(),
        ..balanced()
    };
    let reached = reached_at(&service, &node_config());
    assert_eq!(
        reached,
        [(FrontendKind::ClusterIp, "10.96.0.1:80".to_owned())]
    );
}

#[test]
fn external_ips_are_served_for_any_type_and_only_if_the_operator_allows_them() {
    let service = Service {
        kind: ServiceType::ClusterIp,
        ..balanced()
    };
    let external = (FrontendKind::ExternalIp, "198.51.100.1:80".to_owned());
    assert!(reached_at(&service, &node_config()).contains(&external));
    let refused = NodeConfig {
        external_ips: false,
        ..node_config()
    };
    assert!(!reached_at(&service, &refused).contains(&external));
}

#[test]
fn a_node_port_answers_at_the_nodes_addresses_of_the_services_families() {
    let dual = Service {
        cluster_ips: vec![ip("10.96.0.1"), ip("fd00::1")],
        ..balanced()
    };
    let node_ports = |service: &Service| {
        let mut reached = reached_at(service, &node_config());
        reached.retain(|(kind, _)| *kind == FrontendKind::NodePort);
        reached.into_iter().map(|(_, at)| at).collect::<Vec<_>>()
    };
    assert_eq!(
        node_ports(&balanced()),
        ["192.0.2.7:30080", "127.0.0.1:30080"]
    );
    assert_eq!(
        node_ports(&dual),
        [
            "192.0.2.7:30080",
            "127.0.0.1:30080",
            "[2001:db8::7]:30080",
            "[::1]:30080"
        ]
    );
}

/// What each kind of frontend offers clients inside and outside the cluster, and whether it
/// drops the latter.
fn offers(
    service: &Service,
    endpoints: &[(&str, &str, (bool, bool, bool))],
    kind: FrontendKind,
) -> (Vec<String>, Vec<String>, bool) {
    let slices = [slice(1, endpoints)];
    let plan = &plan(service, slices.iter(), &here(None), &node_config())[0];
    let frontend = plan
        .frontends
        .iter()
        .find(|frontend| frontend.kind == kind)
        .unwrap();
    let value = plan.value(frontend, ServiceId::new(1), Generation::new(1));
    (
        chosen(plan, value.internal),
        chosen(plan, value.external),
        value.flags.contains(FrontendFlags::DROPS_OUTSIDE),
    )
}

const OUTWARD: [FrontendKind; 3] = [
    FrontendKind::LoadBalancer,
    FrontendKind::ExternalIp,
    FrontendKind::NodePort,
];

#[test]
fn with_external_policy_local_clients_inside_use_every_endpoint_and_those_outside_this_nodes() {
    let local = Service {
        external_policy: TrafficPolicy::Local,
        internal_policy: TrafficPolicy::Local,
        ..balanced()
    };
    let endpoints = [("10.0.0.1", "here", READY), ("10.0.0.2", "there", READY)];
    for kind in OUTWARD {
        let (inside, outside, _) = offers(&local, &endpoints, kind);
        assert_eq!(inside, ["10.0.0.1:1", "10.0.0.2:1"], "{kind:?}");
        assert_eq!(outside, ["10.0.0.1:1"], "{kind:?}");
    }
    let (inside, ..) = offers(&local, &endpoints, FrontendKind::ClusterIp);
    assert_eq!(inside, ["10.0.0.1:1"], "its own policy holds");
}

#[test]
fn internal_policy_does_not_apply_to_node_ports() {
    let service = Service {
        internal_policy: TrafficPolicy::Local,
        ..balanced()
    };
    let endpoints = [("10.0.0.2", "there", READY)];
    for kind in OUTWARD {
        let (inside, outside, drops) = offers(&service, &endpoints, kind);
        assert_eq!((inside.len(), outside.len(), drops), (1, 1, false));
    }
    let (inside, outside, drops) = offers(&service, &endpoints, FrontendKind::ClusterIp);
    assert_eq!((inside.len(), outside.len(), drops), (0, 0, true));
}

#[test]
fn without_a_local_endpoint_outside_clients_are_dropped_if_others_serve_and_else_refused() {
    let local = Service {
        external_policy: TrafficPolicy::Local,
        ..balanced()
    };
    for (endpoints, drops) in [
        (&[("10.0.0.2", "there", READY)][..], true),
        (&[("10.0.0.2", "there", TERMINATING)][..], true),
        (&[("10.0.0.2", "there", UNREADY)][..], false),
        (&[][..], false),
    ] {
        for kind in OUTWARD {
            let (_, outside, dropped) = offers(&local, endpoints, kind);
            assert!(outside.is_empty());
            assert_eq!(dropped, drops, "{endpoints:?}");
        }
    }
}

#[test]
fn an_endpoint_is_here_if_its_node_name_is_this_nodes() {
    let slices = [slice(
        1,
        &[("10.0.0.1", "here", READY), ("10.0.0.2", "there", READY)],
    )];
    let plan = &plan(&service(), slices.iter(), &here(None), &node_config())[0];
    let places: Vec<_> = plan
        .slots
        .iter()
        .map(|slot| slot.locality.is_local())
        .collect();
    assert_eq!(places, [true, false]);
}
