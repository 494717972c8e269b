//! What of a node keeps translated packets from being forwarded: it is said once, with what to do.

use std::path::Path;
use std::process::Command;

use svclb_tests::{PodNetwork, SOON, Transport, UplinkDevice, UplinkOptions, lacks, wait_until};

use super::{KERNEL, World, hidden_pods, runs};

/// What a policy of DROP needs besides, so that nodes and pods find each other at all.
const OTHERS: &str = "
    ct state established,related accept
    ip saddr { 10.244.0.0/16, 192.0.2.0/24 } accept
    ip6 saddr { fd00:10:244::/48, fd00:192:0:2::/64 } accept
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept";

fn world() -> World {
    World::new(PodNetwork::Routed, hidden_pods())
}

/// Starts the agents; what that of the first node warns of.
fn warnings(world: &mut World) -> Vec<String> {
    world.put(&super::service(), &["a"]);
    world.start(KERNEL);
    // What it says comes after `ready`: a node that has nothing to say is waited for, too.
    wait_until(SOON / 4, || !world.agents[0].warnings().is_empty());
    world.agents[0].warnings()
}

/// The command that a warning ends with, between backquotes.
fn remedy(warning: &str) -> &str {
    let (_, rest) = warning.split_once('`').unwrap();
    rest.split_once('`').unwrap().0
}

/// Each warning is about such a chain; after its remedies clients are answered, and a restart is
/// silent.
fn is_mended(mut world: World, warnings: &[String], chains: &[&str]) {
    for chain in chains {
        let about = warnings.iter().filter(|warning| warning.contains(chain));
        assert_eq!(about.count(), 1, "{chain}: {warnings:?}");
    }
    assert_eq!(warnings.len(), chains.len(), "{warnings:?}");
    for to in world.balanced() {
        assert!(world.client.ask(Transport::Tcp, to).is_err(), "{to}");
    }
    for warning in warnings {
        runs(&world.nodes[0], remedy(warning));
    }
    for to in world.balanced() {
        world.wait_for_answers(to, &["a"]);
    }
    world.agents[0].run().unwrap();
    wait_until(SOON / 4, || !world.agents[0].warnings().is_empty());
    assert_eq!(world.agents[0].warnings(), Vec::<String>::new());
}

#[test]
fn a_node_that_does_not_forward() {
    let mut world = world();
    let names = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];
    for name in names {
        world.nodes[0].sysctl(name, "0").unwrap();
    }
    let warnings = warnings(&mut world);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for (warning, name) in warnings.iter().zip(names) {
        assert!(warning.contains(&name.replace('/', ".")), "{warning}");
        runs(&world.nodes[0], &format!("{} >/dev/null", remedy(warning)));
    }
}

#[test]
fn a_bridge_whose_packets_pass_the_firewall_before_they_are_translated() {
    drop(
        Command::new("modprobe")
            .args(["-q", "br_netfilter"])
            .status(),
    );
    if !Path::new("/proc/sys/net/bridge").exists() {
        return lacks("br_netfilter");
    }
    let options = UplinkOptions {
        device: UplinkDevice::FilteredBridge,
        ..hidden_pods()
    };
    let mut world = World::new(PodNetwork::Vxlan, options);
    let warnings = warnings(&mut world);
    let names = ["iptables", "ip6tables"].map(|name| format!("net.bridge.bridge-nf-call-{name}"));
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for (warning, name) in warnings.iter().zip(names) {
        assert!(warning.contains(&name), "{warning}");
        runs(&world.nodes[0], &format!("{} >/dev/null", remedy(warning)));
    }
    for to in world.balanced() {
        world.wait_for_answers(to, &["a"]);
    }
}

#[test]
fn an_nftables_chain_of_both_families() {
    let mut world = world();
    let chain = "type filter hook forward priority 0; policy drop";
    let rules = format!("table inet operator {{ chain transit {{ {chain}\n{OTHERS}\n }}\n }}");
    world.nodes[0].nft(&rules).unwrap();
    let warnings = warnings(&mut world);
    is_mended(
        world,
        &warnings,
        &["transit of the nftables table inet operator"],
    );
}

#[test]
fn chains_of_either_iptables() {
    for variant in ["nft", "legacy"] {
        let mut world = world();
        let node = &world.nodes[0];
        for iptables in ["iptables", "ip6tables"] {
            let iptables = format!("{iptables}-{variant}");
            // As with Docker, and kube-proxy's other rule.
            runs(
                node,
                &format!(
                    "{iptables} -P FORWARD DROP && {iptables} -N OTHERS &&
                     {iptables} -A FORWARD -j OTHERS -m comment --comment 'of others' &&
                     {iptables} -A OTHERS -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT &&
                     {iptables} -A OTHERS -o docker0 -j ACCEPT"
                ),
            );
        }
        for (iptables, pods) in [
            ("iptables", "10.244.0.0/16"),
            ("ip6tables", "fd00:10:244::/48"),
        ] {
            runs(
                node,
                &format!("{iptables}-{variant} -A OTHERS -s {pods} -j ACCEPT"),
            );
        }
        let warnings = warnings(&mut world);
        let chains = ["iptables", "ip6tables"].map(|name| format!("FORWARD of {name}-{variant}"));
        is_mended(world, &warnings, &[&chains[0], &chains[1]]);
    }
}

#[test]
fn where_a_rule_accepts_the_mark_nothing_is_said() {
    for rule in [
        "meta mark & 0x4000 == 0x4000 accept",
        "meta nfproto ipv4 meta mark & 0x4000 != 0 counter accept
         meta nfproto ipv6 meta mark & 0x4000 != 0 counter accept",
        "jump others",
    ] {
        let mut world = world();
        let chain = "type filter hook forward priority 0; policy drop";
        let others = "chain others { meta mark 0x4000 log accept\n }";
        let rules = format!(
            "table inet operator {{ {others}\n chain transit {{ {chain}\n{OTHERS}\n{rule}\n }}\n }}"
        );
        world.nodes[0].nft(&rules).unwrap();
        assert_eq!(warnings(&mut world), Vec::<String>::new(), "{rule}");
    }
    let mut world = world();
    for iptables in ["iptables-legacy", "ip6tables-legacy"] {
        runs(
            &world.nodes[0],
            &format!(
                "{iptables} -P FORWARD DROP && {iptables} -N KUBE-FORWARD &&
                 {iptables} -A FORWARD -m comment --comment 'kubernetes forwarding rules' -j KUBE-FORWARD &&
                 {iptables} -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP &&
                 {iptables} -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT"
            ),
        );
    }
    assert_eq!(warnings(&mut world), Vec::<String>::new());
}
