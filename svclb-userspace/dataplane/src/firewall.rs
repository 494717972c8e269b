//! Whether the node forwards the packets that the programs translated: its sysctls, and the chains of
//! its firewall through which the kernel forwards packets. Nothing is changed.
//!
//! Of a translated packet only the mark is known. A rule whose other conditions are unknown is passed
//! over, and so a chain that ends in a drop is reported unless a rule accepts the mark alone.

mod ip_tables;
mod nf_tables;
mod rules;

use std::fs;

use svclb_core::model::Family;

use rules::Dropping;

/// What keeps translated packets of these families from being forwarded, each a sentence with what to
/// do; `mark` as in [`Options::mark`](crate::Options::mark).
///
/// What cannot be read is passed over: a kernel without nf_tables or without iptables has no such rules.
pub fn forwarding_obstacles(mark: u32, families: &[Family]) -> Vec<String> {
    let mut found = Vec::new();
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
    let tables = [ip_tables::dropping, nf_tables::dropping];
    for dropping in tables {
        match dropping(mark, families) {
            Ok(chains) => found.extend(chains.iter().map(|chain| sentence(chain, mark))),
            Err(error) => tracing::debug!("rules of the firewall cannot be read: {error}"),
        }
    }
    found
}
fn sentence(Dropping { chain, remedy }: &Dropping, mark: u32) -> String {
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
