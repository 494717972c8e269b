//! Two flows that look the same to a backend.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use svclb_tests::manifests::Service;
use svclb_tests::{Kind, Peer, PodNetwork, Transport, UplinkOptions};

use super::{MODES, TRANSPORTS, World, asks_on, connected, service};
use crate::lab::scene::{TARGET, v4, v6, web};

const PORT: u16 = 44_001;

/// Pods and clients know each other's addresses, and each has them there.
fn world(mode: &[&str]) -> World {
    World::serving(PodNetwork::Routed, UplinkOptions::default(), &["a"], mode)
}

/// From one port, a peer opens a flow to the first address and then one to the second, and uses both.
fn has_both(
    peer: &Peer,
    transport: Transport,
    from: SocketAddr,
    first: SocketAddr,
    then: SocketAddr,
) -> Result<(), String> {
    let context = |what: &str| {
        let what = format!("{transport:?} from {from} to {first}, then {then}: {what}");
        move |failure| format!("{what}: {failure}")
    };
    let one = connected(peer, transport, from, first).map_err(context("first"))?;
    asks_on(&one, "one").map_err(context("first"))?;
    let other = connected(peer, transport, from, then).map_err(context("second"))?;
    for _ in 0..3 {
        for (name, socket) in [("second", &other), ("first", &one)] {
            asks_on(socket, name).map_err(context(name))?;
        }
    }
    Ok(())
}

#[test]
fn a_client_has_one_port_open_to_two_services_with_one_backend() {
    for mode in MODES {
        for name in ["a", "b"] {
            let world = world(mode);
            world.put(&service(), &[name]);
            world.wait_for_answers(world.balanced()[0], &[name]);
            let client = &world.client;
            let mut port = PORT;
            let mut faults = Vec::new();
            for (to, other) in world.balanced().into_iter().zip(world.node_ports(0)) {
                for transport in TRANSPORTS {
                    port += 1;
                    let from = SocketAddr::new(client.ip_like(to.ip()), port);
                    faults.extend(has_both(client, transport, from, to, other).err());
                }
            }
            assert!(faults.is_empty(), "{mode:?} {name}: {faults:#?}");
        }
    }
}

#[test]
fn a_client_has_one_port_open_to_a_pod_by_a_service_and_directly() {
    for mode in MODES {
        let world = world(mode);
        world.wait_for_answers(world.balanced()[0], &["a"]);
        // Outside, on another node, and a pod there: what sockets reach of other nodes are packets.
        let caller = world.nodes[1].pod("caller").unwrap();
        let peers: [&Peer; 3] = [&world.client, &world.nodes[1], &caller];
        let mut port = PORT;
        let mut faults = Vec::new();
        for peer in peers {
            for to in world.node_ports(0) {
                let pod = SocketAddr::new(world.backends[0].ip_like(to.ip()), TARGET);
                for (first, then) in [(to, pod), (pod, to)] {
                    for transport in TRANSPORTS {
                        port += 1;
                        let from = SocketAddr::new(unspecified(to), port);
                        faults.extend(has_both(peer, transport, from, first, then).err());
                    }
                }
            }
        }
        assert!(faults.is_empty(), "{mode:?}: {faults:#?}");
    }
}

/// Any address of a peer, of the family of another one.
fn unspecified(like: SocketAddr) -> IpAddr {
    if like.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    }
}

#[test]
fn one_datagram_socket_outside_asks_two_services_with_one_backend() {
    for mode in MODES {
        let world = world(mode);
        for (to, other) in world.balanced().into_iter().zip(world.node_ports(0)) {
            let kind = Kind::new(Transport::Udp).unconnected();
            let socket = world.client.socket(kind, to.is_ipv6()).unwrap();
            for to in [to, other, to, other, other, to] {
                socket.send_to(to, "who?").unwrap();
                let answer = socket.receive();
                let answer = answer.unwrap_or_else(|failure| panic!("{mode:?} {to}: {failure}"));
                assert_eq!(answer.from, Some(to), "{mode:?}");
            }
        }
    }
}

#[test]
fn a_pods_socket_uses_one_port_for_two_services_with_one_backend() {
    for mode in MODES {
        let world = world(mode);
        let second = Service::new("second")
            .at(v4(12))
            .at(v6(0x12))
            .tcp(80, TARGET)
            .udp(80, TARGET);
        world.put(&second, &["a"]);
        let caller = world.nodes[1].pod("caller").unwrap();
        for (one, other) in [v4(10), v6(0x10)].into_iter().zip([v4(12), v6(0x12)]) {
            let kind = Kind::new(Transport::Udp).unconnected();
            let socket = caller.socket(kind, one.is_ipv6()).unwrap();
            for to in [one, other, one].map(web) {
                socket.send_to(to, "who?").unwrap();
                let answer = socket.receive();
                let answer = answer.unwrap_or_else(|failure| panic!("{mode:?} {to}: {failure}"));
                assert_eq!(answer.from, Some(to), "{mode:?}");
            }
        }
    }
}
