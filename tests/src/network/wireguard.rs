//! An encrypted tunnel between all nodes: WireGuard, as Calico, Cilium and Flannel can have it. Both
//! families go through it, over IPv4.

use std::process::Command;

use anyhow::Result;

use crate::uplink::uplink_v4;
use crate::wire::pod_v6;
use crate::{ip, tool};

/// What is left of an uplink's 1500 bytes, by WireGuard's own rule.
pub(super) const MTU: u16 = 1420;

const PORT: u16 = 51_820;

/// Makes the end of a node, in whose namespace the calling thread is.
pub(super) fn prepare(node: u8) -> Result<()> {
    let own_v6 = pod_v6(node, 2);
    ip::batch(&[
        format!("link add wg0 mtu {MTU} type wireguard"),
        format!("addr add 10.244.{node}.0/32 dev wg0"),
        format!("addr add {own_v6}/128 dev wg0 nodad"),
    ])?;
    let mut wg = Command::new("wg");
    wg.args(["set", "wg0", "listen-port", &PORT.to_string()]);
    wg.args(["private-key", "/dev/stdin"]);
    tool::feed(&mut wg, PACKAGE, &private_key(node))?;
    ip::batch(&["link set wg0 up".to_owned()])
}

/// Makes a node, in whose namespace the calling thread is, reach the pods of another.
pub(super) fn reach(own: u8, far: u8) -> Result<()> {
    let own_v6 = pod_v6(own, 2);
    let key = tool::answer(Command::new("wg").arg("pubkey"), PACKAGE, &private_key(far))?;
    let mut wg = Command::new("wg");
    wg.args(["set", "wg0", "peer", key.trim()]);
    wg.args(["endpoint", &format!("{}:{PORT}", uplink_v4(far))]);
    wg.args([
        "allowed-ips",
        &format!("10.244.{far}.0/24,fd00:10:244:{far}::/64"),
    ]);
    tool::run(&mut wg, PACKAGE)?;
    ip::batch(&[
        format!("route add 10.244.{far}.0/24 dev wg0"),
        format!("route add fd00:10:244:{far}::/64 dev wg0 src {own_v6}"),
    ])
}

const PACKAGE: &str = "wireguard-tools";

/// The private key of a node, which is no secret: 32 bytes in base64.
fn private_key(node: u8) -> String {
    format!("{node:0>42}A=")
}
