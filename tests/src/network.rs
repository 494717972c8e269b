//! How the pods of a node are attached, and how those of other nodes are reached.

mod lan;
mod routed;
mod tun;
mod vxlan;

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};

use crate::ip;
use crate::netns::Netns;
use crate::segment::Segment;
use crate::wire::{self, End, bridge_v4, pod_v6};

pub(crate) use lan::switch;

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
    /// As [`Vxlan`](Self::Vxlan), but the links of pods have the uplinks' MTU and the tunnel
    /// has much less: senders have to find it out.
    NarrowVxlan,
    /// Pods on a bridge; those of other nodes are reached by a device without an Ethernet
    /// header, `tun0`, behind which a process carries packets over UDP, as Flannel's `udp`
    /// does it and many VPNs. What is for no pod goes to the first node.
    Tun,
    /// The pods of all nodes on one segment, to which each node's bridge is joined by a
    /// device of its own, `eth1`.
    Lan,
}

impl PodNetwork {
    /// What a node has before its first pod.
    pub(crate) fn prepare(self, node: End<'_>, router: Option<&Netns>) -> Result<()> {
        let index = node.index;
        let mut lines = match self {
            Self::Routed => routed::range(index),
            _ => self.bridge(index).make(),
        };
        match self {
            Self::Vxlan => lines.extend(vxlan::device(index, vxlan::MTU)),
            Self::NarrowVxlan => lines.extend(vxlan::device(index, vxlan::NARROW_MTU)),
            Self::Tun => lines.extend(tun::device(index)),
            Self::Bridged | Self::Routed | Self::Lan => {}
        }
        node.netns.run(|| ip::batch(&lines))?;
        if self == Self::Lan {
            let router = router.context("this network is beyond the uplinks of nodes")?;
            lan::join(router, node)?;
        }
        Ok(())
    }

    /// Gives a pod its `eth0`, with a way out by its node.
    pub(crate) fn attach(self, node: End<'_>, host: u8, pod: &Netns) -> Result<()> {
        if self == Self::Routed {
            return routed::attach(node, host, pod);
        }
        let segment = self.bridge(node.index);
        segment.attach(node.netns, &format!("v{host}"), pod)?;
        let (v4, v6) = (pod_v4(node.index, host), pod_v6(node.index, host));
        pod.run(|| ip::batch(&segment.join(v4, v6)))
    }

    /// Makes two nodes reach each other's pods.
    pub(crate) fn connect(self, one: End<'_>, other: End<'_>) -> Result<()> {
        let reach = match self {
            Self::Bridged => return wire::connect(one, other),
            Self::Lan => return Ok(()),
            Self::Routed => routed::reach,
            Self::Vxlan | Self::NarrowVxlan => vxlan::reach,
            Self::Tun => tun::reach,
        };
        one.netns.run(|| reach(one.index, other.index))?;
        other.netns.run(|| reach(other.index, one.index))
    }

    /// Whether a process carries what is for other nodes' pods.
    pub(crate) fn has_carrier(self) -> bool {
        self == Self::Tun
    }

    /// The bridge of a node's pods.
    fn bridge(self, node: u8) -> Segment {
        let mtu = match self {
            Self::Vxlan => vxlan::MTU,
            Self::Tun => tun::MTU,
            _ => MTU,
        };
        let prefixes = match self {
            Self::Lan => lan::PREFIXES,
            _ => [24, 64],
        };
        Segment {
            bridge: "br0",
            v4: bridge_v4(node),
            v6: pod_v6(node, 1),
            prefixes,
            mtu,
        }
    }
}

/// The largest packet of an ordinary link.
const MTU: u16 = 1500;

/// An address of a node's IPv4 pod range.
pub(crate) fn pod_v4(node: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, node, host)
}
