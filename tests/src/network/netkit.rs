//! Pods behind netkit pairs, as Cilium can have them: without a bridge, and without neighbours, since
//! these devices resolve no addresses. Those of other nodes are routed by the nodes' uplinks.

use std::process::Command;

use anyhow::{Context as _, Result};

use super::pod_v4;
use crate::netns::Netns;
use crate::uplink::{uplink_v4, uplink_v6};
use crate::wire::{End, pod_v6};
use crate::{ip, tool};

/// Gives a pod its `eth0`.
pub(super) fn attach(node: End<'_>, host: u8, pod: &Netns) -> Result<()> {
    let index = node.index;
    let (v4, v6) = (pod_v4(index, host), pod_v6(index, host));
    let (own_v4, own_v6) = (uplink_v4(index), uplink_v6(index));
    let path = pod.path().display();
    node.netns.run(|| {
        // Without more said, since not every `ip` knows them: the other end is made beside it.
        ip::batch(&[format!("link add v{host} type netkit")])?;
        let near = format!("v{host}");
        let shown = tool::output(
            Command::new("ip").args(["-o", "link", "show", "dev", &near]),
            "iproute2",
        )?;
        let far = shown.split(['@', ':']).nth(2);
        let far = far.with_context(|| format!("no other end: {shown}"))?;
        ip::batch(&[
            format!("link set {far} netns {path} name eth0"),
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
            "route add 0.0.0.0/0 dev eth0".to_owned(),
            "route add ::/0 dev eth0".to_owned(),
        ])
    })
}
