//! Rules that kube-proxy left behind, or still keeps: they accept packets with its mark, and masquerade
//! them.

use svclb_tests::{Node, PodNetwork, SOON, Transport, kube_proxy_rules, wait_until};

use super::{KERNEL, World, asks_all, hidden_pods, kinds, runs, service};

/// The rules that every kube-proxy has, in the shapes that there are.
const SHAPES: [&str; 3] = ["legacy", "nft", "nftables"];

/// Gives a node kube-proxy's rules, and what kube-proxy's mark is for: a policy of DROP.
fn put_rules(world: &World, node: &Node, shape: &str, policy: &str) {
    if shape == "nftables" {
        let backends = world.backends.iter();
        let backends = backends.flat_map(|pod| [pod.v4_at(8080), pod.v6_at(8080)]);
        let backends: Vec<_> = backends.collect();
        let rules = kube_proxy_rules(&world.balanced(), &backends).unwrap();
        node.nft(&rules).unwrap();
        return;
    }
    for (iptables, pods, nodes) in [
        ("iptables", "10.244.0.0/16", "192.0.2.0/24"),
        ("ip6tables", "fd00:10:244::/48", "fd00:192:0:2::/64"),
    ] {
        let iptables = format!("{iptables}-{shape}");
        runs(
            node,
            &format!(
                "set -e
                 {iptables} -t nat -N KUBE-POSTROUTING
                 {iptables} -t nat -A POSTROUTING -m comment --comment 'kubernetes postrouting rules' -j KUBE-POSTROUTING
                 {iptables} -t nat -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
                 {iptables} -t nat -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
                 {iptables} -t nat -A KUBE-POSTROUTING -m comment --comment 'requiring SNAT' -j MASQUERADE --random-fully
                 {iptables} -N KUBE-FORWARD
                 {iptables} -A FORWARD -m comment --comment 'kubernetes forwarding rules' -j KUBE-FORWARD
                 {iptables} -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
                 {iptables} -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
                 {iptables} -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
                 {iptables} -A FORWARD -s {pods} -j ACCEPT
                 {iptables} -A FORWARD -s {nodes} -j ACCEPT
                 {iptables} -P FORWARD {policy}"
            ),
        );
    }
}

fn world(shape: &str, policy: &str) -> World {
    let world = World::new(PodNetwork::Vxlan, hidden_pods());
    for node in &world.nodes {
        put_rules(&world, node, shape, policy);
    }
    world
}

/// At the balancer's addresses all backends answer, and so they do at those of both nodes.
fn serves(world: &World, context: &str) {
    for to in [world.balanced(), world.node_ports(0), world.node_ports(1)].concat() {
        world.wait_for_answers(to, &["a", "b"]);
        for kind in kinds() {
            asks_all(&world.client, kind, to, &["a", "b"], |_| {})
                .unwrap_or_else(|fault| panic!("{context}: {fault}"));
        }
    }
}

/// What the agent of the first node warns of, after `ready`.
fn warnings(world: &World) -> Vec<String> {
    wait_until(SOON / 4, || !world.agents[0].warnings().is_empty());
    world.agents[0].warnings()
}

#[test]
fn left_over_rules_do_not_hide_clients_from_their_backends() {
    for shape in SHAPES {
        let mut world = world(shape, "ACCEPT");
        world.put(&service().external_local(), &["a", "b"]);
        world.start(KERNEL);
        let line = world.agents[0].wait_for_line(&["carry the mark 0x1000"]);
        assert!(line.unwrap().contains("kube-proxy --cleanup"), "{shape}");
        for to in world.balanced() {
            world.wait_for_answers(to, &["a"]);
            for kind in kinds() {
                for _ in 0..5 {
                    let answer = world.client.ask(kind, to).unwrap();
                    let client = answer.client.ip();
                    assert_eq!(
                        client,
                        world.client.ip_like(client),
                        "{shape} {to} {kind:?}"
                    );
                }
            }
        }
        assert_eq!(warnings(&world), Vec::<String>::new(), "{shape}");
        world.put(&service(), &["a", "b"]);
        serves(&world, shape);
    }
}

#[test]
fn where_only_kube_proxys_mark_is_let_pass_it_is_kept_and_the_masquerade_is_said() {
    for shape in ["legacy", "nft"] {
        let mut world = world(shape, "DROP");
        world.put(&service(), &["a", "b"]);
        world.start(KERNEL);
        let warnings = warnings(&world);
        for iptables in ["iptables", "ip6tables"] {
            let chain = format!("POSTROUTING of {iptables}-{shape} masquerades");
            let mut about = warnings.iter().filter(|warning| warning.contains(&chain));
            let warning = about
                .next()
                .unwrap_or_else(|| panic!("{chain}: {warnings:?}"));
            assert!(warning.contains("`kube-proxy --cleanup`"), "{warning}");
        }
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        serves(&world, shape);
    }
}

#[test]
fn a_mark_that_the_operator_gives_is_taken_whatever_rules_there_are() {
    let mut world = world("nftables", "ACCEPT");
    world.put(&service(), &["a", "b"]);
    world.start(&[KERNEL, &["--mark", "0x4000"]].concat());
    let warnings = warnings(&world);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for warning in &warnings {
        assert!(
            warning.contains("nat-postrouting of the nftables table"),
            "{warning}"
        );
    }
    serves(&world, "0x4000");
    // What is warned of.
    world.put(&service().external_local(), &["a", "b"]);
    for to in world.balanced() {
        world.wait_for_answers(to, &["a"]);
        let client = world.client.ask(Transport::Tcp, to).unwrap().client.ip();
        assert_ne!(client, world.client.ip_like(client), "{to}");
    }
    world.start(&[KERNEL, &["--mark", "0x20"]].concat());
    for to in world.balanced() {
        assert!(world.client.ask(Transport::Tcp, to).is_ok());
    }
    assert!(
        world.agents[0]
            .wait_for_line_in(SOON / 8, &["masquerades"])
            .is_none()
    );
}
