//! Networking, granular checks through `nodeIP:nodePort`.

use svclb_tests::Peer;

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
