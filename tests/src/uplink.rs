//! The uplink of a node: its `eth0`, on the segment of all nodes and of the router.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::Command;

use anyhow::Result;

use crate::masquerade::masquerade;
use crate::netns::Netns;
use crate::segment::Segment;
use crate::wire::{End, decimal};
use crate::{ip, tool};

/// The segment; the router owns it.
pub(crate) const SEGMENT: Segment = Segment {
    bridge: "nodes",
    v4: Ipv4Addr::new(192, 0, 2, 254),
    v6: Ipv6Addr::new(0xfd00, 0x192, 0, 2, 0, 0, 0, 0x254),
    mtu: 1500,
};

/// How a node is connected to the outside.
#[derive(Clone, Copy, Debug)]
pub struct UplinkOptions {
    /// `rp_filter` of the node's devices: 0 takes any source address, 1 (strict, as
    /// distributions have it) only one whose answer would leave by the same device, 2
    /// (loose) one that is reachable at all. A strict node refuses what pods of other nodes
    /// send to its own address under their own, unless they are [`Routed`](crate::PodNetwork::Routed).
    pub rp_filter: u8,
    /// Whether the node puts its own address in the place of its pods' for all but other
    /// pods, as most clusters do. Then the router knows no way to its pods.
    pub masquerade: bool,
}

impl Default for UplinkOptions {
    fn default() -> Self {
        Self {
            rp_filter: 1,
            masquerade: false,
        }
    }
}

/// Gives a node its uplink `eth0`, and the default route by it.
pub(crate) fn connect(router: &Netns, node: End<'_>, options: UplinkOptions) -> Result<()> {
    let index = node.index;
    let (v4, v6) = (uplink_v4(index), uplink_v6(index));
    node.netns.run(|| {
        // The stricter one of a device's and of `all` counts; a device takes what is
        // `default` when it is made.
        ip::sysctl("net/ipv4/conf/all/rp_filter", "0")?;
        let wanted = options.rp_filter.to_string();
        ip::sysctl("net/ipv4/conf/default/rp_filter", &wanted)
    })?;
    let port = format!("u{index}");
    SEGMENT.attach(router, &port, node.netns)?;
    node.netns.run(|| {
        like_a_wire("eth0")?;
        ip::batch(&SEGMENT.join(v4, v6))
    })?;
    router.run(|| {
        like_a_wire(&port)?;
        // What an XDP program sends out of the node's end, or redirects into it, is
        // dropped unless this end polls. It does so for this since Linux 5.13.
        set_feature(&port, "gro", "on")
    })?;
    if options.masquerade {
        return node.netns.run(|| masquerade(index));
    }
    router.run(|| {
        ip::batch(&[
            format!("route add 10.244.{index}.0/24 via {v4}"),
            format!("route add fd00:10:244:{index}::/64 via {v6}"),
        ])
    })
}

/// Makes an end of a veth pair send whole checksums and no segment longer than a packet,
/// as a wire delivers them. By itself it leaves both to a device that is never reached.
pub(crate) fn like_a_wire(device: &str) -> Result<()> {
    set_feature(device, "tx", "off")
}

fn set_feature(device: &str, feature: &str, state: &str) -> Result<()> {
    tool::run(
        Command::new("ethtool").args(["-K", device, feature, state]),
        "ethtool",
    )
}

/// The address of a node's uplink.
pub(crate) fn uplink_v4(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, node)
}

/// The same in IPv6, its last number readable as a decimal one.
pub(crate) fn uplink_v6(node: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x192, 0, 2, 0, 0, 0, decimal(node))
}
