//! What CNI plugins do for pods whose addresses are not routed outside: their packets leave from
//! the node's, and ports of the node are theirs (`hostPort`).

use std::net::SocketAddr;

use anyhow::Result;

use crate::{Transport, tool};

/// Makes a node, in whose namespace the calling thread is, put its own address in the
/// place of its pods' for all but other pods. From now on it tracks connections.
pub(crate) fn masquerade(node: u8) -> Result<()> {
    let script = format!(
        "table ip cni {{
            chain postrouting {{
                type nat hook postrouting priority 100;
                ip saddr 10.244.{node}.0/24 ip daddr != {{ 10.244.0.0/16, 224.0.0.0/4 }} masquerade
            }}
        }}
        table ip6 cni {{
            chain postrouting {{
                type nat hook postrouting priority 100;
                ip6 saddr fd00:10:244:{node}::/64 ip6 daddr != {{ fd00:10:244::/48, ff00::/8 }} masquerade
            }}
        }}
        "
    );
    tool::nft(&script)
}

/// Makes the node, in whose namespace the calling thread is, give a port of its own to a pod, for
/// clients on it and elsewhere alike.
pub(crate) fn map_host_port(transport: Transport, at: SocketAddr, to: SocketAddr) -> Result<()> {
    let family = if at.is_ipv4() { "ip" } else { "ip6" };
    let proto = if transport.is_stream() { "tcp" } else { "udp" };
    let (ip, port) = (at.ip(), at.port());
    let rule = format!("{family} daddr {ip} {proto} dport {port} dnat to {to}");
    let script = format!(
        "table {family} hostport {{
            chain prerouting {{ type nat hook prerouting priority -100; {rule}; }}
            chain output {{ type nat hook output priority -100; {rule}; }}
        }}
        "
    );
    tool::nft(&script)
}
