//! How the pods of a node are attached, and how those of other nodes are reached.

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
}

impl PodNetwork {
    /// What a node has before its first pod.
    pub(crate) fn prepare(self, node: End<'_>) -> Result<()> {
        node.netns
            .run(|| ip::batch(&self.bridge(node.index).make()))
    }

    /// Gives a pod its `eth0`, with a way out by its node.
    pub(crate) fn attach(self, node: End<'_>, host: u8, pod: &Netns) -> Result<()> {
        let segment = self.bridge(node.index);
        segment.attach(node.netns, &format!("v{host}"), pod)?;
        let (v4, v6) = (pod_v4(node.index, host), pod_v6(node.index, host));
        pod.run(|| ip::batch(&segment.join(v4, v6)))
    }

    /// Makes two nodes reach each other's pods.
    pub(crate) fn connect(self, one: End<'_>, other: End<'_>) -> Result<()> {
        match self {
            Self::Bridged => wire::connect(one, other),
        }
    }

    fn bridge(self, index: u8) -> Segment {
        Segment {
            bridge: "br0",
            v4: bridge_v4(index),
            v6: pod_v6(index, 1),
            mtu: 1500,
        }
    }
}

/// An address of a node's IPv4 pod range.
pub(crate) fn pod_v4(node: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, node, host)
}
