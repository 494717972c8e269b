//! Whether the node forwards the packets that the programs translated, and leaves them as they are: its
//! sysctls, and the chains of its firewall through which the kernel forwards packets. Nothing is changed.
//!
//! Of a translated packet only the mark is known. A rule whose other conditions are unknown is passed
//! over, and so a chain that ends in a drop is reported unless a rule accepts the mark alone; and one that
//! masquerades some packets is reported only if it does so for the mark alone.

mod ip_tables;
mod nf_tables;
mod rules;

use std::fs;

use svclb_core::model::Family;

use rules::{Dropping, Findings};

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
    let families = [Family::V4, Family::V6];
    match &look(&[KUBE_PROXY_MARK, OWN_MARK], &families)[..] {
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
fn look(marks: &[u32], families: &[Family]) -> Vec<Findings> {
    let mut all = vec![Findings::default(); marks.len()];
    for look in [ip_tables::look, nf_tables::look] {
        match look(marks, families) {
            Ok(found) => {
                for (all, found) in all.iter_mut().zip(found) {
                    all.dropping.extend(found.dropping);
                    all.masquerading.extend(found.masquerading);
                }
            }
            Err(error) => tracing::debug!("rules of the firewall cannot be read: {error}"),
        }
    }
    all
}

/// What keeps translated packets of these families from being forwarded as they are, each a sentence with
/// what to do; `mark` as in [`Options::mark`](crate::Options::mark), `bridges` are the names of those by
/// which clients outside come in.
pub fn forwarding_obstacles(mark: u32, families: &[Family], bridges: &[String]) -> Vec<String> {
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
    for of_mark in look(&[mark], families) {
        found.extend(of_mark.dropping.iter().map(|chain| drops(chain, mark)));
        let masquerading = of_mark.masquerading.iter();
        found.extend(masquerading.map(|chain| masquerades(chain, mark)));
    }
    found
}

fn drops(Dropping { chain, remedy }: &Dropping, mark: u32) -> String {
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
            chain: chain.to_string(),
            remedy: String::new(),
        });
        Findings {
            dropping: dropping.collect(),
            masquerading: masquerading.iter().map(ToString::to_string).collect(),
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
    fn what_to_do_about_a_masquerade_depends_on_whose_mark_it_is() {
        let sentence = masquerades("the chain POSTROUTING of iptables-legacy", KUBE_PROXY_MARK);
        assert!(sentence.contains("`kube-proxy --cleanup`"), "{sentence}");
        let sentence = masquerades("the chain CNI of the nftables table ip nat", 0x2000);
        assert!(!sentence.contains("kube-proxy"), "{sentence}");
        assert!(sentence.contains("0x2000"), "{sentence}");
    }
}
