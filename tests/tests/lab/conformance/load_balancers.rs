//! Load balancers: their addresses, and the node ports behind them.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use svclb_tests::manifests::{Endpoint, Service};
use svclb_tests::{Kind, Node, Peer, Pod, SOON, wait_until};

use super::super::scene::{TARGET, v4, v6, web, web_service};
use super::ask::{KINDS, TCP, UDP};
use super::front::{BALANCED, Front, NODE_PORT, balanced, balancer, given, loses, refuses};

const BOTH: [&str; 2] = ["a", "b"];

/// `web` with one protocol, at this port.
fn of(kind: Kind, port: u16) -> Service {
    let service = Service::new("web").at(v4(10)).at(v6(0x10));
    if kind.transport.is_stream() {
        service.tcp(port, TARGET)
    } else {
        service.udp(port, TARGET)
    }
}

/// Everything that a Service of one protocol may change, one after the other.
fn changes(kind: Kind) {
    let balanced = |service: Service| BALANCED.into_iter().fold(service, Service::balanced_at);
    let front = Front::new(&of(kind, 80), &BOTH);
    let serves = |addresses: &[SocketAddr]| {
        for to in addresses {
            for peer in front.all_clients() {
                given(peer, kind, *to, &BOTH);
            }
        }
    };
    let refuses = |addresses: &[SocketAddr]| {
        for to in addresses {
            for peer in front.all_clients() {
                refuses(peer, kind, *to);
            }
        }
    };
    let (before, after) = (front.everywhere(NODE_PORT), front.everywhere(NODE_PORT + 1));
    refuses(&before);
    // To NodePort, and to LoadBalancer with the same node port.
    front.put(&of(kind, 80).node_ports(NODE_PORT - 80), &BOTH);
    serves(&before);
    front.put(&balanced(of(kind, 80).node_ports(NODE_PORT - 80)), &BOTH);
    serves(&before);
    serves(&balancer());
    // Another node port.
    front.put(&balanced(of(kind, 80).node_ports(NODE_PORT - 79)), &BOTH);
    serves(&after);
    refuses(&before);
    serves(&balancer());
    // Another port, at the same node port.
    front.put(&balanced(of(kind, 81).node_ports(NODE_PORT - 80)), &BOTH);
    let moved = BALANCED.map(|ip| SocketAddr::new(ip, 81));
    serves(&moved);
    serves(&after);
    // No endpoint for a while.
    front.put(&balanced(of(kind, 81).node_ports(NODE_PORT - 80)), &[]);
    refuses(&moved);
    refuses(&after);
    front.put(&balanced(of(kind, 81).node_ports(NODE_PORT - 80)), &BOTH);
    serves(&moved);
    serves(&after);
    // Back to ClusterIP.
    front.put(&of(kind, 81), &BOTH);
    refuses(&after);
    for to in moved {
        let gone = wait_until(SOON, || front.client.ask(kind, to).is_err());
        assert!(gone, "{to}");
    }
    for ip in [v4(10), v6(0x10)] {
        given(&front.pods[0], kind, SocketAddr::new(ip, 81), &BOTH);
    }
}

#[test]
fn should_be_able_to_change_the_type_and_ports_of_a_tcp_service() {
    changes(TCP);
}

#[test]
fn should_be_able_to_change_the_type_and_ports_of_a_udp_service() {
    changes(UDP);
}

#[test]
fn should_be_able_to_create_load_balancer_service_without_node_port_and_change_it() {
    let without = BALANCED
        .into_iter()
        .fold(web_service(), Service::balanced_at);
    let mut object = without.object();
    object["spec"]["allocateLoadBalancerNodePorts"] = json!(false);
    let front = Front::of(2, |front| {
        front.put_as(object, &without, &front.endpoints(&BOTH));
    });
    front.is_given(&balancer(), &BOTH);
    let everywhere = front.everywhere(NODE_PORT);
    front.is_refused(&everywhere);
    front.put(&balanced(), &BOTH);
    front.is_given(&everywhere, &BOTH);
    front.is_given(&balancer(), &BOTH);
}

#[test]
fn should_only_allow_access_from_service_loadbalancer_source_ranges() {
    let front = Front::new(&balanced(), &BOTH);
    front.is_given(&balancer(), &BOTH);
    let pod = |pod: &Pod| [format!("{}/32", pod.v4()), format!("{}/128", pod.v6())];
    let node = |node: &Node| [format!("{}/32", node.v4()), format!("{}/128", node.v6())];
    let clients: [(&Peer, _); 4] = [
        (&front.pods[0], pod(&front.pods[0])),
        (&front.pods[1], pod(&front.pods[1])),
        (&front.client, pod(&front.client)),
        (&front.nodes[1], node(&front.nodes[1])),
    ];
    for (allowed, ranges) in &clients {
        let service = ranges.iter().fold(balanced(), Service::allows);
        front.put(&service, &BOTH);
        for (to, kind) in balancer()
            .into_iter()
            .flat_map(|to| KINDS.map(|kind| (to, kind)))
        {
            given(allowed, kind, to, &BOTH);
        }
        // Each takes as long as its client waits.
        std::thread::scope(|scope| {
            for (other, _) in clients.iter().filter(|(_, others)| others != ranges) {
                scope.spawn(move || {
                    for (to, kind) in balancer().into_iter().zip([TCP, UDP]) {
                        loses(other, kind, to);
                    }
                });
            }
        });
        // No other address of the Service is limited.
        front.is_given(&front.at(0, NODE_PORT)[..1], &BOTH);
    }
    front.put(&balanced(), &BOTH);
    front.is_given(&balancer(), &BOTH);
}

/// A roll-out: each backend is replaced while connections are made on and on.
fn rolls(service: &Service, steps: &[(&str, Option<&str>)]) {
    let front = Front::new(service, &[steps[0].0]);
    let inside = &front.pods[1];
    let to = web(BALANCED[0]);
    given(&front.client, TCP, to, &[steps[0].0]);
    given(inside, TCP, to, &[steps[0].0]);
    for peer in [&*front.client, &**inside] {
        peer.start_load(TCP, to, Duration::from_millis(2)).unwrap();
    }
    for (next, leaving) in &steps[1..] {
        let mut endpoints = front.endpoints(&[next]);
        if let Some(leaving) = leaving {
            let terminating = front.endpoints(&[leaving]).into_iter();
            endpoints.extend(terminating.map(|one: Endpoint| one.terminating(true)));
        }
        front.put_as(service.object(), service, &endpoints);
        for kind in KINDS {
            given(&front.client, kind, to, &[next]);
            given(inside, kind, to, &[next]);
        }
    }
    for peer in [&*front.client, &**inside] {
        let tally = peer.stop_load().unwrap();
        assert_eq!(tally.failed(), 0, "{tally:?}");
        assert!(tally.answered() > 0);
    }
}

#[test]
fn should_not_have_connectivity_disruption_during_rolling_update_with_external_traffic_policy_cluster()
 {
    let steps = [
        ("a", None),
        ("b", Some("a")),
        ("c", Some("b")),
        ("a", Some("c")),
    ];
    rolls(&balanced(), &steps);
}

#[test]
fn should_not_have_connectivity_disruption_during_rolling_update_with_external_traffic_policy_local()
 {
    let steps = [("a", None), ("c", Some("a")), ("a", Some("c"))];
    rolls(&balanced().external_local(), &steps);
}
