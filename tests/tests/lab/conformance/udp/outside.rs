//! The same through node ports and load balancers, for clients inside and outside.

use std::net::SocketAddr;

use svclb_tests::manifests::Service;
use svclb_tests::{PeerSocket, SOON, Transport, wait_until};

use super::super::super::scene::{v4, v6};
use super::super::ask::UNCONNECTED;
use super::super::front::{Front, NODE_PORT, balanced, balancer, node_port};
use super::reaches;

/// A socket of each client for each address.
fn sockets<'a>(front: &'a Front, addresses: &[SocketAddr]) -> Vec<(PeerSocket<'a>, SocketAddr)> {
    let mut sockets = Vec::new();
    for peer in front.all_clients() {
        for to in addresses {
            sockets.push((peer.socket(UNCONNECTED, to.is_ipv6()).unwrap(), *to));
        }
    }
    sockets
}

/// Backends come and go one after the other; each client uses one socket throughout.
fn cycles(service: &Service, addresses: impl FnOnce(&Front) -> Vec<SocketAddr>, names: &[&str]) {
    let front = Front::new(service, &[]);
    let sockets = sockets(&front, &addresses(&front));
    for name in names {
        front.put(service, &[name]);
        for (socket, to) in &sockets {
            reaches(socket, *to, name);
        }
    }
}

#[test]
fn should_be_able_to_preserve_udp_traffic_when_server_pod_cycles_for_a_node_port_service() {
    let everywhere = |front: &Front| front.everywhere(NODE_PORT);
    cycles(&node_port(), everywhere, &["a", "b", "c", "a"]);
}

#[test]
fn should_be_able_to_preserve_udp_traffic_when_server_pod_cycles_for_a_load_balancer_service_on_different_nodes()
 {
    cycles(&balanced(), |_| balancer().into(), &["a", "b", "a"]);
}

#[test]
fn should_be_able_to_preserve_udp_traffic_when_server_pod_cycles_for_a_load_balancer_service_on_the_same_nodes()
 {
    cycles(&balanced(), |_| balancer().into(), &["a", "c", "a"]);
}

#[test]
fn should_be_able_to_cleanup_conntrack_entries_when_udp_service_target_port_changes_for_a_node_port_service()
 {
    const MOVED: u16 = 8081;
    let front = Front::new(&node_port(), &["a"]);
    let addresses = [front.at(0, NODE_PORT)[0], front.at(1, NODE_PORT)[1]];
    let mut sockets = Vec::new();
    for peer in [&front.client, &front.pods[1]] {
        for to in addresses {
            sockets.push((peer.socket(UNCONNECTED, to.is_ipv6()).unwrap(), to));
        }
    }
    let hear = || {
        for (socket, to) in &sockets {
            reaches(socket, *to, "a");
        }
    };
    hear();
    let service = Service::new("web").at(v4(10)).at(v6(0x10));
    let service = service.udp(80, MOVED).node_ports(NODE_PORT - 80);
    front.put(&service, &["a"]);
    // Nothing listens there yet: that is how the change shows.
    for (socket, to) in &sockets {
        let silent = wait_until(SOON, || {
            socket.send_to(*to, "hello?").is_err() || socket.receive().is_err()
        });
        assert!(silent, "{to} still leads to the old port");
    }
    front.backend("a").serve(Transport::Udp, MOVED).unwrap();
    hear();
}
