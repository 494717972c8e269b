//! `externalTrafficPolicy`, and what load balancers ask a node about it.

use std::net::{IpAddr, SocketAddr};

use serde_json::json;
use svclb_tests::manifests::Endpoint;
use svclb_tests::{Peer, SOON, wait_until};

use super::super::ask::{KINDS, TCP};
use super::super::front::{Front, NODE_PORT, balanced, balancer, given, loses, node_port, refuses};

const HEALTH: u16 = 32_000;

/// The address that a backend sees of a client.
fn seen(peer: &Peer, to: SocketAddr) -> IpAddr {
    peer.ask(TCP, to).unwrap().client.ip()
}

/// Waits until the nodes reply with this at the health check's port, to a client outside.
fn health_is(front: &Front, wanted: &[&str]) {
    for (node, wanted) in wanted.iter().enumerate() {
        for at in front.at(node, HEALTH) {
            let mut last = String::new();
            let settled = wait_until(SOON, || {
                last = match front.client.get(at, "/") {
                    Ok((status, _)) => status.to_string(),
                    Err(failure) => failure.errno,
                };
                last == *wanted
            });
            assert!(settled, "{at} health_is {last} and not {wanted}");
        }
    }
}

/// The balanced `web` with this policy.
fn put(front: &Front, policy: &str, endpoints: &[Endpoint]) {
    let service = balanced();
    let mut object = service.object();
    object["spec"]["externalTrafficPolicy"] = json!(policy);
    if policy == "Local" {
        object["spec"]["healthCheckNodePort"] = json!(HEALTH);
    }
    front.put_as(object, &service, endpoints);
}

fn terminating(front: &Front, name: &str) -> Vec<Endpoint> {
    let endpoints = front.endpoints(&[name]).into_iter();
    endpoints.map(|one| one.terminating(true)).collect()
}

#[test]
fn should_support_external_traffic_policy_local_for_type_node_port() {
    let front = Front::new(&node_port().external_local(), &["a"]);
    for to in front.at(0, NODE_PORT) {
        for kind in KINDS {
            given(&front.client, kind, to, &["a"]);
            given(&front.nodes[1], kind, to, &["a"]);
        }
        assert_eq!(seen(&front.client, to), front.client.ip_like(to.ip()));
        assert_eq!(seen(&front.nodes[1], to), front.nodes[1].ip_like(to.ip()));
    }
    for (kind, to) in KINDS.into_iter().zip(front.at(1, NODE_PORT)) {
        loses(&front.client, kind, to);
        loses(&front.nodes[0], kind, to);
    }
}

#[test]
fn should_implement_node_port_and_health_check_node_port_correctly_when_external_traffic_policy_changes()
 {
    let front = Front::of(3, |front| put(front, "Local", &front.endpoints(&["a"])));
    let local = || {
        health_is(&front, &["200", "503", "503"]);
        for to in front.at(0, NODE_PORT) {
            given(&front.client, TCP, to, &["a"]);
            given(&front.pods[2], TCP, to, &["a"]);
            assert_eq!(seen(&front.client, to), front.client.ip_like(to.ip()));
            assert_eq!(seen(&front.nodes[2], to), front.nodes[2].ip_like(to.ip()));
        }
        // By the client's own node it is a short cut, by a third one it is lost.
        for to in front.at(2, NODE_PORT) {
            given(&front.pods[2], TCP, to, &["a"]);
            given(&front.nodes[2], TCP, to, &["a"]);
        }
        let third = front.at(1, NODE_PORT)[0];
        loses(&front.client, TCP, third);
        loses(&front.pods[2], TCP, third);
    };
    local();
    put(&front, "Cluster", &front.endpoints(&["a"]));
    health_is(&front, &["ECONNREFUSED"; 3]);
    for to in front.everywhere(NODE_PORT) {
        given(&front.client, TCP, to, &["a"]);
        given(&front.pods[2], TCP, to, &["a"]);
    }
    put(&front, "Local", &front.endpoints(&["a"]));
    local();
}

#[test]
fn should_fail_health_check_node_port_if_there_are_only_terminating_endpoints() {
    let front = Front::of(2, |front| put(front, "Local", &front.endpoints(&["a"])));
    health_is(&front, &["200", "503"]);
    put(&front, "Local", &terminating(&front, "a"));
    health_is(&front, &["503", "503"]);
    for to in front.at(0, NODE_PORT) {
        for kind in KINDS {
            given(&front.client, kind, to, &["a"]);
            given(&front.pods[0], kind, to, &["a"]);
        }
    }
}

#[test]
fn should_fallback_to_terminating_endpoints_external_traffic_policy_cluster() {
    let front = Front::new(&node_port(), &["a", "b"]);
    let everywhere = front.everywhere(NODE_PORT);
    front.is_given(&everywhere, &["a", "b"]);
    let service = node_port();
    let mut endpoints = terminating(&front, "a");
    front.put_as(service.object(), &service, &endpoints);
    front.is_given(&everywhere, &["a"]);
    // No more than a last resort.
    endpoints.extend(front.endpoints(&["b"]));
    front.put_as(service.object(), &service, &endpoints);
    front.is_given(&everywhere, &["b"]);
}

#[test]
fn should_fallback_to_local_terminating_endpoints_external_traffic_policy_local() {
    let service = node_port().external_local();
    let front = Front::new(&service, &["a", "c"]);
    let endpoints = terminating(&front, "a");
    front.put_as(service.object(), &service, &endpoints);
    for to in front.at(0, NODE_PORT) {
        for kind in KINDS {
            for peer in front.all_clients() {
                given(peer, kind, to, &["a"]);
            }
        }
        assert_eq!(seen(&front.client, to), front.client.ip_like(to.ip()));
    }
    let other = front.at(1, NODE_PORT)[0];
    loses(&front.client, TCP, other);
    loses(&front.pods[0], TCP, other);
    given(&front.pods[1], TCP, other, &["a"]);
}

#[test]
fn should_work_for_type_load_balancer() {
    let front = Front::of(2, |front| put(front, "Local", &front.endpoints(&["a"])));
    health_is(&front, &["200", "503"]);
    for to in balancer() {
        for kind in KINDS {
            given(&front.client, kind, to, &["a"]);
        }
        assert_eq!(seen(&front.client, to), front.client.ip_like(to.ip()));
    }
    // Without the policy the port closes, and the other node passes it on.
    put(&front, "Cluster", &front.endpoints(&["a"]));
    health_is(&front, &["ECONNREFUSED"; 2]);
    front.balance_to(1);
    for to in balancer() {
        given(&front.client, TCP, to, &["a"]);
    }
}

#[test]
fn should_only_target_nodes_with_endpoints() {
    let front = Front::of(2, |front| put(front, "Local", &front.endpoints(&["a"])));
    for (node, name, health) in [(0, "a", ["200", "503"]), (1, "b", ["503", "200"])] {
        put(&front, "Local", &front.endpoints(&[name]));
        health_is(&front, &health);
        front.balance_to(node);
        for to in balancer() {
            for kind in KINDS {
                given(&front.client, kind, to, &[name]);
            }
        }
        front.balance_to(1 - node);
        loses(&front.client, TCP, balancer()[0]);
    }
}

#[test]
fn should_target_all_nodes_with_endpoints() {
    let front = Front::of(2, |front| {
        put(front, "Local", &front.endpoints(&["a", "b"]))
    });
    health_is(&front, &["200", "200"]);
    for (node, name) in [(0, "a"), (1, "b")] {
        front.balance_to(node);
        for to in balancer() {
            for kind in KINDS {
                given(&front.client, kind, to, &[name]);
            }
            assert_eq!(seen(&front.client, to), front.client.ip_like(to.ip()));
        }
    }
}

#[test]
fn should_work_from_pods() {
    let front = Front::of(2, |front| put(front, "Local", &front.endpoints(&["a"])));
    for to in balancer() {
        for peer in front.all_clients() {
            for kind in KINDS {
                given(peer, kind, to, &["a"]);
            }
        }
        assert_eq!(seen(&front.pods[1], to), front.pods[1].ip_like(to.ip()));
    }
    put(&front, "Local", &[]);
    for peer in front.all_clients() {
        refuses(peer, TCP, balancer()[0]);
    }
}
