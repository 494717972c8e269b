//! What comes back to sockets and pods of the node is left to the kernel, whatever port it is for.

use std::net::{IpAddr, SocketAddr};

use svclb_tests::manifests::Service;
use svclb_tests::{Peer, PodNetwork, Transport};

use super::{MODES, NODE_PORT, TRANSPORTS, World, asks_on, connected, hidden_pods, service};
use crate::lab::scene::{TARGET, v4, v6};

/// Where the client outside serves, and the node's own flows go to.
const FAR: u16 = 7000;
/// A port at which a load balancer's address is the node's own.
const OWN: u16 = 8443;

/// The Service at the first node's own addresses, as k3s announces it.
fn at_the_nodes_own(world: &World) -> Service {
    let node = &world.nodes[0];
    let service = Service::new("own")
        .at(v4(11))
        .at(v6(0x11))
        .tcp(OWN, TARGET)
        .udp(OWN, TARGET);
    service.balanced_at(node.v4()).balanced_at(node.v6())
}

/// Both Services, agents of a mode, and a server outside.
fn world(mode: &[&str]) -> World {
    let mut world = World::new(PodNetwork::Vxlan, hidden_pods());
    world.put(&service(), &["a", "b"]);
    world.put(&at_the_nodes_own(&world), &["a", "b"]);
    for transport in TRANSPORTS {
        world.client.serve(transport, FAR).unwrap();
    }
    world.start(mode);
    world
}

/// From these addresses and this port, a peer of the node is answered by the server outside, again
/// and again; and a client outside goes on being served at that port.
fn is_answered(world: &World, peer: &Peer, from: [IpAddr; 2], port: u16) {
    let mut faults = Vec::new();
    for from in from.map(|ip| SocketAddr::new(ip, port)) {
        let to = SocketAddr::new(world.client.ip_like(from.ip()), FAR);
        for transport in TRANSPORTS {
            let talk = || {
                let socket = connected(peer, transport, from, to)?;
                for text in ["first", "second", "third"] {
                    assert_eq!(asks_on(&socket, text)?, "client");
                }
                Ok(())
            };
            let result: Result<(), svclb_tests::Failure> = talk();
            if let Err(failure) = result {
                faults.push(format!("from {from} over {transport:?}: {failure}"));
            }
        }
    }
    for to in world.nodes_at(0, port) {
        for transport in TRANSPORTS {
            let tally = world.client.repeat(transport, to, 20).unwrap();
            if tally.answered() != 20 {
                faults.push(format!("at {to} over {transport:?}: {tally:?}"));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

fn both(of: &World) -> [IpAddr; 2] {
    [of.nodes[0].v4().into(), of.nodes[0].v6().into()]
}

#[test]
fn a_socket_of_the_host_may_have_a_node_ports_number() {
    for mode in MODES {
        let world = world(mode);
        is_answered(&world, &world.nodes[0], both(&world), NODE_PORT);
    }
}

#[test]
fn a_socket_of_the_host_may_have_the_port_of_a_balancers_address_that_is_the_nodes() {
    for mode in MODES {
        let world = world(mode);
        is_answered(&world, &world.nodes[0], both(&world), OWN);
    }
}

#[test]
fn a_masqueraded_pod_may_have_either() {
    for mode in MODES {
        let world = world(mode);
        let pod = world.nodes[0].pod("caller").unwrap();
        let own = [pod.v4().into(), pod.v6().into()];
        for port in [NODE_PORT, OWN] {
            is_answered(&world, &pod, own, port);
        }
    }
}

#[test]
fn a_question_that_was_sent_before_the_agent_started_is_answered() {
    for mode in MODES {
        let mut world = world(mode);
        world.agents.clear();
        let node = world.nodes[0].clone();
        let sockets: Vec<_> = both(&world)
            .into_iter()
            .flat_map(|ip| TRANSPORTS.map(|transport| (ip, transport)))
            .map(|(ip, transport)| {
                let far = SocketAddr::new(world.client.ip_like(ip), FAR);
                let socket = connected(&node, transport, (ip, NODE_PORT).into(), far).unwrap();
                assert_eq!(asks_on(&socket, "before").unwrap(), "client");
                (ip, transport, socket)
            })
            .collect();
        world.start(mode);
        for (ip, transport, socket) in &sockets {
            let answer = asks_on(socket, "after");
            assert_eq!(
                answer,
                Ok("client".to_owned()),
                "{mode:?} {ip} {transport:?}"
            );
        }
    }
}

#[test]
fn nothing_of_them_reaches_a_backend() {
    for mode in MODES {
        let world = world(mode);
        let host = &world.nodes[0];
        let to = SocketAddr::new(world.client.v4().into(), FAR);
        let from = SocketAddr::new(host.v4().into(), NODE_PORT);
        let socket = connected(host, Transport::Udp, from, to).unwrap();
        asks_on(&socket, "first").unwrap();
        for backend in &world.backends {
            let last = backend.withdraw(Transport::Udp, TARGET).unwrap();
            assert_eq!(last, None, "{mode:?}: {} was sent it", backend.name());
        }
    }
}
