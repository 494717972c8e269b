//! Messages of rtnetlink as the kernel sends them, for tests.

use std::net::IpAddr;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteNextHop, RouteType, RouteVia,
};

/// What a link message says beside index and name.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    layer: LinkLayerType,
    kind: Option<InfoKind>,
    master: Option<u32>,
    is_up: bool,
}

impl Shape {
    pub(super) const fn of(layer: LinkLayerType, kind: Option<InfoKind>) -> Self {
        Self {
            layer,
            kind,
            master: None,
            is_up: true,
        }
    }

    pub(super) const fn ethernet(kind: Option<InfoKind>) -> Self {
        Self::of(LinkLayerType::Ether, kind)
    }

    pub(super) fn port_of(self, master: u32) -> Self {
        Self {
            master: Some(master),
            ..self
        }
    }

    pub(super) fn down(self) -> Self {
        Self {
            is_up: false,
            ..self
        }
    }
}

/// `RTM_NEWLINK` and `RTM_DELLINK`.
pub(super) fn link(index: u32, name: &str, shape: Shape) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.link_layer_type = shape.layer;
    if shape.is_up {
        message.header.flags |= LinkFlags::Up | LinkFlags::LowerUp | LinkFlags::Running;
    }
    if shape.layer == LinkLayerType::Loopback {
        message.header.flags |= LinkFlags::Loopback;
    }
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::TxQueueLen(1000),
        LinkAttribute::Mtu(1500),
        LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
    ];
    if let Some(master) = shape.master {
        message.attributes.push(LinkAttribute::Controller(master));
    }
    if let Some(kind) = shape.kind {
        let facts = vec![LinkInfo::Kind(kind)];
        message.attributes.push(LinkAttribute::LinkInfo(facts));
    }
    message
}

/// `RTM_NEWADDR` and `RTM_DELADDR`, with an address and its range such as 192.0.2.1/24.
pub(super) fn address(index: u32, cidr: &str) -> AddressMessage {
    let net: ipnet::IpNet = cidr.parse().unwrap();
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.family = family(net.addr());
    message.header.prefix_len = net.prefix_len();
    message.header.scope = match net.addr() {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => AddressScope::Link,
        _ => AddressScope::Universe,
    };
    message.attributes = vec![AddressAttribute::Address(net.addr())];
    if net.addr().is_ipv4() {
        message.attributes.push(AddressAttribute::Local(net.addr()));
    }
    message
}

/// `RTM_NEWROUTE` and `RTM_DELROUTE`: to a range, over one device or several, by gateways or none.
pub(super) fn route(to: &str, hops: &[(u32, Option<&str>)]) -> RouteMessage {
    let net: ipnet::IpNet = to.parse().unwrap();
    let mut message = RouteMessage::default();
    message.header.address_family = family(net.addr());
    message.header.destination_prefix_length = net.prefix_len();
    message.header.table = 254;
    message.header.kind = RouteType::Unicast;
    if net.prefix_len() > 0 {
        let to = RouteAttribute::Destination(net.addr().into());
        message.attributes.push(to);
    }
    let gateway = |gateway: &Option<&str>| {
        gateway.map(|text| match (text.parse().unwrap(), net.addr()) {
            (IpAddr::V6(ip), IpAddr::V4(_)) => RouteAttribute::Via(RouteVia::Inet6(ip)),
            (ip, _) => RouteAttribute::Gateway(RouteAddress::from(ip)),
        })
    };
    match hops {
        [(device, by)] => {
            message.attributes.push(RouteAttribute::Oif(*device));
            message.attributes.extend(gateway(by));
        }
        hops => {
            let hops = hops.iter().map(|(device, by)| {
                let mut hop = RouteNextHop::default();
                hop.interface_index = *device;
                hop.attributes = gateway(by).into_iter().collect();
                hop
            });
            let hops = RouteAttribute::MultiPath(hops.collect());
            message.attributes.push(hops);
        }
    }
    message
}

/// A route with a source that the kernel prefers for it.
pub(super) fn from_source(mut route: RouteMessage, source: &str) -> RouteMessage {
    let source: IpAddr = source.parse().unwrap();
    route
        .attributes
        .push(RouteAttribute::PrefSource(source.into()));
    route
}

const fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
