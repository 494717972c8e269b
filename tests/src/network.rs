//! How the pods of a node are attached, and how those of other nodes are reached.

mod routed;
mod vxlan;

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::ip;
use crate::netns::Netns;
use crate::segment::Segment;
use crate::wire::{self, End, bridge_v4, pod_v6};

/// What the nodes of a lab do for their pods, as a CNI plugin does it in a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PodNetwork {
    /// Pods on a bridge; each pair of nodes has a link of its own for them.
    #[default]
    Bridged,
    /// Each pod on a link of its own without a bridge, as Calico does it; those of other
    /// nodes are routed by the nodes' uplinks.
    Routed,
    /// Pods on a bridge; those of other nodes are reached through a tunnel between the
    /// nodes' uplinks, as Flannel does it.
    Vxlan,
}

impl PodNetwork {
    /// What a node has before its first pod.
    pub(crate) fn prepare(self, node: End<'_>) -> Result<()> {
        let lines = match self {
            Self::Bridged => bridge(node.index, MTU).make(),
            Self::Routed => routed::range(node.index),
            Self::Vxlan => [
                bridge(node.index, vxlan::MTU).make(),
                vxlan::device(node.index),
            ]
            .concat(),
        };
        node.netns.run(|| ip::batch(&lines))
    }

    /// Gives a pod its `eth0`, with a way out by its node.
    pub(crate) fn attach(self, node: End<'_>, host: u8, pod: &Netns) -> Result<()> {
        let segment = match self {
            Self::Bridged => bridge(node.index, MTU),
            Self::Vxlan => bridge(node.index, vxlan::MTU),
            Self::Routed => return routed::attach(node, host, pod),
        };
        segment.attach(node.netns, &format!("v{host}"), pod)?;
        let (v4, v6) = (pod_v4(node.index, host), pod_v6(node.index, host));
        pod.run(|| ip::batch(&segment.join(v4, v6)))
    }

    /// Makes two nodes reach each other's pods.
    pub(crate) fn connect(self, one: End<'_>, other: End<'_>) -> Result<()> {
        let reach = match self {
            Self::Bridged => return wire::connect(one, other),
            Self::Routed => routed::reach,
            Self::Vxlan => vxlan::reach,
        };
        one.netns.run(|| reach(one.index, other.index))?;
        other.netns.run(|| reach(other.index, one.index))
    }
}

/// The largest packet of an ordinary link.
const MTU: u16 = 1500;

/// The bridge of a node's pods.
fn bridge(node: u8, mtu: u16) -> Segment {
    Segment {
        bridge: "br0",
        v4: bridge_v4(node),
        v6: pod_v6(node, 1),
        mtu,
    }
}

/// An address of a node's IPv4 pod range.
pub(crate) fn pod_v4(node: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, node, host)
}
