//! A GRE tunnel (RFC 2784) between each pair of nodes, over IPv4: for both families, without an
//! Ethernet header.

use anyhow::Result;

use crate::ip;
use crate::uplink::uplink_v4;
use crate::wire::pod_v6;

/// What is left of an uplink's 1500 bytes: headers of IPv4 and GRE take 24.
pub(super) const MTU: u16 = 1476;

/// Makes a node, in whose namespace the calling thread is, reach the pods of another.
pub(super) fn reach(own: u8, far: u8) -> Result<()> {
    let (local, remote, own_v6) = (uplink_v4(own), uplink_v4(far), pod_v6(own, 2));
    ip::batch(&[
        format!("link add t{far} mtu {MTU} type gre local {local} remote {remote} ttl 64"),
        format!("addr add 10.244.{own}.0/32 dev t{far}"),
        format!("addr add {own_v6}/128 dev t{far} nodad"),
        format!("link set t{far} up"),
        format!("route add 10.244.{far}.0/24 dev t{far}"),
        format!("route add fd00:10:244:{far}::/64 dev t{far} src {own_v6}"),
    ])
}
