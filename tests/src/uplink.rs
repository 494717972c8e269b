//! The uplink of a node: its `eth0`, on the segment of all nodes and of the router.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::masquerade::masquerade;
use crate::netns::Netns;
use crate::segment::Segment;
use crate::wire::{End, decimal};
use crate::{ip, tool};

/// The segment; the router owns it.
pub(crate) const SEGMENT: Segment = Segment {
    bridge: "nodes",
    v4: Ipv4Addr::new(192, 0, 2, 254),
    v6: Ipv6Addr::new(0xfd00, 0x192, 0, 2, 0, 0, 0, 0x254),
    prefixes: [24, 64],
    mtu: 1500,
};

/// How a node is connected to the outside.
#[derive(Clone, Copy, Debug)]
pub struct UplinkOptions {
    /// `rp_filter` of the node's devices: 0 takes any source address, 1 (strict, as
    /// distributions have it) only one whose answer would leave by the same device, 2
    /// (loose) one that is reachable at all. A strict node refuses what pods of other nodes
    /// send to its own address under their own, unless they are [`Routed`](crate::PodNetwork::Routed).
    pub rp_filter: u8,
    /// Whether the node puts its own address in the place of its pods' for all but other
    /// pods, as most clusters do. Then the router knows no way to its pods.
    pub masquerade: bool,
    /// What its `eth0` is.
    pub device: UplinkDevice,
}

impl Default for UplinkOptions {
    fn default() -> Self {
        Self {
            rp_filter: 1,
            masquerade: false,
            device: UplinkDevice::default(),
        }
    }
}

/// What a node's `eth0` is: the end of the wire, or a device above it, which is `phys0` then.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum UplinkDevice {
    /// The end of the wire.
    #[default]
    Plain,
    /// A bridge that has it as a port, as for virtual machines. What passes bridges of the node does
    /// not pass its firewall (`bridge-nf-call-iptables`).
    Bridge,
    /// The same, but it does, where the kernel has it.
    FilteredBridge,
    /// A macvlan device on it.
    Macvlan,
    /// A device for its VLAN 5. Not every kernel has these.
    Vlan,
    /// A bond of two links, of which one is used at a time. Not every kernel has these.
    Bond,
    /// The end of the wire, without an address but the link-local one: the node's own are on
    /// `lo`, and nodes and router reach them by each other's link-local addresses (RFC 8950), as
    /// with unnumbered BGP. Only for tunnels between pods.
    Unnumbered,
}

impl UplinkDevice {
    /// The device that the wire ends at.
    fn wire(self) -> &'static str {
        match self {
            Self::Plain | Self::Unnumbered => "eth0",
            _ => "phys0",
        }
    }

    /// The kind of devices that it is and that not every kernel has
    /// ([`has_devices`](crate::has_devices)).
    pub fn devices(self) -> &'static [&'static str] {
        match self {
            Self::Plain | Self::Bridge | Self::FilteredBridge | Self::Unnumbered => &[],
            Self::Macvlan => &["macvlan"],
            Self::Vlan => &["vlan"],
            Self::Bond => &["bond"],
        }
    }

    /// The lines for `ip` that make `eth0` above the end of the wire.
    fn above(self) -> &'static [&'static str] {
        match self {
            Self::Plain | Self::Unnumbered => &[],
            Self::Bridge | Self::FilteredBridge => &[
                "link add eth0 type bridge mcast_snooping 0",
                "link set phys0 master eth0 up",
            ],
            Self::Macvlan => &[
                "link set phys0 up",
                "link add eth0 link phys0 type macvlan mode bridge",
            ],
            Self::Vlan => &[
                "link set phys0 up",
                "link add eth0 link phys0 type vlan id 5",
            ],
            Self::Bond => &[
                "link add eth0 type bond mode active-backup miimon 100",
                "link set phys0 master eth0",
                "link set phys1 master eth0",
            ],
        }
    }
}

/// The sysctls by which what passes a bridge passes the firewall, too.
const BRIDGE_FILTERS: [&str; 2] = [
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
];

/// Has what passes bridges of the node, in whose namespace the calling thread is, pass by its firewall.
pub(crate) fn pass_by_firewall() -> Result<()> {
    for name in BRIDGE_FILTERS {
        // Each node's own since Linux 5.3, and there only with the module br_netfilter.
        if Path::new("/proc/sys").join(name).exists() {
            ip::sysctl(name, "0")?;
        }
    }
    Ok(())
}

/// Gives a node its uplink `eth0`, and the default route by it.
pub(crate) fn connect(router: &Netns, node: End<'_>, options: UplinkOptions) -> Result<()> {
    let (index, device) = (node.index, options.device);
    let (v4, v6) = (uplink_v4(index), uplink_v6(index));
    node.netns.run(|| {
        // The stricter one of a device's and of `all` counts; a device takes what is
        // `default` when it is made.
        ip::sysctl("net/ipv4/conf/all/rp_filter", "0")?;
        let wanted = options.rp_filter.to_string();
        ip::sysctl("net/ipv4/conf/default/rp_filter", &wanted)?;
        match device {
            UplinkDevice::Bridge => pass_by_firewall(),
            _ => Ok(()),
        }
    })?;
    let port = format!("u{index}");
    SEGMENT.attach_as(device.wire(), router, &port, node.netns)?;
    if device == UplinkDevice::Bond {
        let second = format!("w{index}");
        SEGMENT.attach_as("phys1", router, &second, node.netns)?;
        router.run(|| like_a_wire(&second))?;
        node.netns.run(|| like_a_wire("phys1"))?;
    }
    node.netns.run(|| {
        like_a_wire(device.wire())?;
        if device == UplinkDevice::Macvlan {
            // What goes to all of the segment comes in by both: it is no martian for that, and only
            // the device that has an address answers for it.
            ip::sysctl("net/ipv4/conf/phys0/rp_filter", "0")?;
            ip::sysctl("net/ipv4/conf/phys0/arp_ignore", "1")?;
        }
        let mut lines: Vec<_> = device.above().iter().map(ToString::to_string).collect();
        if device == UplinkDevice::Unnumbered {
            lines.extend(unnumbered(index));
        } else {
            lines.extend(SEGMENT.join(v4, v6));
        }
        ip::batch(&lines)
    })?;
    router.run(|| {
        like_a_wire(&port)?;
        // What an XDP program sends out of the node's end, or redirects into it, is
        // dropped unless this end polls. It does so for this since Linux 5.13.
        set_feature(&port, "gro", "on")?;
        ip::batch(&match device {
            UplinkDevice::Vlan => vec![
                format!("link set {port} nomaster"),
                format!("link add {port}.5 link {port} type vlan id 5"),
                format!("link set {port}.5 master nodes up"),
            ],
            UplinkDevice::Unnumbered => vec![
                // An address that is there already is no error.
                "addr replace fe80::254/64 dev nodes nodad".to_owned(),
                format!("route add {v4}/32 via inet6 fe80::{index} dev nodes"),
                format!("route add {v6}/128 via fe80::{index} dev nodes"),
            ],
            _ => Vec::new(),
        })
    })?;
    if options.masquerade {
        return node.netns.run(|| masquerade(index));
    }
    router.run(|| {
        ip::batch(&[
            format!("route add 10.244.{index}.0/24 via {v4}"),
            format!("route add fd00:10:244:{index}::/64 via {v6}"),
        ])
    })
}

/// The lines for `ip` that make use of an `eth0` without an address of the segment.
fn unnumbered(node: u8) -> Vec<String> {
    let (v4, v6) = (uplink_v4(node), uplink_v6(node));
    vec![
        format!("addr add {v4}/32 dev lo"),
        format!("addr add {v6}/128 dev lo nodad"),
        format!("addr add fe80::{node}/64 dev eth0 nodad"),
        "link set eth0 up".to_owned(),
        format!("route add 0.0.0.0/0 via inet6 fe80::254 dev eth0 src {v4}"),
        format!("route add ::/0 via fe80::254 dev eth0 src {v6}"),
    ]
}

/// Makes an end of a veth pair send whole checksums and no segment longer than a packet,
/// as a wire delivers them. By itself it leaves both to a device that is never reached.
pub(crate) fn like_a_wire(device: &str) -> Result<()> {
    set_feature(device, "tx", "off")
}

fn set_feature(device: &str, feature: &str, state: &str) -> Result<()> {
    tool::run(
        Command::new("ethtool").args(["-K", device, feature, state]),
        "ethtool",
    )
}

/// The address of a node's uplink.
pub(crate) fn uplink_v4(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, node)
}

/// The same in IPv6, its last number readable as a decimal one.
pub(crate) fn uplink_v6(node: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x192, 0, 2, 0, 0, 0, decimal(node))
}
