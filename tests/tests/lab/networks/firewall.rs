//! Rules of the node's own.

use svclb_tests::{PodNetwork, Transport};

use super::{KERNEL, MODES, World, asks_all, hidden_pods, kinds};

#[test]
fn a_client_that_is_dropped_in_prerouting_or_forward_gets_nothing() {
    for hook in ["prerouting", "forward"] {
        let world = World::serving(PodNetwork::Vxlan, hidden_pods(), &["a", "b"], KERNEL);
        let barred = world.outside.client("barred").unwrap();
        for to in world.balanced() {
            world.wait_for_answers(to, &["a", "b"]);
            assert!(barred.ask(Transport::Tcp, to).is_ok());
        }
        world.nodes[0]
            .nft(&format!(
                "table inet operator {{ chain bars {{
                   type filter hook {hook} priority 0
                   ip saddr {} drop
                   ip6 saddr {} drop
                 }}
                 }}",
                barred.v4(),
                barred.v6()
            ))
            .unwrap();
        for to in world.balanced() {
            for transport in [Transport::Tcp, Transport::Udp] {
                let tally = barred.repeat(transport, to, 20).unwrap();
                assert_eq!(tally.answered(), 0, "{hook} {to}: {tally:?}");
            }
            world.wait_for_answers(to, &["a", "b"]);
        }
    }
}

#[test]
fn where_all_that_is_forwarded_is_dropped_the_mark_of_translated_packets_lets_them_pass() {
    for network in [PodNetwork::Vxlan, PodNetwork::Routed] {
        for mode in MODES {
            let mut world = World::new(network, hidden_pods());
            for node in &world.nodes {
                // Docker's policy, kube-proxy's rule, and others' for what pods and nodes send.
                node.nft(
                    "table inet docker { chain forward {
                       type filter hook forward priority 0; policy drop
                       meta mark & 0x4000 == 0x4000 accept
                       ct state established,related accept
                       ip saddr { 10.244.0.0/16, 192.0.2.0/24 } accept
                       ip6 saddr { fd00:10:244::/48, fd00:192:0:2::/64 } accept
                       icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
                     }
                     }",
                )
                .unwrap();
            }
            world.put(&super::service(), &["a", "b"]);
            world.start(mode);
            for to in [world.balanced(), world.node_ports(0), world.node_ports(1)].concat() {
                for kind in kinds() {
                    asks_all(&world.client, kind, to, &["a", "b"], |_| {})
                        .unwrap_or_else(|fault| panic!("{network:?} {mode:?}: {fault}"));
                }
            }
        }
    }
}

#[test]
fn conntracks_opinion_of_translated_packets_is_that_they_are_valid() {
    for network in [PodNetwork::Vxlan, PodNetwork::Routed, PodNetwork::Tun] {
        let mut world = World::new(network, hidden_pods());
        for node in &world.nodes {
            node.nft(
                "table inet strict { chain forward {
                   type filter hook forward priority 0
                   ct state invalid counter drop
                 }
                 }",
            )
            .unwrap();
        }
        world.put(&super::service(), &["a", "b"]);
        world.start(KERNEL);
        for to in [world.balanced(), world.node_ports(1)].concat() {
            world.wait_for_answers(to, &["a", "b"]);
            for kind in kinds() {
                asks_all(&world.client, kind, to, &["a", "b"], |_| {}).unwrap();
            }
        }
        for node in &world.nodes {
            let mut nft = std::process::Command::new("nft");
            nft.args(["list", "table", "inet", "strict"]);
            let output = node.run(|| Ok(nft.output()?)).unwrap();
            let rules = String::from_utf8(output.stdout).unwrap();
            assert!(rules.contains("packets 0 bytes 0"), "{network:?}: {rules}");
        }
    }
}

#[test]
fn a_cni_may_masquerade_what_comes_to_pods_from_outside() {
    for mode in MODES {
        let mut world = World::new(PodNetwork::Vxlan, hidden_pods());
        for node in &world.nodes {
            // As flannel's last rule: the pod sees its node in the place of a client that asks from outside.
            node.nft(
                "table inet flannel { chain postrouting {
                   type nat hook postrouting priority 101
                   ip saddr != { 10.244.0.0/16, 224.0.0.0/4 } ip daddr 10.244.0.0/16 masquerade fully-random
                   ip6 saddr != { fd00:10:244::/48, fe80::/10 } ip6 daddr fd00:10:244::/48 masquerade fully-random
                 }
                 }",
            )
            .unwrap();
        }
        world.put(&super::service(), &["a", "b"]);
        world.start(mode);
        for to in [world.balanced(), world.node_ports(0), world.node_ports(1)].concat() {
            for kind in kinds() {
                asks_all(&world.client, kind, to, &["a", "b"], |_| {})
                    .unwrap_or_else(|fault| panic!("{mode:?}: {fault}"));
            }
        }
    }
}
