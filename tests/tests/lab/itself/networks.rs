//! The pod networks of clusters, and what leaves them.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use svclb_tests::{
    Kind, Lab, Node, Peer, Pod, PodNetwork, SOON, Transport, UplinkDevice, UplinkOptions,
    wait_until,
};

use super::super::scene::turn;
use super::outside::{UDP, assert_unreachable};

#[test]
fn bridged_pods_of_all_nodes_reach_each_other() {
    let devices = meet(PodNetwork::Bridged, ["10.244.1.1", "fd00:10:244:1::1"]);
    assert!(devices.contains(" br0:") && devices.contains(" n2@"));
}

#[test]
fn routed_pods_of_all_nodes_reach_each_other() {
    let devices = meet(PodNetwork::Routed, ["192.0.2.1", "fd00:192:0:2::1"]);
    assert!(!devices.contains(" br0:") && !devices.contains(" n2@"));
}

#[test]
fn pods_of_all_nodes_reach_each_other_through_a_tunnel() {
    let devices = meet(PodNetwork::Vxlan, ["10.244.1.0", "fd00:10:244:1::1"]);
    assert!(devices.contains(" flannel.1:") && !devices.contains(" n2@"));
}

#[test]
fn pods_of_all_nodes_reach_each_other_through_a_tunnel_that_carries_less_than_their_links() {
    let devices = meet(PodNetwork::NarrowVxlan, ["10.244.1.0", "fd00:10:244:1::1"]);
    assert!(devices.contains(" mtu 1300 ") && !devices.contains(" mtu 1450 "));
}

#[test]
fn pods_of_all_nodes_reach_each_other_through_devices_without_an_ethernet_header() {
    let devices = meet(PodNetwork::Tun, ["10.244.1.0", "fd00:10:244:1::2"]);
    assert!(devices.contains(" tun0:") && devices.contains("link/none"));
}

#[test]
fn pods_of_all_nodes_reach_each_other_on_one_segment() {
    let devices = meet(PodNetwork::Lan, ["10.244.1.1", "fd00:10:244:1::1"]);
    assert!(devices.contains(" br0:") && devices.contains(" eth1@"));
}

#[test]
fn pods_of_all_nodes_reach_each_other_whatever_their_uplinks_are() {
    let vxlan = ["10.244.1.0", "fd00:10:244:1::1"];
    for (device, kind) in [
        (UplinkDevice::Bridge, "bridge"),
        (UplinkDevice::Macvlan, "macvlan"),
        (
            UplinkDevice::Unnumbered,
            "inet 192.0.2.1/32 scope global lo",
        ),
    ] {
        let seen = meet_by(PodNetwork::Vxlan, device, vxlan);
        assert!(seen.contains(kind), "{device:?}: {seen}");
    }
}

#[test]
fn what_a_node_sends_from_an_address_of_its_second_uplink_leaves_by_that() {
    let _turn = turn();
    let lab = Lab::new("second").unwrap();
    let outside = lab.outside(PodNetwork::Routed).unwrap();
    let client = outside.client("client").unwrap();
    let node = lab
        .node_at(&outside, "node1", UplinkOptions::default())
        .unwrap();
    let seconds = outside.second_uplink(&node).unwrap();
    // As a provider's network, which takes each address from its own segment only.
    outside
        .nft(
            "table inet provider { chain forward {
               type filter hook forward priority 0
               iifname nodes ip saddr 100.64.2.0/24 drop
               iifname nodes ip6 saddr fd00:100:64:2::/64 drop
               iifname nodes2 ip saddr 192.0.2.0/24 drop
               iifname nodes2 ip6 saddr fd00:192:0:2::/64 drop
             }
             }",
        )
        .unwrap();
    node.serve(Transport::Tcp, 80).unwrap();
    let firsts: [IpAddr; 2] = [node.v4().into(), node.v6().into()];
    for ip in firsts.into_iter().chain(seconds) {
        let answer = client.ask(Transport::Tcp, (ip, 80).into());
        assert_eq!(answer.unwrap().client.ip(), client.ip_like(ip), "{ip}");
    }
}

#[test]
fn pods_are_seen_outside_by_their_nodes_address_where_it_masquerades_and_by_their_own_elsewhere() {
    let _turn = turn();
    for network in [PodNetwork::Bridged, PodNetwork::Routed, PodNetwork::Vxlan] {
        let lab = Lab::new("masquerade").unwrap();
        let outside = lab.outside(network).unwrap();
        let client = outside.client("client").unwrap();
        let [hidden, known] = [true, false].map(|masquerade| {
            let options = UplinkOptions {
                masquerade,
                ..UplinkOptions::default()
            };
            let name = if masquerade { "hidden" } else { "known" };
            let node = lab.node_at(&outside, name, options).unwrap();
            let pod = node.pod("pod").unwrap();
            (node, pod)
        });
        for transport in [Transport::Tcp, Transport::Udp] {
            client.serve(transport, 80).unwrap();
            for to in [client.v4_at(80), client.v6_at(80)] {
                let seen = |peer: &Peer| peer.ask(transport, to).unwrap().client.ip();
                assert_eq!(seen(&hidden.1), hidden.0.ip_like(to.ip()));
                assert_eq!(seen(&known.1), known.1.ip_like(to.ip()));
                assert_eq!(seen(&known.0), known.0.ip_like(to.ip()));
            }
            known.1.serve(transport, 80).unwrap();
            for to in [known.1.v4_at(80), known.1.v6_at(80)] {
                let answer = client.ask(transport, to).unwrap();
                assert_eq!(answer.client.ip(), client.ip_like(to.ip()));
            }
        }
        assert_unreachable(&client, hidden.1.v4_at(80));
    }
}

/// Lets all pods and hosts of three nodes ask each other, and returns which devices the
/// first node has. Its host is seen by the others' pods by one of two addresses.
fn meet(network: PodNetwork, first_host: [&str; 2]) -> String {
    meet_by(network, UplinkDevice::Plain, first_host)
}

/// The same with another kind of uplink.
fn meet_by(network: PodNetwork, device: UplinkDevice, first_host: [&str; 2]) -> String {
    let _turn = turn();
    let lab = Lab::new("networks").unwrap();
    let outside = lab.outside(network).unwrap();
    let options = UplinkOptions {
        masquerade: true,
        device,
        ..UplinkOptions::default()
    };
    let nodes = ["node1", "node2", "node3"].map(|n| lab.node_at(&outside, n, options).unwrap());
    let pods: Vec<(&Node, Pod)> = [(0, "a"), (0, "b"), (1, "c"), (2, "d")]
        .map(|(node, name)| (&nodes[node], nodes[node].pod(name).unwrap()))
        .into();
    let names = pods.iter().map(|(_, pod)| (pod.name(), &**pod, 80));
    let hosts = nodes.iter().map(|node| (node.name(), &**node, 81));
    for (_, peer, port) in names.chain(hosts) {
        peer.serve(Transport::Tcp, port).unwrap();
        peer.serve(Transport::Udp, port).unwrap();
    }
    for (node, client) in &pods {
        for (_, server) in &pods {
            for to in [server.v4_at(80), server.v6_at(80)] {
                assert_eq!(seen(client, to, server.name()), client.ip_like(to.ip()));
                carries_much(client, to);
            }
        }
        for host in &nodes {
            for ip in [host.v4().into(), host.v6().into()] {
                let own = if host.name() == node.name() {
                    client.ip_like(ip)
                } else {
                    node.ip_like(ip)
                };
                assert_eq!(seen(client, (ip, 81).into(), host.name()), own);
            }
        }
    }
    for (node, server) in &pods[2..] {
        for (to, host) in [server.v4_at(80), server.v6_at(80)]
            .into_iter()
            .zip(first_host)
        {
            assert_eq!(seen(&nodes[0], to, server.name()).to_string(), host);
            assert!(node.ask(Transport::Tcp, to).is_ok());
        }
    }
    devices(&nodes[0])
}

/// As whom a server sees a client, over TCP and UDP.
fn seen(client: &Peer, to: SocketAddr, server: &str) -> IpAddr {
    let [tcp, udp] = [Kind::new(Transport::Tcp), UDP].map(|kind| {
        let answer = client.ask(kind, to);
        let answer = answer.unwrap_or_else(|failure| panic!("{server} at {to}: {failure}"));
        assert_eq!(answer.backend, server);
        answer.client.ip()
    });
    assert_eq!(tcp, udp);
    tcp
}

/// What takes several packets arrives as well.
fn carries_much(client: &Peer, to: SocketAddr) {
    for (transport, length) in [(Transport::Tcp, 20_000), (Transport::Udp, 3_000)] {
        let text = "x".repeat(length);
        // A datagram is lost where its sender has still to find out how much the way carries.
        let arrived = wait_until(SOON, || {
            let socket = client.socket(transport, to.is_ipv6()).unwrap();
            socket.connect(to).unwrap();
            socket.send(&text).unwrap();
            let answer = socket.receive();
            answer.is_ok_and(|answer| answer.echoed.len() == length)
        });
        assert!(arrived, "{length} bytes over {transport:?} to {to}");
    }
}

fn devices(node: &Node) -> String {
    let output = node.run(|| Ok(Command::new("ip").args(["-d", "addr"]).output()?));
    String::from_utf8(output.unwrap().stdout).unwrap()
}
