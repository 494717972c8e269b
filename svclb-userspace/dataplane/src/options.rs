//! What the data path is made of.

use std::path::PathBuf;

use svclb_common::maps::Sizes;
use svclb_core::conntrack::Timeouts;

use crate::source_ports::PortRange;

/// What the data path is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// A directory in a bpffs, made if it is not there.
    pub pin_dir: PathBuf,
    /// The cgroup whose sockets are translated.
    pub cgroup: PathBuf,
    /// How many entries each map holds, where it is made anew.
    pub sizes: Sizes,
    /// The source ports of flows to backends on other nodes.
    pub source_ports: PortRange,
    /// Whether packets from outside may reach cluster IPs.
    pub external_cluster_ips: bool,
    /// How long flows from outside are remembered: by this, programs replace one that is over where
    /// there is no room for another.
    pub conntrack: Timeouts,
    /// Whether devices are going to be attached to, so that the packet programs are loaded.
    pub packets: bool,
}
