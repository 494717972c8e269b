//! What the data path is made of.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use svclb_common::maps::Sizes;
use svclb_core::conntrack::Timeouts;

use crate::source_ports::PortRange;

/// `--forwarding`: who sends on what the packet programs translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Forwarding {
    /// The kernel, by its routing, firewall and neighbours.
    #[default]
    Kernel,
    /// The programs themselves, in XDP and tc, past all of that; where they can.
    Direct,
}

impl FromStr for Forwarding {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "kernel" => Ok(Self::Kernel),
            "direct" => Ok(Self::Direct),
            other => Err(format!("{other:?} is neither kernel nor direct")),
        }
    }
}

impl fmt::Display for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Direct => "direct",
        })
    }
}

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
    /// Whether pods' devices may be attached to: their packets reach cluster IPs in any case.
    pub pod_devices: bool,
    /// The bits of the mark that translated packets carry through the kernel.
    pub mark: u32,
    /// How long flows from outside are remembered: by this, programs replace one that is over where
    /// there is no room for another.
    pub conntrack: Timeouts,
    /// Whether devices are going to be attached to, so that the packet programs are loaded.
    pub packets: bool,
    /// Who sends on what the packet programs translated.
    pub forwarding: Forwarding,
}
