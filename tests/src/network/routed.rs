//! Pods without a bridge: a route on the node leads to each.
//!
//! A pod's own addresses are all that it knows. Its next hop is an address that no device
//! has, 169.254.1.1, for which the node answers by proxy ARP; in IPv6 it is the address
//! that the node's end of the link has because of its hardware address, which is the same
//! at every pod.

use anyhow::Result;

use super::pod_v4;
use crate::ip;
use crate::netns::Netns;
use crate::uplink::{uplink_v4, uplink_v6};
use crate::wire::{End, pod_v6};

/// The hardware address of every node's end of a pod's link.
const NEAR_END: &str = "ee:ee:ee:ee:ee:ee";
/// The link-local address that follows from it (RFC 4291, appendix A).
const WAY_OUT_V6: &str = "fe80::ecee:eeff:feee:eeee";
const WAY_OUT_V4: &str = "169.254.1.1";

/// The lines for `ip` that keep what is for no pod from leaving the node again.
pub(super) fn range(node: u8) -> Vec<String> {
    vec![
        format!("route add blackhole 10.244.{node}.0/24"),
        format!("route add blackhole fd00:10:244:{node}::/64"),
    ]
}

/// Gives a pod its `eth0`.
pub(super) fn attach(node: End<'_>, host: u8, pod: &Netns) -> Result<()> {
    let index = node.index;
    let (v4, v6) = (pod_v4(index, host), pod_v6(index, host));
    let (own_v4, own_v6) = (uplink_v4(index), uplink_v6(index));
    let path = pod.path().display();
    node.netns.run(|| {
        ip::batch(&[format!(
            "link add v{host} address {NEAR_END} type veth peer name eth0 netns {path}"
        )])?;
        ip::sysctl(&format!("net/ipv4/conf/v{host}/proxy_arp"), "1")?;
        // Otherwise an answer is held back for up to 0.8 s, for a better one.
        ip::sysctl(&format!("net/ipv4/neigh/v{host}/proxy_delay"), "0")?;
        ip::batch(&[
            format!("link set v{host} up"),
            format!("route add {v4}/32 dev v{host} src {own_v4}"),
            format!("route add {v6}/128 dev v{host} src {own_v6}"),
        ])
    })?;
    pod.run(|| {
        ip::batch(&[
            format!("addr add {v4}/32 dev eth0"),
            format!("addr add {v6}/128 dev eth0 nodad"),
            "link set eth0 up".to_owned(),
            format!("route add default via {WAY_OUT_V4} dev eth0 onlink"),
            format!("route add ::/0 via {WAY_OUT_V6} dev eth0"),
        ])
    })
}

/// Makes a node, in whose namespace the calling thread is, reach the pods of another.
pub(super) fn reach(own: u8, far: u8) -> Result<()> {
    let (far_v4, far_v6) = (uplink_v4(far), uplink_v6(far));
    let (own_v4, own_v6) = (uplink_v4(own), uplink_v6(own));
    ip::batch(&[
        format!("route add 10.244.{far}.0/24 via {far_v4} dev eth0 src {own_v4}"),
        format!("route add fd00:10:244:{far}::/64 via {far_v6} dev eth0 src {own_v6}"),
    ])
}
