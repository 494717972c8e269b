//! This node's network devices: what the kernel lists and says of them (`listing`, `state`, `routes`,
//! `addresses`), what each is (`kind`), which of them carry traffic for Services (`choice`), and the packet programs
//! at these (`programs`).

mod addresses;
mod choice;
mod kind;
mod listing;
#[cfg(test)]
mod messages;
mod programs;
mod routes;
mod state;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

pub(crate) use choice::{DeviceChoice, DeviceChoices, PodDevices};
pub(crate) use kind::Kind;
pub(super) use listing::watch;
pub(super) use programs::DevicePrograms;

/// The devices of the agent's network namespace, by their index. One that stays as it was keeps its
/// place in memory.
pub(crate) type Devices = BTreeMap<u32, Arc<Device>>;

/// A network device.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Its addresses of scope "global" (rtnetlink(7)): those that other nodes can reach.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Those of them that it can send from, the best first.
    pub(crate) sources: Vec<IpAddr>,
    /// Whether a default route leads over it.
    pub(crate) is_default: bool,
    /// Whether any route does by which others than on its own link are reached.
    pub(crate) is_routed: bool,
    /// The source addresses that routes over it prefer: one of each family at most.
    pub(crate) preferred_sources: Vec<IpAddr>,
    /// Whether its frames begin with an Ethernet header; otherwise with the network header.
    pub(crate) has_ethernet: bool,
    /// Whether anything can be sent by it.
    pub(crate) has_carrier: bool,
    /// Whether it is an end of a veth or netkit pair.
    pub(crate) is_pair: bool,
    /// In bytes.
    pub(crate) mtu: u32,
    /// Its MAC address; zeros without one.
    pub(crate) mac: [u8; 6],
}

/// The node's own addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct NodeAddresses {
    /// Those that the Node object gives as internal, in its order.
    pub(crate) internal: Vec<IpAddr>,
    /// Others, the best to send from first.
    pub(crate) others: Vec<IpAddr>,
}

impl NodeAddresses {
    /// The node's first address of a family.
    fn first(&self, is_v4: bool) -> Option<IpAddr> {
        let mut all = self.internal.iter().chain(&self.others);
        all.find(|ip| ip.is_ipv4() == is_v4).copied()
    }
}

impl Device {
    /// Whether packets to or from others pass it, by what is known of it.
    fn carries_packets(&self) -> bool {
        self.is_routed || !self.addresses.is_empty()
    }
}
