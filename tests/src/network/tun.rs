//! A tunnel between all nodes whose devices have no Ethernet header; see `carrier.rs` for who
//! carries its packets.

use anyhow::Result;

use crate::ip;
use crate::wire::pod_v6;

/// What is left of an uplink's 1500 bytes: headers of IPv4 and UDP take 28.
pub(super) const MTU: u16 = 1472;

/// The lines for `ip` that make a node's end of the tunnel.
pub(super) fn device(node: u8) -> Vec<String> {
    let own_v6 = pod_v6(node, 2);
    vec![
        "tuntap add dev tun0 mode tun".to_owned(),
        format!("link set tun0 mtu {MTU} up"),
        format!("addr add 10.244.{node}.0/32 dev tun0"),
        format!("addr add {own_v6}/128 dev tun0 nodad"),
    ]
}

/// Makes a node, in whose namespace the calling thread is, reach the pods of another.
pub(super) fn reach(_own: u8, far: u8) -> Result<()> {
    ip::batch(&[
        format!("route add 10.244.{far}.0/24 dev tun0"),
        format!("route add fd00:10:244:{far}::/64 dev tun0"),
    ])
}
