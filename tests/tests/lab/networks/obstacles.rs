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

/// Docker's rule: from outside, pods are reached by what NAT makes of published ports alone.
#[test]
fn a_prerouting_chain_that_drops_what_is_for_pods() {
    let mut world = world();
    let node = &world.nodes[0];
    node.nft(
        "table inet operator { chain direct {
           type filter hook prerouting priority -300
           iifname \"eth0\" ip daddr 10.244.0.0/16 ip saddr != 192.0.2.0/24 ct state new counter drop
           iifname \"eth1\" ip daddr 10.244.0.0/16 drop
           iifname \"eth0\" ip daddr 192.0.2.200 drop
         }
         }",
    )
    .unwrap();
    // Who else is let through is not known: nothing is said of this one.
    assert_eq!(warnings(&mut world), Vec::<String>::new());

    for variant in ["nft", "legacy"] {
        let mut world = self::world();
        for (iptables, pods) in [
            ("iptables", "10.244.0.0/16"),
            ("ip6tables", "fd00:10:244::/48"),
        ] {
            runs(
                &world.nodes[0],
                &format!("{iptables}-{variant} -t raw -A PREROUTING -d {pods} -i eth0 -j DROP"),
            );
        }
        let warnings = warnings(&mut world);
        let chains =
            ["iptables", "ip6tables"].map(|name| format!("PREROUTING of {name}-{variant} -t raw"));
        is_mended(world, &warnings, &[&chains[0], &chains[1]]);
    }

    let mut world = self::world();
    let rules = "
        table inet operator { chain direct {
          type filter hook prerouting priority -300
          iifname \"eth0\" ip daddr { 10.244.0.0/16, 10.245.0.0/16 } counter drop
          iifname \"eth0\" ip6 daddr fd00:10:244::/48 counter drop
        }
        }";
    world.nodes[0].nft(rules).unwrap();
    let warnings = warnings(&mut world);
    is_mended(
        world,
        &warnings,
        &["direct of the nftables table inet operator"],
    );
}

/// Whatever clients there are for whom such a rule is: it does not see their connections to Services.
#[test]
fn rules_by_a_services_own_address_or_port() {
    let before = "type filter hook prerouting priority -150";
    let behind = "type filter hook forward priority 0";
    let office = "ip saddr != 198.51.100.0/24";
    let nft = |hook: &str, rule: &str| {
        format!("nft 'table inet operator {{ chain guard {{ {hook}\n {rule}\n }}\n }}'")
    };
    let table = "guard of the nftables table inet operator";
    for (rules, chain) in [
        (
            nft(before, &format!("tcp dport 30000-32767 {office} drop\n udp dport 30000-32767 {office} drop")),
            Some(table),
        ),
        (nft(before, "ip daddr { 203.0.113.10, 203.0.113.11 } tcp dport { 80, 443 } ip saddr != 198.51.100.0/24 drop"), Some(table)),
        (nft(before, "ip6 daddr fd00:203:0:113::/64 counter drop"), Some(table)),
        (nft(before, "meta l4proto tcp ct original proto-dst 30080 ip saddr != 198.51.100.0/24 drop"), Some(table)),
        (nft(behind, "ct original ip daddr 203.0.113.10 ip saddr != 198.51.100.0/24 reject"), Some(table)),
        (
            "iptables-legacy -A FORWARD -p tcp -m conntrack --ctorigdstport 30000:32767 ! -s 198.51.100.0/24 -j DROP".into(),
            Some("FORWARD of iptables-legacy"),
        ),
        (
            "iptables-nft -N GUARD; iptables-nft -A FORWARD -j GUARD;
             iptables-nft -A GUARD -p tcp -m conntrack --ctorigdst 203.0.113.10 ! -s 198.51.100.0/24 -j REJECT".into(),
            Some("FORWARD of iptables-nft"),
        ),
        (
            "iptables-nft -t mangle -A PREROUTING -p tcp --dport 30000:32767 ! -s 198.51.100.0/24 -j DROP".into(),
            Some("PREROUTING of iptables-nft -t mangle"),
        ),
        (
            "ip6tables-legacy -t raw -A PREROUTING -p udp -m multiport --dports 53,30000:32767 -s 2001:db8::/32 -j DROP".into(),
            Some("PREROUTING of ip6tables-legacy -t raw"),
        ),
        // Not about Services, or not to drop: the node's shell, another address, what is behind NAT.
        (nft(before, &format!("tcp dport 22 {office} drop\n ip daddr 192.0.2.250 drop\n udp dport 30000-32767 accept")), None),
        (nft(before, &format!("iifname \"docker0\" tcp dport 30000-32767 drop\n tcp dport 30000-32767 {office} counter")), None),
        (nft(behind, &format!("tcp dport 30000-32767 {office} drop\n meta l4proto tcp ct original proto-dst 22 drop")), None),
        (
            "iptables-legacy -A FORWARD -p tcp -m conntrack --ctorigdstport 30000:32767 -s 198.51.100.0/24 -j ACCEPT;
             iptables-legacy -A FORWARD -p udp -m conntrack --ctorigdstport 53 -j DROP;
             iptables-legacy -A FORWARD -m conntrack --ctstate INVALID -j DROP".into(),
            None,
        ),
    ] {
        let mut world = world();
        runs(&world.nodes[0], &rules);
        let warnings = warnings(&mut world);
        let Some(chain) = chain else {
            assert_eq!(warnings, Vec::<String>::new(), "{rules}");
            continue;
        };
        assert_eq!(warnings.len(), 1, "{rules}: {warnings:?}");
        assert!(warnings[0].contains(chain), "{rules}: {warnings:?}");
        assert!(warnings[0].contains("no effect"), "{rules}: {warnings:?}");
        for to in world.balanced() {
            assert!(world.client.ask(Transport::Tcp, to).is_ok(), "{rules}: {to}");
        }
    }
}
