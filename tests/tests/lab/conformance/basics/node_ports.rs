//! Networking, granular checks through `nodeIP:nodePort`.

use std::net::SocketAddr;

use svclb_tests::{Failure, Kind, Peer, PodNetwork, SOON, wait_until};

use super::super::super::scene::web_service;
use super::super::ask::KINDS;
use super::super::cluster::both;
use super::super::front::{Front, NODE_PORT, given, node_port};

/// These clients are given both backends at the node port of either node.
fn functions_for<'a>(front: &Front, peers: impl IntoIterator<Item = &'a Peer>) {
    for peer in peers {
        for to in front.everywhere(NODE_PORT) {
            for kind in KINDS {
                given(peer, kind, to, &["a", "b"]);
            }
        }
    }
}

#[test]
fn should_function_for_pod_service_through_node_port_http_and_udp() {
    let front = Front::new(&node_port(), &["a", "b"]);
    functions_for(&front, front.pods.iter().map(|pod| -> &Peer { pod }));
}

#[test]
fn should_function_for_node_service_through_node_port_http_and_udp() {
    let front = Front::new(&node_port(), &["a", "b"]);
    functions_for(&front, front.nodes.iter().map(|node| -> &Peer { node }));
}

#[test]
fn should_function_for_endpoint_service_through_node_port_http_and_udp() {
    let front = Front::new(&node_port(), &["a", "b"]);
    functions_for(
        &front,
        ["a", "b"].map(|name| -> &Peer { front.backend(name) }),
    );
}

#[test]
fn should_update_node_port_http_and_udp() {
    let front = Front::new(&node_port(), &["a", "b"]);
    let everywhere = front.everywhere(NODE_PORT);
    front.is_given(&everywhere, &["a", "b"]);
    front.put(&web_service(), &["a", "b"]);
    front.is_refused(&everywhere);
    for to in both() {
        for kind in KINDS {
            given(&front.pods[0], kind, to, &["a", "b"]);
        }
    }
}

/// Whether the text comes back in one piece from the address that was asked.
fn echoes(peer: &Peer, kind: Kind, to: SocketAddr, text: &str) -> Result<bool, Failure> {
    let socket = peer.socket(kind, to.is_ipv6())?;
    if kind.connected {
        socket.connect(to)?;
        socket.send(text)?;
    } else {
        socket.send_to(to, text)?;
    }
    let received = socket.receive()?;
    Ok(received.echoed == text && received.from.is_none_or(|from| from == to))
}

#[test]
fn should_be_able_to_handle_large_requests_through_node_port_http_and_udp() {
    // One of the two nodes has to pass everything on.
    let front = Front::over(PodNetwork::Routed, 2, |front| {
        front.put(&node_port(), &["a"]);
    });
    let text = "x".repeat(2000);
    for to in front.everywhere(NODE_PORT) {
        for peer in front.all_clients() {
            for kind in KINDS {
                given(peer, kind, to, &["a"]);
                for _ in 0..3 {
                    let echoed = echoes(peer, kind, to, &text);
                    assert_eq!(echoed, Ok(true), "{kind:?} to {to}");
                }
            }
        }
    }
}

#[test]
fn should_be_able_to_handle_large_requests_through_node_port_by_a_tunnel_of_smaller_mtu() {
    // What the client thinks fits the way does not fit the tunnel between the nodes.
    let front = Front::over(PodNetwork::Vxlan, 2, |front| {
        front.put(&node_port(), &["a"]);
    });
    let text = "x".repeat(2000);
    for to in front.everywhere(NODE_PORT) {
        for peer in front.all_clients() {
            for kind in KINDS {
                given(peer, kind, to, &["a"]);
                // The first may be lost, as upstream's test has it: its sender learns how long
                // a packet may be. From then on none is.
                let reported = wait_until(SOON, || echoes(peer, kind, to, &text) == Ok(true));
                assert!(reported, "{kind:?} to {to}");
                for _ in 0..3 {
                    assert_eq!(echoes(peer, kind, to, &text), Ok(true), "{kind:?} to {to}");
                }
            }
        }
    }
}
