//! Devices without an Ethernet header by which clients come in.

use svclb_tests::{Node, Pod, PodNetwork, SOON, Transport, UplinkOptions, wait_until};

use super::{BALANCED, MODES, World, hidden_pods, service};
use crate::lab::scene::web;

/// Nodes that are joined by a tunnel, and a client at its far end: a pod of a node without an agent,
/// so that nobody translates for it.
fn world() -> (World, Node, Pod) {
    let world = World::new(PodNetwork::Tun, hidden_pods());
    let options = UplinkOptions::default();
    let far = world.lab.node_at(&world.outside, "far", options).unwrap();
    let client = far.pod("client").unwrap();
    for ip in BALANCED {
        far.ip(&format!("route add {ip} dev tun0")).unwrap();
    }
    (world, far, client)
}

#[test]
fn a_client_that_comes_in_by_a_tunnel_is_refused_where_nothing_serves() {
    let (mut world, _far, client) = world();
    for mode in MODES {
        world.put(&service(), &[]);
        world.start(mode);
        for to in BALANCED.map(web) {
            let refused = wait_until(SOON, || {
                let failure = client.ask(Transport::Tcp, to);
                failure.is_err_and(|failure| failure.to_string() == "connect: ECONNREFUSED")
            });
            assert!(refused, "{mode:?}: {to} over TCP");
            let failure = client.ask(Transport::Udp, to).unwrap_err();
            let text = failure.to_string();
            assert_eq!(text, "receive: ECONNREFUSED", "{mode:?}: {to} over UDP");
        }
    }
}
