//! What lies outside of the cluster: uplinks, the router, clients behind it.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::thread;

use anyhow::Result;
use svclb_tests::{Kind, Lab, Node, Peer, PodNetwork, Transport, UplinkOptions, lacks};

use super::super::scene::{kernel, turn};
use super::carries;
use super::tap::Tap;

const BALANCERS: [&str; 2] = ["203.0.113.7", "fd00:203:0:113::7"];

#[test]
fn a_client_outside_reaches_the_nodes_hosts_and_is_seen_by_its_own_address() {
    let _turn = turn();
    let lab = Lab::new("outside").unwrap();
    let outside = lab.outside(PodNetwork::Bridged).unwrap();
    let clients = ["client", "other"].map(|name| outside.client(name).unwrap());
    let nodes = ["node1", "node2"].map(|name| {
        let options = UplinkOptions::default();
        lab.node_at(&outside, name, options).unwrap()
    });
    for transport in [Transport::Tcp, Transport::Udp] {
        for node in &nodes {
            node.serve(transport, 80).unwrap();
            for (client, to) in clients.iter().flat_map(|c| hosts(node).map(|to| (c, to))) {
                let answer = client.ask(transport, to).unwrap();
                assert_eq!(answer.backend, node.name());
                assert_eq!(answer.client.ip(), client.ip_like(to.ip()));
            }
        }
        for to in hosts(&nodes[1]) {
            let answer = nodes[0].ask(transport, to).unwrap();
            assert_eq!(answer.backend, "node2");
            assert_eq!(answer.client.ip(), nodes[0].ip_like(to.ip()));
        }
    }
}

#[test]
fn an_address_that_no_interface_of_the_segment_has_arrives_where_the_router_sends_it() {
    let _turn = turn();
    let lab = Lab::new("balancer").unwrap();
    let outside = lab.outside(PodNetwork::Bridged).unwrap();
    let client = outside.client("client").unwrap();
    let nodes = ["node1", "node2"].map(|name| {
        let options = UplinkOptions::default();
        lab.node_at(&outside, name, options).unwrap()
    });
    for balancer in BALANCERS.map(|ip| ip.parse::<IpAddr>().unwrap()) {
        let to = SocketAddr::new(balancer, 80 + u16::from(balancer.is_ipv6()));
        assert_unreachable(&client, to);
        for node in &nodes {
            node.run(|| run(&["ip", "addr", "add", &balancer.to_string(), "dev", "lo"]))
                .unwrap();
            for transport in [Transport::Tcp, Transport::Udp] {
                node.serve(transport, to.port()).unwrap();
            }
        }
        for node in [&nodes[0], &nodes[1], &nodes[0]] {
            outside.route(balancer, node).unwrap();
            for kind in [Kind::new(Transport::Tcp), UDP] {
                let answer = client.ask(kind, to).unwrap();
                assert_eq!(answer.backend, node.name());
                assert_eq!(answer.client.ip(), client.ip_like(balancer));
            }
        }
    }
    let inside = lab.node("inside").unwrap();
    assert!(
        outside
            .route(BALANCERS[0].parse().unwrap(), &inside)
            .is_err()
    );
}

#[test]
fn the_router_is_where_the_outside_ends() {
    let _turn = turn();
    let lab = Lab::new("end").unwrap();
    let outside = lab.outside(PodNetwork::Bridged).unwrap();
    let client = outside.client("client").unwrap();
    let options = UplinkOptions::default();
    let node = lab.node_at(&outside, "node1", options).unwrap();
    let pod = node.pod("pod").unwrap();
    // At the same time: TCP waits a second before it believes it.
    thread::scope(|scope| {
        for peer in [&*client, &*node, &*pod] {
            scope.spawn(move || {
                for to in ["198.18.0.1:80", "[fd00:bad::1]:80"] {
                    assert_unreachable(peer, to.parse().unwrap());
                }
            });
        }
    });
    let devices = outside.run(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?));
    for line in devices.unwrap().lines().skip(2) {
        let device = line.trim().split(':').next().unwrap();
        assert!(
            ["lo", "nodes", "clients", "u1", "c10"].contains(&device),
            "{device}"
        );
    }
}

#[test]
fn uplinks_deliver_whole_checksums_as_a_wire_does() {
    let _turn = turn();
    let lab = Lab::new("checksums").unwrap();
    let outside = lab.outside(PodNetwork::Bridged).unwrap();
    let client = outside.client("client").unwrap();
    let options = UplinkOptions::default();
    let node = lab.node_at(&outside, "node1", options).unwrap();
    let pod = node.pod("pod").unwrap();
    client.serve(Transport::Udp, 81).unwrap();
    node.serve(Transport::Udp, 80).unwrap();
    for (host, far) in hosts(&node)
        .into_iter()
        .zip([client.v4_at(81), client.v6_at(81)])
    {
        let at_node = || node.run(|| Tap::new(host.ip())).unwrap();
        let mut near = at_node();
        let mut router = outside.run(|| Tap::new(host.ip())).unwrap();
        client.ask(Transport::Udp, host).unwrap();
        assert!(near.next_to(80).unwrap().has_whole_checksum());
        assert!(router.next_from(80).unwrap().has_whole_checksum());
        pod.ask(Transport::Udp, far).unwrap();
        assert!(router.next_to(81).unwrap().has_whole_checksum());
        assert!(near.next_from(81).unwrap().has_whole_checksum());
        // What is looked for can be seen: within a node checksums are left out.
        let mut near = at_node();
        pod.ask(UDP, host).unwrap();
        assert!(!near.next_to(80).unwrap().has_whole_checksum());
    }
}

#[test]
fn the_far_end_of_an_uplink_polls_so_that_it_takes_what_an_xdp_program_sends() {
    let _turn = turn();
    let lab = Lab::new("polling").unwrap();
    let outside = lab.outside(PodNetwork::Bridged).unwrap();
    let options = UplinkOptions::default();
    let _node = lab.node_at(&outside, "node1", options).unwrap();
    let features = outside.run(|| {
        let output = Command::new("ethtool").args(["-k", "u1"]).output()?;
        Ok(String::from_utf8(output.stdout)?)
    });
    let features = features.unwrap();
    assert!(
        features.contains("generic-receive-offload: on"),
        "{features}"
    );
    // Before, a veth polls only for an XDP program of its own.
    if kernel() < (5, 13) {
        lacks("veth devices that poll for GRO alone");
    }
}

#[test]
fn a_node_checks_sources_as_its_rp_filter_is_set() {
    let _turn = turn();
    let lab = Lab::new("sources").unwrap();
    let outside = lab.outside(PodNetwork::Bridged).unwrap();
    for (name, rp_filter) in [("off", 0), ("strict", 1), ("loose", 2)] {
        let options = UplinkOptions {
            rp_filter,
            ..UplinkOptions::default()
        };
        let node = lab.node_at(&outside, name, options).unwrap();
        for device in ["eth0", "br0"] {
            let path = format!("/proc/sys/net/ipv4/conf/{device}/rp_filter");
            let value = node.run(|| Ok(fs::read_to_string(path)?)).unwrap();
            assert_eq!(value.trim(), rp_filter.to_string(), "{device} of {name}");
        }
    }
}

#[test]
fn nothing_is_left_of_an_outside_after_a_panic() {
    let _turn = turn();
    let mut prefix = String::new();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let lab = Lab::new("panic").unwrap();
        prefix = lab.prefix().to_owned();
        let outside = lab.outside(PodNetwork::Bridged).unwrap();
        let _client = outside.client("client").unwrap();
        let options = UplinkOptions::default();
        let _node = lab.node_at(&outside, "node1", options).unwrap();
        for name in ["router", "outside-client", "node1"] {
            assert!(carries("/run/netns", &format!("{prefix}-{name}")));
        }
        panic!("on purpose");
    }));
    assert!(result.is_err());
    for place in ["/run/netns", "/run/svclb-lab", "/sys/fs/bpf"] {
        assert!(!carries(place, &prefix), "{place}");
    }
    // The namespaces of a lab that is gone take their devices with them.
    let own = fs::read_to_string("/proc/net/dev").unwrap();
    for device in ["nodes:", "clients:", "u1:", "c10:"] {
        assert!(!own.contains(device), "{own}");
    }
}

/// Sockets that take an answer from any address: a server at every address of a node answers
/// over UDP from the one that is next to the client, whichever was asked.
pub(super) const UDP: Kind = Kind::new(Transport::Udp).unconnected();

/// Port 80 of a node's own addresses.
fn hosts(node: &Node) -> [SocketAddr; 2] {
    [(node.v4(), 80).into(), (node.v6(), 80).into()]
}

pub(super) fn assert_unreachable(peer: &Peer, to: SocketAddr) {
    let failure = peer.ask(Transport::Tcp, to).unwrap_err();
    assert!(
        ["EHOSTUNREACH", "ENETUNREACH"].contains(&failure.errno.as_str()),
        "{to}: {failure:?}"
    );
}

/// Runs a program in the namespace of the calling thread.
fn run(words: &[&str]) -> Result<()> {
    let output = Command::new(words[0]).args(&words[1..]).output()?;
    anyhow::ensure!(output.status.success(), "{words:?}: {output:?}");
    Ok(())
}
