//! Devices without an Ethernet header, by which clients come in, or replies would leave.

use svclb_tests::{
    Node, Pod, PodNetwork, SOON, Transport, TunKind, UplinkOptions, open_tun, wait_until,
};

use super::{BALANCED, MODES, World, asks_all, asks_on, hidden_pods, kinds, service};
use crate::lab::scene::web;

/// Nodes that are joined by a tunnel, and a client at its far end: a pod of a node without an agent,
/// so that nobody translates for it.
fn world() -> (World, Node, Pod) {
    let options = UplinkOptions {
        rp_filter: 2,
        ..hidden_pods()
    };
    let world = World::new(PodNetwork::Tun, options);
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

/// What takes many packets is answered, too.
fn serves(client: &Pod) -> Result<(), String> {
    for to in BALANCED.map(web) {
        for kind in kinds() {
            asks_all(client, kind, to, &["a"], |answer| {
                assert_eq!(answer.client.ip(), client.ip_like(to.ip()));
            })?;
        }
        for (transport, length) in [(Transport::Tcp, 50_000), (Transport::Udp, 3_000)] {
            let mut last = None;
            // The first datagram is lost where its sender learns from it how much a link carries.
            let answered = wait_until(SOON, || {
                let socket = client.socket(transport, to.is_ipv6()).unwrap();
                socket.connect(to).unwrap();
                last = Some(asks_on(&socket, &"x".repeat(length)));
                last.as_ref().is_some_and(Result::is_ok)
            });
            if !answered {
                return Err(format!("{to} {transport:?}, {length} bytes: {last:?}"));
            }
        }
    }
    Ok(())
}

#[test]
fn replies_that_are_routed_by_another_device_leave_by_that_of_their_client() {
    let (mut world, _far, at_far_end) = world();
    let node = &world.nodes[0];
    // Packets are lost in it: nobody reads them.
    let _lost = node.run(|| open_tun("tun1", TunKind::Tun)).unwrap();
    node.ip("link set tun1 up").unwrap();
    node.ip("addr add 10.77.0.1/32 dev tun1").unwrap();
    let pod = &world.backends[0];
    for from in [pod.v4().to_string(), pod.v6().to_string()] {
        node.rule(&format!("add from {from} lookup 200 priority 1000"))
            .unwrap();
    }
    world.put(&service(), &["a"]);
    let mut faults = Vec::new();
    for mode in MODES {
        world.start(mode);
        for (routes, client) in [
            (["via 192.0.2.254", "via fd00:192:0:2::254"], &at_far_end),
            (["dev tun0"; 2], &world.client),
            (["dev tun1"; 2], &at_far_end),
        ] {
            let node = &world.nodes[0];
            for (family, route) in ["0.0.0.0/0", "::/0"].iter().zip(routes) {
                node.ip(&format!("route replace {family} {route} table 200"))
                    .unwrap();
            }
            if let Err(fault) = serves(client) {
                faults.push(format!("{mode:?}, {routes:?}: {fault}"));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}
