//! This node's network devices: what the kernel lists (`listing`), which of them carry traffic
//! for Services (`choice`), and the packet programs at these (`programs`).

mod choice;
mod listing;
mod programs;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub(crate) use choice::{DeviceChoice, PodDevices};
pub(super) use listing::watch;
pub(super) use programs::DevicePrograms;

/// The devices of the agent's network namespace, by their index.
pub(crate) type Devices = BTreeMap<u32, Device>;

/// A network device.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) is_loopback: bool,
    /// Its addresses of scope "global" (rtnetlink(7)): those that other nodes can reach.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Whether a default route leads to it.
    pub(crate) is_default: bool,
    /// Whether its frames begin with an Ethernet header.
    pub(crate) is_ethernet: bool,
    /// Whether they begin with the network header, as a tunnel's do.
    pub(crate) is_bare_ip: bool,
    pub(crate) is_bridge: bool,
    pub(crate) is_veth: bool,
    /// Whether it is a port of a bridge, or of another device.
    pub(crate) is_port: bool,
    /// In bytes.
    pub(crate) mtu: u32,
    /// Its MAC address; zeros without one.
    pub(crate) mac: [u8; 6],
}
