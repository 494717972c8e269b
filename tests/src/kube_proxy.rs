//! Rules of the shape that kube-proxy's nftables mode gives them, for one Service.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;

use crate::Transport;

/// A rule set for `nft -f` that leads packets at some addresses to backends by turns, and puts the
/// node's own address in the place of clients'. Frontends have the backends of their own family.
///
/// # Errors
/// None: writing to a text cannot fail.
pub fn kube_proxy_rules(
    frontends: &[SocketAddr],
    backends: &[SocketAddr],
) -> Result<String, fmt::Error> {
    let mut text = String::new();
    for (family, is_v6) in [("ip", false), ("ip6", true)] {
        let of_family = |all: &[SocketAddr]| -> Vec<SocketAddr> {
            let mut all = all.to_vec();
            all.retain(|at| at.is_ipv6() == is_v6);
            all
        };
        let (frontends, backends) = (of_family(frontends), of_family(backends));
        if frontends.is_empty() || backends.is_empty() {
            continue;
        }
        writeln!(
            text,
            "table {family} kube-proxy {{
             chain mark-for-masquerade {{ meta mark set meta mark | 0x4000; }}
             chain masquerading {{
               meta mark & 0x4000 == 0 return
               meta mark set meta mark ^ 0x4000
               masquerade fully-random
             }}"
        )?;
        let mut services = String::new();
        for transport in [Transport::Tcp, Transport::Udp] {
            let proto = if transport.is_stream() { "tcp" } else { "udp" };
            let mut slots = Vec::new();
            for (slot, backend) in backends.iter().enumerate() {
                writeln!(
                    text,
                    "chain endpoint-{proto}-{slot} {{
                       {family} saddr {} jump mark-for-masquerade
                       meta l4proto {proto} dnat to {backend}
                     }}",
                    backend.ip()
                )?;
                slots.push(format!("{slot} : goto endpoint-{proto}-{slot}"));
            }
            writeln!(
                text,
                "chain service-{proto} {{ numgen random mod {} vmap {{ {} }}; }}
                 chain external-{proto} {{ jump mark-for-masquerade; goto service-{proto}; }}",
                backends.len(),
                slots.join(", ")
            )?;
            for frontend in &frontends {
                writeln!(
                    services,
                    "{family} daddr {} {proto} dport {} goto external-{proto}",
                    frontend.ip(),
                    frontend.port()
                )?;
            }
        }
        writeln!(
            text,
            "chain services {{
             {services} }}
             chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
             chain nat-output {{ type nat hook output priority -100; jump services; }}
             chain nat-postrouting {{ type nat hook postrouting priority srcnat; jump masquerading; }}
             }}"
        )?;
    }
    Ok(text)
}
