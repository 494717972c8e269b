//! Clients of every place, on every network, at every kind of address.

use std::net::SocketAddr;
use std::process::Command;

use svclb_tests::manifests::{Endpoint, Service};
use svclb_tests::{Peer, PodNetwork, SOON, Transport, UplinkOptions, wait_until};

use super::{
    BALANCED, MODES, NODE_PORT, TRANSPORTS, World, asks_all, asks_on, hidden_pods, kinds, service,
};
use crate::lab::outside::Site;
use crate::lab::scene::{TARGET, lacks_devices, v4, v6, web};

/// What every network owes its clients, with agents in every mode.
pub(super) fn serves(Site(network, options): Site) {
    serves_after(network, options, |_| {});
}

/// The same after something else was done to its nodes.
fn serves_after(network: PodNetwork, options: UplinkOptions, prepare: impl Fn(&World)) {
    if lacks_devices(network, options.device) {
        return;
    }
    let near = match has_pods_behind_nodes(network) {
        true => [Some("a"), Some("b")],
        false => [None; 2],
    };
    let mut world = World::new(network, options);
    prepare(&world);
    world.put(&service(), &["a", "b"]);
    for mode in MODES {
        world.start(mode);
        for (node, near) in near.into_iter().enumerate() {
            for to in world.node_ports(node) {
                serves_at(&world, to, near);
            }
        }
        for to in world.balanced() {
            serves_at(&world, to, near[0]);
        }
        let faults = wrong(&world);
        assert!(faults.is_empty(), "{mode:?}: {faults:?}");
    }
}

/// Whether a node's pods are behind devices that lead to them alone. Where other nodes' are there, too,
/// no backend sees a client's address.
pub(super) fn has_pods_behind_nodes(network: PodNetwork) -> bool {
    !matches!(network, PodNetwork::Macvlan | PodNetwork::Lan)
}

/// A client outside is answered by both backends, and only the one on the node that it asked sees its
/// address.
fn serves_at(world: &World, to: SocketAddr, near: Option<&str>) {
    world.wait_for_answers(to, &["a", "b"]);
    let client = &world.client;
    for kind in kinds() {
        asks_all(client, kind, to, &["a", "b"], |answer| {
            let seen = answer.client.ip();
            let own = seen == client.ip_like(seen);
            assert_eq!(
                own,
                near == Some(&answer.backend),
                "{to} {kind:?}: {answer:?}"
            );
        })
        .unwrap();
    }
    carries_much(client, to);
}

/// What takes many packets arrives, from both backends.
fn carries_much(client: &Peer, to: SocketAddr) {
    let mut names = Vec::new();
    let both = wait_until(SOON, || {
        let socket = client.socket(Transport::Tcp, to.is_ipv6()).unwrap();
        socket.connect(to).unwrap();
        names.push(asks_on(&socket, &"x".repeat(50_000)).unwrap());
        names.sort();
        names.dedup();
        names == ["a", "b"]
    });
    assert!(both, "{to}: {names:?}");
    let mut last = None;
    let arrived = wait_until(SOON, || {
        let socket = client.socket(Transport::Udp, to.is_ipv6()).unwrap();
        socket.connect(to).unwrap();
        last = Some(asks_on(&socket, &"x".repeat(3_000)));
        last.as_ref().is_some_and(Result::is_ok)
    });
    assert!(arrived, "{to}: {last:?}");
}

/// What pods and hosts get wrong of Services on their own and on the other node.
fn wrong(world: &World) -> Vec<String> {
    let mut faults = Vec::new();
    let places: [(&str, &Peer); 4] = [
        ("host of node1", &world.nodes[0]),
        ("host of node2", &world.nodes[1]),
        ("pod a", &world.backends[0]),
        ("pod b", &world.backends[1]),
    ];
    let to = [world.node_ports(0), world.node_ports(1), BALANCED.map(web)].concat();
    for (name, peer) in places {
        for (to, kind) in to.iter().flat_map(|to| kinds().map(|kind| (*to, kind))) {
            if let Err(fault) = asks_all(peer, kind, to, &["a", "b"], |_| {}) {
                faults.push(format!("{name}: {fault}"));
            }
        }
    }
    faults
}

#[test]
fn devices_without_an_ethernet_header_lead_to_backends() {
    serves(PodNetwork::Tun.into());
}

#[test]
fn a_client_that_comes_in_by_a_device_without_an_ethernet_header_is_served() {
    let mut world = World::new(PodNetwork::Tun, hidden_pods());
    // Nobody translates for a pod of a node without an agent: it is like the far end of a VPN.
    let options = UplinkOptions::default();
    let far = world.lab.node_at(&world.outside, "far", options).unwrap();
    let client = far.pod("client").unwrap();
    for ip in BALANCED {
        far.ip(&format!("route add {ip} dev tun0")).unwrap();
    }
    world.put(&service(), &["a", "b"]);
    for mode in MODES {
        world.start(mode);
        for to in world.balanced() {
            for kind in kinds() {
                asks_all(&client, kind, to, &["a", "b"], |answer| {
                    let own = answer.client.ip() == client.ip_like(to.ip());
                    assert_eq!(own, answer.backend == "a", "{mode:?} {answer:?}");
                })
                .unwrap_or_else(|fault| panic!("{mode:?}: {fault}"));
            }
        }
    }
}

#[test]
fn a_tunnel_that_carries_less_than_the_links_of_pods_leads_to_backends() {
    serves(PodNetwork::NarrowVxlan.into());
}

#[test]
fn pods_may_be_masqueraded_to_random_ports() {
    // As flannel's `--ip-masq` does: pods towards all else, and all else towards pods.
    let options = UplinkOptions::default();
    serves_after(PodNetwork::Vxlan, options, |world| {
        for node in &world.nodes {
            node.nft(
                "table inet cni { chain postrouting {
                   type nat hook postrouting priority srcnat
                   ip saddr 10.244.0.0/16 ip daddr != { 10.244.0.0/16, 224.0.0.0/4 } masquerade fully-random
                   ip6 saddr fd00:10:244::/48 ip6 daddr != { fd00:10:244::/48, ff00::/8 } masquerade fully-random
                 }
                 }",
            )
            .unwrap();
        }
    });
}

#[test]
fn nodes_and_pods_may_have_no_ipv4_address() {
    let mut world = World::new(PodNetwork::Routed, hidden_pods());
    let flush = || {
        let mut ip = Command::new("ip");
        ip.args(["-4", "addr", "flush", "scope", "global"]);
        Ok(ip.status()?)
    };
    for node in &world.nodes {
        assert!(node.run(flush).unwrap().success());
    }
    for pod in world.backends.iter().chain([&world.client]) {
        assert!(pod.run(flush).unwrap().success());
    }
    let [_, balanced] = BALANCED;
    let service = Service::new("web")
        .at(v6(0x10))
        .tcp(80, TARGET)
        .udp(80, TARGET)
        .node_ports(NODE_PORT - 80)
        .balanced_at(balanced);
    world.put(&service, &["a", "b"]);
    for mode in MODES {
        world.start(mode);
        for (to, near) in [
            (world.node_ports(0)[1], "a"),
            (world.node_ports(1)[1], "b"),
            (web(balanced), "a"),
        ] {
            serves_at(&world, to, Some(near));
            for kind in kinds() {
                asks_all(&world.nodes[1], kind, to, &["a", "b"], |_| {}).unwrap();
            }
        }
    }
}

#[test]
fn endpoints_at_the_nodes_own_addresses_name_no_node() {
    for mode in MODES {
        let mut world = World::new(PodNetwork::Routed, UplinkOptions::default());
        // As an API server's: written by hand, and served by processes of the nodes.
        for (node, transport) in world
            .nodes
            .iter()
            .flat_map(|node| TRANSPORTS.map(|t| (node, t)))
        {
            node.serve(transport, TARGET).unwrap();
        }
        let service = service();
        let mut objects = vec![service.object()];
        for is_v6 in [false, true] {
            let like = if is_v6 { v6(0) } else { v4(0) };
            let addresses = world
                .nodes
                .iter()
                .map(|node| Endpoint::new(node.ip_like(like)));
            objects.push(service.slice_of(&addresses.collect::<Vec<_>>()));
        }
        world.manifests.put("web.yaml", &objects).unwrap();
        world.start(mode);
        world.wait_for_answers(world.balanced()[0], &["node1", "node2"]);
        let mut faults = Vec::new();
        for to in world.balanced().into_iter().chain(world.node_ports(1)) {
            for kind in kinds() {
                faults.extend(asks_all(&world.client, kind, to, &["node1", "node2"], |_| ()).err());
            }
        }
        assert!(faults.is_empty(), "{mode:?}: {faults:#?}");
    }
}
