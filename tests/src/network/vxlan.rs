//! A tunnel between all nodes: VXLAN (RFC 7348) over their uplinks.
//!
//! Nothing in it is learned: each node is given the others' hardware addresses, and behind
//! which uplink each of them is.

use std::process::Command;

use anyhow::Result;

use crate::uplink::uplink_v4;
use crate::wire::pod_v6;
use crate::{ip, tool};

/// What is left of an uplink's 1500 bytes: headers of IPv4, UDP, VXLAN and Ethernet take 50.
pub(super) const MTU: u16 = 1450;
/// Little more than IPv6 needs (RFC 8200 section 5).
pub(super) const NARROW_MTU: u16 = 1300;

/// The lines for `ip` that make a node's end of the tunnel. Both families go through it,
/// over IPv4.
pub(super) fn device(node: u8, mtu: u16) -> Vec<String> {
    let (hardware, local) = (hardware(node), uplink_v4(node));
    vec![
        format!(
            "link add flannel.1 address {hardware} mtu {mtu} \
             type vxlan id 1 local {local} dev eth0 dstport 8472 nolearning"
        ),
        format!("addr add 10.244.{node}.0/32 dev flannel.1"),
        format!("addr add fe80::{node}/64 dev flannel.1 nodad"),
        "link set flannel.1 up".to_owned(),
    ]
}

/// Makes a node, in whose namespace the calling thread is, reach the pods of another.
pub(super) fn reach(own: u8, far: u8) -> Result<()> {
    let (hardware, uplink) = (hardware(far), uplink_v4(far).to_string());
    let own_v6 = pod_v6(own, 1);
    ip::batch(&[
        format!("neigh add 10.244.{far}.0 lladdr {hardware} dev flannel.1 nud permanent"),
        format!("neigh add fe80::{far} lladdr {hardware} dev flannel.1 nud permanent"),
        format!("route add 10.244.{far}.0/24 via 10.244.{far}.0 dev flannel.1 onlink"),
        format!("route add fd00:10:244:{far}::/64 via fe80::{far} dev flannel.1 src {own_v6}"),
    ])?;
    tool::run(
        Command::new("bridge").args(["fdb", "add", &hardware, "dev", "flannel.1", "dst", &uplink]),
        "iproute2",
    )
}

/// The hardware address of a node's end of the tunnel.
fn hardware(node: u8) -> String {
    format!("02:00:0a:f4:{node:02x}:00")
}
