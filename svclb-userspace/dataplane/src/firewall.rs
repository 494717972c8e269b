//! Whether the node forwards the packets that the programs translated, and leaves them as they are: its
//! sysctls, and the chains of its firewall through which the kernel forwards packets. Nothing is changed.
//!
//! Of a translated packet only the mark is known; in prerouting the device and a pod's address, too. A rule whose other conditions are unknown is passed
//! over, and so a chain that ends in a drop is reported unless a rule accepts the mark alone; and one that
//! masquerades some packets is reported only if it does so for the mark alone.

mod destination;
mod ip_tables;
mod missing;
mod nf_tables;
mod rules;
mod traffic;

use std::fs;

use svclb_core::model::Family;

pub use missing::Frontend;
use rules::{Dropping, Findings, Place};
pub use traffic::Traffic;

/// kube-proxy's bit of the packet mark. Its rules accept packets with it, and masquerade them.
pub const KUBE_PROXY_MARK: u32 = 0x4000;
/// A bit of the packet mark that neither kube-proxy (0xc000), CNI's portmap (0x2000), Calico (0xffff0000),
/// Tailscale (0xff0000), AWS' CNI (0x80) nor Istio (0x539) uses, and Cilium (0x0f00) only within
/// marks of its own.
pub const OWN_MARK: u32 = 0x1000;

/// The mark of translated packets where the operator gives none: kube-proxy's bit, so that rules which
/// accept kube-proxy's packets accept them, unless rules masquerade packets by it; and then the chains that
/// do. It is kube-proxy's then, too, if only its mark passes the chains that drop others.
pub fn choose_mark() -> (u32, Vec<String>) {
    let traffic = Traffic {
        families: vec![Family::V4, Family::V6],
        ..Traffic::default()
    };
    match &look(&[KUBE_PROXY_MARK, OWN_MARK], &traffic)[..] {
        [usual, own] if prefers(own, usual) => (OWN_MARK, usual.masquerading.clone()),
        _ => (KUBE_PROXY_MARK, Vec::new()),
    }
}

fn prefers(own: &Findings, usual: &Findings) -> bool {
    let is_dropped_too = |one: &Dropping| usual.dropping.iter().any(|two| two.chain == one.chain);
    own.masquerading.len() < usual.masquerading.len() && own.dropping.iter().all(is_dropped_too)
}

/// What is in the way of packets with each of these marks. What cannot be read is passed over: a kernel
/// without nf_tables or without iptables has no such rules.
fn look(marks: &[u32], traffic: &Traffic) -> Vec<Findings> {
    let mut all = vec![Findings::default(); marks.len()];
    for look in [ip_tables::look, nf_tables::look] {
        match look(marks, traffic) {
            Ok(found) => {
                for (all, found) in all.iter_mut().zip(found) {
                    all.dropping.extend(found.dropping);
                    all.masquerading.extend(found.masquerading);
                    all.missing.extend(found.missing);
                }
            }
            Err(error) => tracing::debug!("rules of the firewall cannot be read: {error}"),
        }
    }
    all
}

/// What keeps translated packets from being forwarded as they are, and which rules of the firewall do not
/// see what they name, each a sentence with what to do; `mark` as in
/// [`Options::mark`](crate::Options::mark).
pub fn forwarding_obstacles(mark: u32, traffic: &Traffic) -> Vec<String> {
    let Traffic {
        families, bridges, ..
    } = traffic;
    let mut found = Vec::new();
    // Packets pass the firewall at the bridge's port then: before the programs, which are at the bridge
    // itself. The kernel's conntrack sees their replies only with other addresses.
    for (family, name) in [(Family::V4, "iptables"), (Family::V6, "ip6tables")] {
        let name = format!("bridge-nf-call-{name}");
        let value = fs::read_to_string(format!("/proc/sys/net/bridge/{name}"));
        let is_on = value.is_ok_and(|value| value.trim() == "1");
        if is_on && families.contains(&family) && !bridges.is_empty() {
            found.push(format!(
                "clients outside come in by the bridge {}, and net.bridge.{name} is 1, so that the kernel's \
                 conntrack sees their packets before they are translated, and takes their replies for new \
                 connections; set it with `sysctl -w net.bridge.{name}=0`, and in /etc/sysctl.d",
                bridges.join(", ")
            ));
        }
    }
    for family in families {
        let (path, name) = match family {
            Family::V4 => ("net/ipv4/ip_forward", "net.ipv4.ip_forward"),
            Family::V6 => (
                "net/ipv6/conf/all/forwarding",
                "net.ipv6.conf.all.forwarding",
            ),
        };
        let value = fs::read_to_string(format!("/proc/sys/{path}"));
        if value.is_ok_and(|value| value.trim() == "0") {
            found.push(format!(
                "{name} is 0, so that clients outside do not reach Services by this node: the kernel \
                 forwards nothing; set it with `sysctl -w {name}=1`, and in /etc/sysctl.d"
            ));
        }
    }
    for of_mark in look(&[mark], traffic) {
        found.extend(of_mark.dropping.iter().map(|chain| drops(chain, mark)));
        let masquerading = of_mark.masquerading.iter();
        found.extend(masquerading.map(|chain| masquerades(chain, mark)));
        found.extend(misses(&of_mark.missing, mark));
    }
    found
}

/// About the first of the chains that have rules which do not see what they name.
fn misses(chains: &[String], mark: u32) -> Option<String> {
    let (chain, others) = chains.split_first()?;
    let others = match others.len() {
        0 => String::new(),
        count => format!(" (and {count} more)"),
    };
    let by_mark = match mark {
        0 => String::new(),
        mark => format!(", by the mark {mark:#x}"),
    };
    Some(format!(
        "{chain} has a rule{others} that drops packets by a Service's own address or port, and it has no \
         effect on connections to Services: they are translated before the firewall sees them; match the \
         backend's address and port in the forward chain{by_mark}, or use loadBalancerSourceRanges for load \
         balancer addresses, or --nodeport-addresses to limit where NodePorts are"
    ))
}

fn drops(dropping: &Dropping, mark: u32) -> String {
    let Dropping {
        place,
        chain,
        remedy,
    } = dropping;
    if *place == Place::Prerouting {
        let todo = match mark {
            0 => "give a --mark, so that a rule can accept them".to_owned(),
            _ => format!("add `{remedy}`"),
        };
        return format!(
            "{chain} drops what comes in from outside for pods of this node, and no rule before accepts the \
             mark of translated packets: clients outside do not reach backends here; {todo}"
        );
    }
    if mark == 0 {
        return format!(
            "{chain} drops what it is not told to accept, and with --mark 0 it cannot tell translated \
             packets: clients outside reach Services only where other rules accept them; give a --mark"
        );
    }
    format!(
        "{chain} drops what it is not told to accept, and no rule accepts the mark of translated packets: \
         clients outside reach Services only where other rules accept them; add `{remedy}`"
    )
}

fn masquerades(chain: &str, mark: u32) -> String {
    let remedy = if mark == KUBE_PROXY_MARK {
        "these are kube-proxy's rules: where it is gone, clean up with `kube-proxy --cleanup`, or else give \
         svclb another bit with --mark, and let it pass where the firewall lets kube-proxy's pass"
    } else {
        "give svclb another bit with --mark"
    };
    format!(
        "{chain} masquerades packets by the mark {mark:#x}, which translated packets carry: backends see the \
         node in place of clients outside, with externalTrafficPolicy Local too; {remedy}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(dropping: &[&str], masquerading: &[&str]) -> Findings {
        let dropping = dropping.iter().map(|chain| Dropping {
            place: Place::Forward,
            chain: chain.to_string(),
            remedy: String::new(),
        });
        Findings {
            dropping: dropping.collect(),
            masquerading: masquerading.iter().map(ToString::to_string).collect(),
            missing: Vec::new(),
        }
    }

    #[test]
    fn the_own_mark_is_taken_where_it_passes_and_the_usual_one_is_masqueraded() {
        let masqueraded = findings(&[], &["nat"]);
        assert!(prefers(&findings(&[], &[]), &masqueraded));
        assert!(!prefers(&findings(&[], &[]), &findings(&[], &[])));
        assert!(!prefers(&masqueraded, &masqueraded));
        // Docker's policy, with kube-proxy's rule that accepts its mark; and without.
        assert!(!prefers(&findings(&["FORWARD"], &[]), &masqueraded));
        let dropped = findings(&["FORWARD"], &["nat"]);
        assert!(prefers(&findings(&["FORWARD"], &[]), &dropped));
    }

    #[test]
    fn of_several_rules_that_miss_the_first_is_named() {
        let chains = ["the chain guard", "the chain guard", "another"].map(str::to_owned);
        let sentence = misses(&chains, 0x4000).unwrap();
        let start = "the chain guard has a rule (and 2 more) that drops packets";
        assert!(sentence.starts_with(start), "{sentence}");
        assert!(sentence.contains("by the mark 0x4000"), "{sentence}");
        let sentence = misses(&chains[..1], 0).unwrap();
        assert!(!sentence.contains("more)"), "{sentence}");
        assert!(!sentence.contains("mark"), "{sentence}");
        assert_eq!(misses(&[], 0x4000), None);
    }

    #[test]
    fn what_to_do_about_a_masquerade_depends_on_whose_mark_it_is() {
        let sentence = masquerades("the chain POSTROUTING of iptables-legacy", KUBE_PROXY_MARK);
        assert!(sentence.contains("`kube-proxy --cleanup`"), "{sentence}");
        let sentence = masquerades("the chain CNI of the nftables table ip nat", 0x2000);
        assert!(!sentence.contains("kube-proxy"), "{sentence}");
        assert!(sentence.contains("0x2000"), "{sentence}");
    }
}
