//! Tunnels of bare IP packets between all nodes, as Calico's and kube-router's: `tunl1` for IPv4 (RFC
//! 2003) and `sit1` for IPv6 (RFC 4213), both over IPv4. A route's gateway is the far end.

use anyhow::Result;

use crate::ip;
use crate::uplink::uplink_v4;
use crate::wire::pod_v6;

/// What is left of an uplink's 1500 bytes.
pub(super) const MTU: u16 = 1480;

/// The lines for `ip` that make a node's ends of both.
pub(super) fn devices(node: u8) -> Vec<String> {
    let (local, own_v6) = (uplink_v4(node), pod_v6(node, 2));
    vec![
        format!("link add tunl1 mtu {MTU} type ipip local {local} ttl 64"),
        format!("addr add 10.244.{node}.0/32 dev tunl1"),
        "link set tunl1 up".to_owned(),
        format!("link add sit1 mtu {MTU} type sit local {local} ttl 64"),
        format!("addr add {own_v6}/128 dev sit1 nodad"),
        "link set sit1 up".to_owned(),
    ]
}

/// Makes a node, in whose namespace the calling thread is, reach the pods of another.
pub(super) fn reach(own: u8, far: u8) -> Result<()> {
    let (uplink, own_v6) = (uplink_v4(far), pod_v6(own, 2));
    ip::batch(&[
        format!("route add 10.244.{far}.0/24 via {uplink} dev tunl1 onlink"),
        format!("route add fd00:10:244:{far}::/64 via ::{uplink} dev sit1 src {own_v6}"),
    ])
}
