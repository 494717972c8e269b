//! The second uplink of a node, which only policy routing chooses.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::ip;
use crate::netns::Netns;
use crate::segment::Segment;
use crate::uplink::like_a_wire;
use crate::wire::{End, decimal};

/// Its segment; the router owns it.
const SEGMENT: Segment = Segment {
    bridge: "nodes2",
    v4: Ipv4Addr::new(100, 64, 2, 254),
    v6: Ipv6Addr::new(0xfd00, 0x100, 0x64, 2, 0, 0, 0, 0x254),
    prefixes: [24, 64],
    mtu: 1500,
};

/// Gives a node its `eth1`, a routing table 100 by it, and rules for what leads there.
pub(crate) fn connect(router: &Netns, node: End<'_>) -> Result<()> {
    let port = format!("s{}", node.index);
    router.run(|| {
        // With the first node.
        if ip::batch(&["link show nodes2".to_owned()]).is_err() {
            ip::batch(&SEGMENT.make())?;
        }
        Ok(())
    })?;
    SEGMENT.attach_as("eth1", router, &port, node.netns)?;
    router.run(|| like_a_wire(&port))?;
    let (v4, v6) = (second_v4(node.index), second_v6(node.index));
    node.netns.run(|| {
        like_a_wire("eth1")?;
        ip::batch(&[
            format!("addr add {v4}/24 dev eth1"),
            format!("addr add {v6}/64 dev eth1 nodad"),
            "link set eth1 up".to_owned(),
            format!("route add default via {} dev eth1 table 100", SEGMENT.v4),
            format!("route add ::/0 via {} dev eth1 table 100", SEGMENT.v6),
            format!("rule add from {v4} lookup 100"),
        ])?;
        ip::batch_v6(&[format!("rule add from {v6} lookup 100")])
    })
}

/// The address of a node's second uplink.
pub(crate) fn second_v4(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(100, 64, 2, node)
}

/// The same in IPv6.
pub(crate) fn second_v6(node: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x100, 0x64, 2, 0, 0, 0, decimal(node))
}
