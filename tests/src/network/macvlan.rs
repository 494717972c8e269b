//! Pods beside their node: each has a macvlan device on the node's wire, and so is on the segment of
//! the nodes' uplinks, as with the CNI plugin of that name. What a pod sends passes its node only if
//! it is for it.

use anyhow::Result;

use super::pod_v4;
use crate::ip;
use crate::netns::Netns;
use crate::uplink::{SEGMENT, uplink_v4, uplink_v6};
use crate::wire::{End, pod_v6};

/// Makes the node reach all pods, and the router those of this node.
pub(super) fn prepare(router: &Netns, node: End<'_>) -> Result<()> {
    let index = node.index;
    let (own_v4, own_v6) = (uplink_v4(index), uplink_v6(index));
    node.netns.run(|| {
        ip::batch(&[
            format!("route add 10.244.0.0/16 dev eth0 src {own_v4}"),
            format!("route add fd00:10:244::/48 dev eth0 src {own_v6}"),
        ])
    })?;
    router.run(|| {
        ip::batch(&[
            format!("route replace 10.244.{index}.0/24 dev nodes"),
            format!("route replace fd00:10:244:{index}::/64 dev nodes"),
        ])
    })
}

/// Gives a pod its `eth0`.
pub(super) fn attach(node: End<'_>, host: u8, pod: &Netns) -> Result<()> {
    let (v4, v6) = (pod_v4(node.index, host), pod_v6(node.index, host));
    let path = pod.path().display();
    node.netns.run(|| {
        ip::batch(&[
            format!("link add m{host} link phys0 type macvlan mode bridge"),
            format!("link set m{host} netns {path} name eth0"),
        ])
    })?;
    pod.run(|| {
        ip::batch(&[
            format!("addr add {v4}/16 dev eth0"),
            format!("addr add {v6}/48 dev eth0 nodad"),
            "link set eth0 up".to_owned(),
            "route add 192.0.2.0/24 dev eth0".to_owned(),
            "route add fd00:192:0:2::/64 dev eth0".to_owned(),
            format!("route add default via {}", SEGMENT.v4),
            format!("route add ::/0 via {}", SEGMENT.v6),
        ])
    })
}
