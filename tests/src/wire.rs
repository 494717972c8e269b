//! The links between the nodes of a lab: each pair of nodes has one of its own.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::ip;
use crate::netns::Netns;

/// An end of a link: a node by its number, which is in all of its addresses.
#[derive(Clone, Copy)]
pub(crate) struct End<'a> {
    pub(crate) index: u8,
    pub(crate) netns: &'a Netns,
}

/// Links two nodes, so that the pods and the host of each reach those of the other.
///
/// No address is used up: IPv4 goes to the other's bridge, whose address is also that of
/// every link, IPv6 to an address of the link itself.
pub(crate) fn connect(one: End<'_>, other: End<'_>) -> Result<()> {
    one.netns.run(|| {
        ip::batch(&[format!(
            "link add n{} type veth peer name n{} netns {}",
            other.index,
            one.index,
            other.netns.path().display()
        )])
    })?;
    for (own, far) in [(one, other), (other, one)] {
        own.netns.run(|| ip::batch(&routes(own.index, far.index)))?;
    }
    Ok(())
}

fn routes(own: u8, far: u8) -> [String; 5] {
    let (far_v4, own_v4) = (bridge_v4(far), bridge_v4(own));
    let own_v6 = pod_v6(own, 1);
    [
        // Otherwise ARP asks on behalf of any address of the node, and a node that judges
        // sources does not answer.
        format!("addr add {own_v4}/32 dev n{far}"),
        format!("addr add fe80::{own}/64 dev n{far} nodad"),
        format!("link set n{far} up"),
        format!("route add 10.244.{far}.0/24 via {far_v4} dev n{far} onlink src {own_v4}"),
        format!("route add fd00:10:244:{far}::/64 via fe80::{far} dev n{far} src {own_v6}"),
    ]
}

/// The address of a node in its own pod range: the bridge's.
pub(crate) fn bridge_v4(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, node, 1)
}

/// An address of a node's IPv6 pod range, its numbers readable as decimal ones.
pub(crate) fn pod_v6(node: u8, host: u8) -> Ipv6Addr {
    let (node, host) = (decimal(node), decimal(host));
    Ipv6Addr::new(0xfd00, 0x10, 0x244, node, 0, 0, 0, host)
}

/// The number whose hexadecimal digits are the decimal ones of another.
pub(crate) fn decimal(n: u8) -> u16 {
    u16::from_str_radix(&n.to_string(), 16).unwrap_or_default()
}
