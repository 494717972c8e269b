//! What a device is: which of the node's packets pass it, and where their headers begin.

use std::fmt;

use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};

/// What a device is to the traffic of Services.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Kind {
    /// A network card, or what stands for one.
    #[default]
    Uplink,
    /// A VLAN of another device.
    Vlan,
    /// A bond or a team: its ports are left out.
    Bond,
    /// A bridge that other machines are behind.
    Bridge,
    /// A device beside another one, on the same wire (macvlan, ipvlan).
    Macvlan,
    /// A tunnel whose packets have an Ethernet header of their own (VXLAN, Geneve, gretap, tap).
    Tunnel,
    /// A tunnel of packets without one (tun, WireGuard, IPIP, GRE, SIT, VTI, XFRM, PPP).
    IpTunnel,
    /// What pods of this node are behind: a host's end of a veth or netkit pair, a tap of a virtual
    /// machine, or the bridge of such.
    Pods,
    /// A port of a bridge, a bond, or a switch: its packets pass that device.
    Port,
    /// A VRF: its packets pass the devices that belong to it.
    Vrf,
    /// The loopback device.
    Loopback,
    /// By which no packet comes in from elsewhere (dummy, ifb).
    Idle,
    /// One whose packets begin with a header that the programs do not know (InfiniBand, CAN).
    Unknown,
}

impl Kind {
    /// Whether packets may come in by it from other machines, with headers that are known.
    pub(crate) const fn is_outward(self) -> bool {
        matches!(
            self,
            Self::Uplink
                | Self::Vlan
                | Self::Bond
                | Self::Bridge
                | Self::Macvlan
                | Self::Tunnel
                | Self::IpTunnel
        )
    }

    /// Why no program can be attached to it, if none can.
    pub(super) const fn obstacle(self) -> Option<&'static str> {
        match self {
            Self::Loopback => {
                Some("it is the loopback device, whose traffic never leaves the node")
            }
            Self::Vrf => Some("it is a VRF: name the devices that belong to it"),
            Self::Unknown => {
                Some("its packets begin neither with an Ethernet nor with an IP header")
            }
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Uplink => "uplink",
            Self::Vlan => "vlan",
            Self::Bond => "bond",
            Self::Bridge => "bridge",
            Self::Macvlan => "macvlan",
            Self::Tunnel => "tunnel",
            Self::IpTunnel => "ip-tunnel",
            Self::Pods => "pods",
            Self::Port => "port",
            Self::Vrf => "vrf",
            Self::Loopback => "loopback",
            Self::Idle => "idle",
            Self::Unknown => "unknown",
        })
    }
}

/// How a device was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Make {
    /// A network card, or a kind that is like one.
    #[default]
    Card,
    Loopback,
    Vlan,
    Bond,
    Bridge,
    Macvlan,
    Tunnel,
    Tap,
    /// An end of a pair whose other end may be in another network namespace.
    Pair,
    Vrf,
    Idle,
}

/// What frames of a device begin with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Header {
    #[default]
    Ethernet,
    /// The network header.
    None,
    /// One of another kind.
    Other,
}

/// A device, by its link message alone.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) is_up: bool,
    /// Whether what it is plugged into is there, too.
    pub(super) has_carrier: bool,
    /// In bytes.
    pub(super) mtu: u32,
    /// Its MAC address; zeros without one.
    pub(super) mac: [u8; 6],
    /// The index of the device that it is a port of.
    pub(super) master: Option<u32>,
    /// The index of the device of this namespace that it is on, as a VLAN or beside it.
    pub(super) below: Option<u32>,
    make: Make,
    header: Header,
}

impl Link {
    /// From a message about a device. None for one that has not all facts, as those of the bridge and
    /// of wireless events.
    pub(super) fn of(message: &LinkMessage) -> Option<Self> {
        let mut link = Self {
            is_up: message.header.flags.contains(LinkFlags::Up),
            has_carrier: message.header.flags.contains(LinkFlags::Running),
            header: header(message.header.link_layer_type),
            ..Self::default()
        };
        let (mut kind, mut below, mut is_elsewhere) = (None, None, false);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Address(address) => {
                    link.mac = <[u8; 6]>::try_from(&**address).unwrap_or_default();
                }
                LinkAttribute::Controller(index) if *index != 0 => link.master = Some(*index),
                LinkAttribute::Link(index) => below = Some(*index),
                LinkAttribute::LinkNetNsId(_) => is_elsewhere = true,
                LinkAttribute::LinkInfo(facts) => {
                    kind = facts.iter().find_map(|fact| match fact {
                        LinkInfo::Kind(kind) => Some(kind),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link.make = if message.header.flags.contains(LinkFlags::Loopback) {
            Make::Loopback
        } else {
            kind.map_or(Make::Card, |kind| make(kind, link.header))
        };
        // For others it is the other end of a pair, or what a tunnel's packets leave by.
        if matches!(link.make, Make::Vlan | Make::Macvlan) && !is_elsewhere {
            link.below = below;
        }
        (!link.name.is_empty()).then_some(link)
    }

    pub(super) fn is_bridge(&self) -> bool {
        self.make == Make::Bridge
    }

    /// Whether it is an end of a pair of devices.
    pub(super) fn is_pair(&self) -> bool {
        self.make == Make::Pair
    }

    pub(super) fn has_ethernet(&self) -> bool {
        self.header == Header::Ethernet
    }

    /// Whether it is a device of its own, although it belongs to this one.
    fn leaves_packets_to_ports(&self) -> bool {
        self.make == Make::Vrf
    }

    /// Whether only pods, or virtual machines, of this node can be behind it as a port of a bridge.
    pub(super) fn is_inner_port(&self) -> bool {
        matches!(self.make, Make::Pair | Make::Tap)
    }
}

/// What of its surroundings decides what a device is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Facts {
    /// A default route leads over it.
    pub(super) is_default: bool,
    /// A route by a gateway does: a router is behind it.
    pub(super) has_gateway: bool,
    /// It has an address with a range of which others may have addresses.
    pub(super) has_subnet: bool,
    /// Devices of this namespace are on it: VLANs, or such beside it.
    pub(super) is_below: bool,
}

impl Facts {
    const fn leads_on(self) -> bool {
        self.is_default || self.has_gateway
    }
}

/// What a device is: by itself, its surroundings, the device that it is a port of, and its own ports.
pub(super) fn classify<'a>(
    link: &Link,
    facts: Facts,
    master: Option<&Link>,
    mut ports: impl Iterator<Item = &'a Link>,
) -> Kind {
    if link.make == Make::Loopback {
        return Kind::Loopback;
    }
    if link.header == Header::Other {
        return Kind::Unknown;
    }
    // What it is a port of may be in another network namespace, or not be known yet.
    if link.master.is_some() && !master.is_some_and(Link::leaves_packets_to_ports) {
        return Kind::Port;
    }
    let has_ethernet = link.has_ethernet();
    match link.make {
        Make::Vrf => Kind::Vrf,
        Make::Idle => Kind::Idle,
        Make::Vlan => Kind::Vlan,
        Make::Bond => Kind::Bond,
        Make::Macvlan => Kind::Macvlan,
        Make::Bridge if facts.leads_on() || ports.any(|port| !port.is_inner_port()) => Kind::Bridge,
        Make::Bridge => Kind::Pods,
        // The host's end for a pod has no address, or one by itself (as the way out of the pod), and
        // is all that the host needs.
        Make::Pair | Make::Tap if !facts.leads_on() && !facts.has_subnet && !facts.is_below => {
            Kind::Pods
        }
        Make::Tap | Make::Tunnel if has_ethernet => Kind::Tunnel,
        _ if !has_ethernet => Kind::IpTunnel,
        _ => Kind::Uplink,
    }
}

/// What frames begin with. (`ARPHRD_…` of include/uapi/linux/if_arp.h.)
const fn header(link_layer: LinkLayerType) -> Header {
    match link_layer {
        LinkLayerType::Ether => Header::Ethernet,
        LinkLayerType::None
        | LinkLayerType::Rawip
        | LinkLayerType::Ppp
        | LinkLayerType::Tunnel
        | LinkLayerType::Tunnel6
        | LinkLayerType::Sit
        | LinkLayerType::Ipgre
        | LinkLayerType::Ip6gre => Header::None,
        _ => Header::Other,
    }
}

fn make(kind: &InfoKind, header: Header) -> Make {
    match kind {
        InfoKind::Vlan => Make::Vlan,
        InfoKind::Bond | InfoKind::Team => Make::Bond,
        InfoKind::Bridge => Make::Bridge,
        InfoKind::MacVlan | InfoKind::MacVtap | InfoKind::IpVlan | InfoKind::IpVtap => {
            Make::Macvlan
        }
        InfoKind::Veth | InfoKind::Netkit => Make::Pair,
        InfoKind::Vrf => Make::Vrf,
        InfoKind::Dummy | InfoKind::Ifb | InfoKind::Nlmon | InfoKind::Vcan => Make::Idle,
        InfoKind::Tun if header == Header::Ethernet => Make::Tap,
        InfoKind::Tun
        | InfoKind::Vxlan
        | InfoKind::Geneve
        | InfoKind::GreTap
        | InfoKind::GreTap6
        | InfoKind::ErSpan
        | InfoKind::Ip6ErSpan
        | InfoKind::IpIp
        | InfoKind::Ip6Tnl
        | InfoKind::SitTun
        | InfoKind::GreTun
        | InfoKind::GreTun6
        | InfoKind::Vti
        | InfoKind::Vti6
        | InfoKind::Xfrm
        | InfoKind::Wireguard
        | InfoKind::BareUdp
        | InfoKind::Gtp
        | InfoKind::Amt
        | InfoKind::BatAdv => Make::Tunnel,
        _ => Make::Card,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::devices::messages::{Shape, link};

    fn kind_of(shape: Shape, facts: Facts) -> Kind {
        let link = Link::of(&link(2, "dev", shape)).unwrap();
        classify(&link, facts, None, std::iter::empty())
    }

    const NOTHING: Facts = Facts {
        is_default: false,
        has_gateway: false,
        has_subnet: false,
        is_below: false,
    };
    const BELOW: Facts = Facts {
        is_below: true,
        ..NOTHING
    };
    const SUBNET: Facts = Facts {
        has_subnet: true,
        ..NOTHING
    };
    const GATEWAY: Facts = Facts {
        has_gateway: true,
        ..NOTHING
    };
    const DEFAULT: Facts = Facts {
        is_default: true,
        ..NOTHING
    };

    #[test]
    fn a_device_is_what_it_was_made_as() {
        let ethernet = |kind| Shape::of(LinkLayerType::Ether, Some(kind));
        let bare = |layer, kind| Shape::of(layer, Some(kind));
        let other = |name: &str| InfoKind::Other(name.to_owned());
        let cases = [
            (Shape::of(LinkLayerType::Ether, None), Kind::Uplink),
            (ethernet(other("openvswitch")), Kind::Uplink),
            (ethernet(InfoKind::Vlan), Kind::Vlan),
            (ethernet(InfoKind::Bond), Kind::Bond),
            (ethernet(InfoKind::Team), Kind::Bond),
            (ethernet(InfoKind::MacVlan), Kind::Macvlan),
            (ethernet(InfoKind::IpVlan), Kind::Macvlan),
            (ethernet(InfoKind::Vxlan), Kind::Tunnel),
            (ethernet(InfoKind::Geneve), Kind::Tunnel),
            (ethernet(InfoKind::GreTap), Kind::Tunnel),
            (ethernet(InfoKind::Tun), Kind::Tunnel),
            (bare(LinkLayerType::None, InfoKind::Tun), Kind::IpTunnel),
            (
                bare(LinkLayerType::None, InfoKind::Wireguard),
                Kind::IpTunnel,
            ),
            (bare(LinkLayerType::None, InfoKind::Xfrm), Kind::IpTunnel),
            (bare(LinkLayerType::Tunnel, InfoKind::IpIp), Kind::IpTunnel),
            (
                bare(LinkLayerType::Tunnel6, InfoKind::Ip6Tnl),
                Kind::IpTunnel,
            ),
            (bare(LinkLayerType::Tunnel, InfoKind::Vti), Kind::IpTunnel),
            (bare(LinkLayerType::Sit, InfoKind::SitTun), Kind::IpTunnel),
            (bare(LinkLayerType::Ipgre, InfoKind::GreTun), Kind::IpTunnel),
            (
                bare(LinkLayerType::Ip6gre, InfoKind::GreTun6),
                Kind::IpTunnel,
            ),
            (Shape::of(LinkLayerType::Ppp, None), Kind::IpTunnel),
            (ethernet(InfoKind::Vrf), Kind::Vrf),
            (ethernet(InfoKind::Dummy), Kind::Idle),
            (
                bare(LinkLayerType::Infiniband, InfoKind::Ipoib),
                Kind::Unknown,
            ),
            (Shape::of(LinkLayerType::Loopback, None), Kind::Loopback),
        ];
        for (shape, kind) in cases {
            assert_eq!(kind_of(shape.clone(), SUBNET), kind, "{shape:?}");
        }
    }

    #[test]
    fn a_pair_is_a_pods_unless_others_are_behind_it() {
        for kind in [InfoKind::Veth, InfoKind::Netkit] {
            let shape = Shape::of(LinkLayerType::Ether, Some(kind));
            assert_eq!(kind_of(shape.clone(), NOTHING), Kind::Pods);
            for facts in [SUBNET, GATEWAY, DEFAULT, BELOW] {
                assert_eq!(kind_of(shape.clone(), facts), Kind::Uplink, "{facts:?}");
            }
        }
        // netkit's mode without an Ethernet header.
        let shape = Shape::of(LinkLayerType::None, Some(InfoKind::Netkit));
        assert_eq!(kind_of(shape, NOTHING), Kind::Pods);
        let tap = Shape::of(LinkLayerType::Ether, Some(InfoKind::Tun));
        assert_eq!(kind_of(tap, NOTHING), Kind::Pods);
    }

    #[test]
    fn a_bridge_is_of_pods_unless_its_ports_or_routes_lead_elsewhere() {
        let bridge = Shape::of(LinkLayerType::Ether, Some(InfoKind::Bridge));
        let bridge = Link::of(&link(2, "br0", bridge)).unwrap();
        let port = |kind| {
            let shape = Shape::of(LinkLayerType::Ether, kind).port_of(2);
            Link::of(&link(3, "port", shape)).unwrap()
        };
        let with = |ports: &[Link], facts| classify(&bridge, facts, None, ports.iter());
        let pod = port(Some(InfoKind::Veth));
        let machine = port(Some(InfoKind::Tun));
        assert_eq!(with(&[], SUBNET), Kind::Pods);
        assert_eq!(with(&[pod.clone(), machine], SUBNET), Kind::Pods);
        for kind in [None, Some(InfoKind::Vxlan), Some(InfoKind::Bond)] {
            let ports = [pod.clone(), port(kind.clone())];
            assert_eq!(with(&ports, SUBNET), Kind::Bridge, "{kind:?}");
        }
        assert_eq!(with(std::slice::from_ref(&pod), GATEWAY), Kind::Bridge);
        assert_eq!(with(&[pod], DEFAULT), Kind::Bridge);
    }

    #[test]
    fn a_port_is_left_to_what_it_belongs_to_except_a_vrf() {
        let master = |kind| {
            let shape = Shape::of(LinkLayerType::Ether, Some(kind));
            Link::of(&link(9, "master", shape)).unwrap()
        };
        let port = Shape::of(LinkLayerType::Ether, None).port_of(9);
        let port = Link::of(&link(2, "eth0", port)).unwrap();
        let kind = |master: &Link| classify(&port, SUBNET, Some(master), std::iter::empty());
        assert_eq!(kind(&master(InfoKind::Bridge)), Kind::Port);
        assert_eq!(kind(&master(InfoKind::Bond)), Kind::Port);
        assert_eq!(
            kind(&master(InfoKind::Other("openvswitch".to_owned()))),
            Kind::Port
        );
        assert_eq!(kind(&master(InfoKind::Vrf)), Kind::Uplink);
    }
}
