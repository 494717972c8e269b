//! How the pods of a node are attached, and how those of other nodes are reached.

mod gre;
mod ipip;
mod lan;
mod macvlan;
mod netkit;
mod routed;
mod tun;
mod vxlan;
mod wireguard;

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
    /// Pods on a bridge; those of other nodes are reached through tunnels of bare IP packets, one
    /// for each family, as Calico and kube-router do it. Not every kernel has these.
    Ipip,
    /// Pods on a bridge; each pair of nodes has a GRE tunnel. Not every kernel has these.
    Gre,
    /// Pods on a bridge; those of other nodes are reached through WireGuard. Not every kernel has
    /// it.
    WireGuard,
    /// As [`Routed`](Self::Routed), but the link of each pod is a netkit pair. Not every kernel has
    /// these.
    Netkit,
    /// Each pod has a macvlan device beside its node's own, which has to be
    /// [`UplinkDevice::Macvlan`](crate::UplinkDevice::Macvlan).
    Macvlan,
    /// The pods of all nodes on one segment, to which each node's bridge is joined by a
    /// device of its own, `eth1`.
    Lan,
}

impl PodNetwork {
    /// What a node has before its first pod.
    pub(crate) fn prepare(self, node: End<'_>, router: Option<&Netns>) -> Result<()> {
        let index = node.index;
        let mut lines = match self {
            Self::Routed | Self::Netkit => routed::range(index),
            Self::Macvlan => Vec::new(),
            _ => self.bridge(index).make(),
        };
        match self {
            Self::Vxlan => lines.extend(vxlan::device(index, vxlan::MTU)),
            Self::NarrowVxlan => lines.extend(vxlan::device(index, vxlan::NARROW_MTU)),
            Self::Tun => lines.extend(tun::device(index)),
            Self::Ipip => lines.extend(ipip::devices(index)),
            _ => {}
        }
        node.netns.run(|| ip::batch(&lines))?;
        let router = || router.context("this network is beyond the uplinks of nodes");
        match self {
            Self::Lan => lan::join(router()?, node),
            Self::Macvlan => macvlan::prepare(router()?, node),
            Self::WireGuard => node.netns.run(|| wireguard::prepare(index)),
            _ => Ok(()),
        }
    }

    /// Gives a pod its `eth0`, with a way out by its node.
    pub(crate) fn attach(self, node: End<'_>, host: u8, pod: &Netns) -> Result<()> {
        match self {
            Self::Routed => return routed::attach(node, host, pod),
            Self::Netkit => return netkit::attach(node, host, pod),
            Self::Macvlan => return macvlan::attach(node, host, pod),
            _ => {}
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
            Self::Lan | Self::Macvlan => return Ok(()),
            Self::Routed | Self::Netkit => routed::reach,
            Self::Vxlan | Self::NarrowVxlan => vxlan::reach,
            Self::Tun => tun::reach,
            Self::Ipip => ipip::reach,
            Self::Gre => gre::reach,
            Self::WireGuard => wireguard::reach,
        };
        one.netns.run(|| reach(one.index, other.index))?;
        other.netns.run(|| reach(other.index, one.index))
    }

    /// The kinds of devices that it is made of and that not every kernel has
    /// ([`has_devices`](crate::has_devices)).
    pub fn devices(self) -> &'static [&'static str] {
        match self {
            Self::Ipip => &["ipip", "sit"],
            Self::Gre => &["gre"],
            Self::WireGuard => &["wireguard"],
            Self::Netkit => &["netkit"],
            Self::Macvlan | Self::Lan => &["macvlan"],
            _ => &[],
        }
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
            Self::Ipip => ipip::MTU,
            Self::Gre => gre::MTU,
            Self::WireGuard => wireguard::MTU,
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
