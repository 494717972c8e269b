//! Nodes with more than one uplink: replies leave by the device by which their flow came in.

use std::net::{IpAddr, SocketAddr};

use svclb_tests::{Outside, PodNetwork, Transport, UplinkOptions};
#[cfg(feature = "all-networks")]
use svclb_tests::{has_devices, lacks};

use super::{MODES, NODE_PORT, World, asks_all, asks_on, kinds, service};

/// As providers' networks, which take each address from its own segment only.
fn takes_own_addresses_only(outside: &Outside) {
    outside
        .nft(
            "table inet provider { chain forward {
               type filter hook forward priority 0
               iifname nodes ip saddr 100.64.2.0/24 drop
               iifname nodes ip6 saddr fd00:100:64:2::/64 drop
               iifname nodes2 ip saddr { 192.0.2.0/24, 203.0.113.0/24 } drop
               iifname nodes2 ip6 saddr { fd00:192:0:2::/64, fd00:203:0:113::/64 } drop
             }
             }",
        )
        .unwrap();
}

/// With a second uplink at each node: its addresses.
fn world(options: UplinkOptions) -> (World, Vec<IpAddr>) {
    let world = World::new(PodNetwork::Vxlan, options);
    let seconds =
        [&world.nodes[0], &world.nodes[1]].map(|node| world.outside.second_uplink(node).unwrap());
    takes_own_addresses_only(&world.outside);
    (world, seconds.concat())
}

/// At the addresses of both uplinks of both nodes, clients outside are served.
fn serves(world: &World, seconds: &[IpAddr], mode: &[&str]) {
    let seconds = seconds.iter().map(|ip| SocketAddr::new(*ip, NODE_PORT));
    let firsts = [world.balanced(), world.node_ports(0), world.node_ports(1)].concat();
    let mut faults = Vec::new();
    for to in firsts.into_iter().chain(seconds) {
        for kind in kinds() {
            faults.extend(asks_all(&world.client, kind, to, &["a", "b"], |_| {}).err());
        }
    }
    assert!(faults.is_empty(), "{mode:?}: {faults:#?}");
}

#[test]
fn replies_leave_by_the_uplink_that_was_asked() {
    for rp_filter in [1, 2] {
        let options = UplinkOptions {
            masquerade: true,
            rp_filter,
            ..UplinkOptions::default()
        };
        for mode in MODES {
            let (mut world, seconds) = world(options);
            world.put(&service(), &["a", "b"]);
            if rp_filter == 1 {
                // A strict node takes from its second uplink only those to whom that leads.
                for node in &world.nodes {
                    node.sysctl("net/ipv4/conf/eth1/rp_filter", "2").unwrap();
                }
            }
            world.start(&[mode, &["--nodeport-addresses", "all"]].concat());
            serves(&world, &seconds, mode);
        }
    }
}

#[test]
fn replies_follow_a_router_whose_link_address_changes() {
    let options = UplinkOptions {
        rp_filter: 2,
        ..UplinkOptions::default()
    };
    for mode in MODES {
        let (mut world, seconds) = world(options);
        world.put(&service(), &["a", "b"]);
        world.start(&[mode, &["--nodeport-addresses", "all"]].concat());
        serves(&world, &seconds, mode);
        let mut sockets = Vec::new();
        for to in seconds.iter().map(|ip| SocketAddr::new(*ip, NODE_PORT)) {
            for transport in [Transport::Tcp, Transport::Udp] {
                let socket = world.client.socket(transport, to.is_ipv6()).unwrap();
                socket.connect(to).unwrap();
                let backend = asks_on(&socket, "before").unwrap();
                sockets.push((to, transport, socket, backend));
            }
        }
        // As where another router takes over its address.
        world
            .outside
            .ip("link set nodes2 address 02:00:00:00:02:fe")
            .unwrap();
        // It says so to its neighbours.
        for node in &world.nodes {
            node.ip("neigh flush dev eth1").unwrap();
        }
        for (to, transport, socket, backend) in &sockets {
            let answer = asks_on(socket, "after");
            assert_eq!(answer.as_ref(), Ok(backend), "{mode:?} {transport:?} {to}");
        }
    }
}

#[test]
fn replies_of_pods_whose_addresses_belong_to_the_second_uplink_leave_by_the_first() {
    let options = UplinkOptions {
        rp_filter: 2,
        ..UplinkOptions::default()
    };
    for mode in MODES {
        let (mut world, seconds) = world(options);
        // As with AWS' CNI: what pods send is routed by the second uplink, but to other pods.
        for (node, pod) in world.nodes.iter().zip(&world.backends) {
            for (ip, all) in [
                (IpAddr::from(pod.v4()), "10.244.0.0/16"),
                (pod.v6().into(), "fd00:10:244::/48"),
            ] {
                node.rule(&format!("add from {ip} to {all} lookup main priority 900"))
                    .unwrap();
                node.rule(&format!("add from {ip} lookup 100 priority 1000"))
                    .unwrap();
            }
        }
        world.put(&service(), &["a", "b"]);
        world.start(&[mode, &["--nodeport-addresses", "all"]].concat());
        serves(&world, &seconds, mode);
    }
}

#[test]
#[cfg(feature = "all-networks")]
fn the_second_uplink_may_be_in_a_vrf() {
    if !has_devices("vrf").unwrap() {
        return lacks("vrf devices");
    }
    let options = UplinkOptions {
        masquerade: true,
        rp_filter: 2,
        ..UplinkOptions::default()
    };
    for mode in MODES {
        let (mut world, seconds) = world(options);
        for (own, far, node) in [(1, 2, &world.nodes[0]), (2, 1, &world.nodes[1])] {
            // Its table is that of the rules by source, and leads to pods besides.
            for line in [
                "link add blue type vrf table 100".to_owned(),
                "link set blue up".to_owned(),
                "link set eth1 master blue".to_owned(),
                // Which it loses in between.
                format!("addr replace {}/64 dev eth1 nodad", seconds[2 * own - 1]),
                "route replace default via 100.64.2.254 dev eth1 table 100".to_owned(),
                "route replace ::/0 via fd00:100:64:2::254 dev eth1 table 100".to_owned(),
                format!("route add 10.244.{own}.0/24 dev br0 table 100"),
                format!("route add fd00:10:244:{own}::/64 dev br0 table 100"),
                format!(
                    "route add 10.244.{far}.0/24 via 10.244.{far}.0 dev flannel.1 onlink table 100"
                ),
                format!("route add fd00:10:244:{far}::/64 via fe80::{far} dev flannel.1 table 100"),
            ] {
                node.ip(&line).unwrap();
            }
        }
        world.put(&service(), &["a", "b"]);
        world.start(&[mode, &["--nodeport-addresses", "all"]].concat());
        serves(&world, &seconds, mode);
    }
}

#[test]
fn rules_by_connection_mark_may_choose_the_uplink() {
    let options = UplinkOptions {
        masquerade: true,
        rp_filter: 2,
        ..UplinkOptions::default()
    };
    for mode in MODES {
        let (mut world, seconds) = world(options);
        for node in &world.nodes {
            // What came in by the second uplink is answered by it: as operators have it for their own.
            node.nft(
                "table inet operator {
                   chain prerouting {
                     type filter hook prerouting priority mangle
                     iifname eth1 ct mark set 0x80
                     iifname != eth1 ct mark 0x80 meta mark set meta mark | 0x80
                   }
                 }",
            )
            .unwrap();
            for family in ["0.0.0.0/0", "::/0"] {
                node.rule(&format!(
                    "add from {family} fwmark 0x80/0x80 lookup 100 priority 800"
                ))
                .unwrap();
            }
        }
        world.put(&service(), &["a", "b"]);
        world.start(&[mode, &["--nodeport-addresses", "all"]].concat());
        serves(&world, &seconds, mode);
    }
}

#[test]
fn packets_to_other_nodes_are_sent_from_the_uplinks_own_address_and_not_from_a_virtual_one() {
    for mode in MODES {
        let mut world = World::new(PodNetwork::Routed, UplinkOptions::default());
        // As keepalived's, which come later and are smaller numbers.
        for address in [
            "192.0.1.7/32",
            "192.0.1.8/24",
            "fd00:192:0:1::7/128",
            "fd00:192:0:1::8/64 nodad",
        ] {
            let command = format!("address add {address} dev eth0");
            world.nodes[0].ip(&command).unwrap();
        }
        world.put(&service(), &["b"]);
        world.start(mode);
        for to in world.node_ports(0) {
            world.wait_for_answers(to, &["b"]);
            let seen = world.client.ask(Transport::Tcp, to).unwrap().client.ip();
            assert_eq!(seen, world.nodes[0].ip_like(seen), "{mode:?}");
        }
    }
}
