//! What rtnetlink said about devices, their addresses and routes: listed once, and then kept by its
//! messages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::addresses::{Address, Addresses};
use super::kind::{Facts, Link, classify};
use super::routes::{Routes, Way};
use super::{Device, Devices};

/// What is known of the devices.
#[derive(Default)]
pub(super) struct State {
    links: BTreeMap<u32, Link>,
    addresses: BTreeMap<u32, Addresses>,
    routes: Routes,
    /// Devices that went down with routes by a router: where such a route has further paths, it is there
    /// still, and leads over the device again once that is up, without a message.
    down: BTreeSet<u32>,
    devices: Devices,
    /// About which something was said since the last [`refresh`](Self::refresh).
    touched: BTreeSet<u32>,
}

impl State {
    /// Takes in a message, or an entry of a listing. `replaces`: it has `NLM_F_REPLACE`.
    pub(super) fn apply(&mut self, message: &RouteNetlinkMessage, replaces: bool) {
        match message {
            RouteNetlinkMessage::NewLink(link) => self.new_link(link),
            RouteNetlinkMessage::DelLink(link) => self.del_link(link),
            RouteNetlinkMessage::NewAddress(address) => self.new_address(address),
            RouteNetlinkMessage::DelAddress(address) => self.del_address(address),
            RouteNetlinkMessage::NewRoute(route) => self.new_route(route, replaces),
            RouteNetlinkMessage::DelRoute(route) => self.routes.remove(route),
            _ => {}
        }
    }

    pub(super) fn new_link(&mut self, message: &LinkMessage) {
        // The bridge sends messages of its own about its ports.
        if message.header.interface_family != AddressFamily::Unspec {
            return;
        }
        let Some(link) = Link::of(message) else {
            return;
        };
        let index = message.header.index;
        let is_up = link.is_up;
        let before = self.links.insert(index, link.clone());
        if before.as_ref() == Some(&link) {
            return;
        }
        let was_up = before.as_ref().is_some_and(|before| before.is_up);
        if was_up && !is_up && self.routes.forget(index) {
            self.down.insert(index);
        }
        if is_up && self.down.remove(&index) {
            self.routes.mark_stale();
        }
        let related = |link: Link| [link.master, link.below].into_iter().flatten();
        self.touched
            .extend(before.into_iter().flat_map(related).chain(related(link)));
        self.touched.insert(index);
    }

    fn del_link(&mut self, message: &LinkMessage) {
        // Of the bridge: a port that left it.
        if message.header.interface_family != AddressFamily::Unspec {
            return;
        }
        let index = message.header.index;
        let before = self.links.remove(&index);
        self.addresses.remove(&index);
        self.down.remove(&index);
        self.routes.forget(index);
        let related = before.map(|before| [before.master, before.below]);
        self.touched.extend(related.into_iter().flatten().flatten());
        self.touched.insert(index);
    }

    fn new_address(&mut self, message: &AddressMessage) {
        if let Some(address) = Address::of(message) {
            let index = message.header.index;
            self.addresses.entry(index).or_default().add(address);
            self.touched.insert(index);
        }
    }

    /// Takes in an entry of a listing, in its order.
    pub(super) fn listed_address(&mut self, message: &AddressMessage) {
        if let Some(address) = Address::of(message) {
            let index = message.header.index;
            self.addresses.entry(index).or_default().list(address);
            self.touched.insert(index);
        }
    }

    fn del_address(&mut self, message: &AddressMessage) {
        if let Some(Address { ip, .. }) = Address::of(message) {
            let index = message.header.index;
            if let Some(known) = self.addresses.get_mut(&index) {
                known.remove(ip);
            }
            // Routes that prefer it as their source are gone without a message.
            if self.routes.sources(index).any(|source| source == ip) {
                self.routes.mark_stale();
            }
            self.touched.insert(index);
        }
    }

    pub(super) fn new_route(&mut self, message: &RouteMessage, replaces: bool) {
        self.touched.extend(self.routes.add(message, replaces));
    }

    /// Messages were lost: a listing is due.
    pub(super) const fn mark_stale(&mut self) {
        self.routes.mark_stale();
    }

    /// Whether a listing is due.
    pub(super) const fn is_stale(&self) -> bool {
        self.routes.is_stale()
    }

    /// Takes a listing in the place of what is known, and keeps what is known of devices that are as
    /// they were.
    pub(super) fn replace(&mut self, listed: Self) {
        let devices = std::mem::take(&mut self.devices);
        let known = devices.keys().copied();
        let touched = known.chain(listed.links.keys().copied()).collect();
        let mut down = std::mem::take(&mut self.down);
        down.retain(|index| listed.links.get(index).is_some_and(|link| !link.is_up));
        *self = Self {
            down,
            devices,
            touched,
            ..listed
        };
    }

    /// Brings the devices up to date. Returns them if they changed.
    pub(super) fn refresh(&mut self) -> Option<Devices> {
        let mut has_changed = false;
        for index in std::mem::take(&mut self.touched) {
            match self.device(index) {
                Some(device) => {
                    let known = self.devices.get(&index);
                    if known.is_none_or(|known| **known != device) {
                        self.devices.insert(index, Arc::new(device));
                        has_changed = true;
                    }
                }
                None => has_changed |= self.devices.remove(&index).is_some(),
            }
        }
        has_changed.then(|| self.devices.clone())
    }

    /// Whether devices are on this one.
    fn is_below(&self, index: u32) -> bool {
        self.links.values().any(|link| link.below == Some(index))
    }

    fn device(&self, index: u32) -> Option<Device> {
        let link = self.links.get(&index)?;
        let addresses = self.addresses.get(&index);
        let has = |way| self.routes.has(index, way);
        let facts = Facts {
            is_default: has(Way::Default),
            has_gateway: has(Way::Gateway),
            has_subnet: addresses.is_some_and(|known| known.iter().any(Address::has_subnet)),
            is_below: link.is_inner_port() && self.is_below(index),
        };
        let master = link.master.and_then(|index| self.links.get(&index));
        let ports = self
            .links
            .values()
            .filter(|port| link.is_bridge() && port.master == Some(index));
        Some(Device {
            name: link.name.clone(),
            kind: classify(link, facts, master, ports),
            addresses: addresses
                .into_iter()
                .flat_map(|known| known.iter().map(|address| address.ip))
                .collect(),
            sources: addresses.map(Addresses::sources).unwrap_or_default(),
            is_default: facts.is_default,
            is_routed: facts.is_default || facts.has_gateway || has(Way::Direct),
            preferred_sources: self.routes.sources(index).collect(),
            has_ethernet: link.has_ethernet(),
            has_carrier: link.has_carrier,
            is_pair: link.is_pair(),
            mtu: link.mtu,
            mac: link.mac,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkLayerType};

    use super::*;
    use crate::agent::devices::Kind;
    use crate::agent::devices::messages::{Shape, address, from_source, link, route};

    impl State {
        fn with(messages: impl IntoIterator<Item = RouteNetlinkMessage>) -> Self {
            let mut state = Self::default();
            state.take(messages);
            state
        }

        /// Takes in messages. Returns the devices if they changed.
        fn take(
            &mut self,
            messages: impl IntoIterator<Item = RouteNetlinkMessage>,
        ) -> Option<Devices> {
            for message in messages {
                self.apply(&message, false);
            }
            self.refresh()
        }

        fn kind(&self, index: u32) -> Kind {
            self.devices[&index].kind
        }
    }

    fn new_link(index: u32, name: &str, shape: Shape) -> RouteNetlinkMessage {
        RouteNetlinkMessage::NewLink(link(index, name, shape))
    }

    fn new_address(index: u32, cidr: &str) -> RouteNetlinkMessage {
        RouteNetlinkMessage::NewAddress(address(index, cidr))
    }

    fn new_route(to: &str, hops: &[(u32, Option<&str>)]) -> RouteNetlinkMessage {
        RouteNetlinkMessage::NewRoute(route(to, hops))
    }

    fn veth() -> Shape {
        Shape::ethernet(Some(InfoKind::Veth))
    }

    #[test]
    fn the_end_of_a_pair_that_others_are_on_is_not_a_pods() {
        let mut state = State::with([new_link(2, "phys0", veth())]);
        assert_eq!(state.kind(2), Kind::Pods);
        let beside = |index, attributes: &[LinkAttribute]| {
            let mut message = link(index, "eth0", Shape::ethernet(Some(InfoKind::MacVlan)));
            message.attributes.extend_from_slice(attributes);
            RouteNetlinkMessage::NewLink(message)
        };
        // Of another namespace, where this one's device 2 has no part in it.
        let elsewhere = [LinkAttribute::Link(2), LinkAttribute::LinkNetNsId(1)];
        state.take([beside(3, &elsewhere)]);
        assert_eq!(state.kind(2), Kind::Pods);
        state.take([beside(4, &[LinkAttribute::Link(2)])]);
        assert_eq!(state.kind(2), Kind::Uplink);
        let gone = link(4, "eth0", Shape::ethernet(Some(InfoKind::MacVlan)));
        state.take([RouteNetlinkMessage::DelLink(gone)]);
        assert_eq!(state.kind(2), Kind::Pods);
    }

    #[test]
    fn pods_on_links_of_their_own_are_told_from_uplinks() {
        let state = State::with([
            new_link(1, "lo", Shape::of(LinkLayerType::Loopback, None)),
            // A node that is a container itself.
            new_link(2, "eth0", veth()),
            new_address(2, "172.18.0.2/16"),
            new_route("0.0.0.0/0", &[(2, Some("172.18.0.1"))]),
            // Calico's and kindnet's.
            new_link(3, "cali1", veth()),
            new_route("10.244.1.5/32", &[(3, None)]),
            new_link(4, "veth2", veth()),
            new_address(4, "10.244.1.1/32"),
            new_route("10.244.1.6/32", &[(4, None)]),
            // A second uplink that is only routed over.
            new_link(5, "eth1", veth()),
            new_route("10.244.2.0/24", &[(5, Some("fe80::2"))]),
        ]);
        assert_eq!(state.kind(1), Kind::Loopback);
        assert_eq!(state.kind(2), Kind::Uplink);
        assert_eq!(state.kind(3), Kind::Pods);
        assert_eq!(state.kind(4), Kind::Pods);
        assert_eq!(state.kind(5), Kind::Uplink);
        assert!(state.devices[&3].is_routed && state.devices[&2].is_default);
    }

    #[test]
    fn a_bridge_follows_its_ports() {
        let bridge = Shape::ethernet(Some(InfoKind::Bridge));
        let mut state = State::with([
            new_link(2, "br0", bridge),
            new_address(2, "10.244.1.1/24"),
            new_link(3, "veth1", veth().port_of(2)),
        ]);
        assert_eq!(state.kind(2), Kind::Pods);
        assert_eq!(state.kind(3), Kind::Port);
        let card = |shape| new_link(4, "eth1", shape);
        state.take([card(Shape::ethernet(None).port_of(2))]);
        assert_eq!(state.kind(2), Kind::Bridge);
        state.take([card(Shape::ethernet(None))]);
        assert_eq!(state.kind(2), Kind::Pods);
        state.take([card(Shape::ethernet(None).port_of(2))]);
        let gone = link(4, "eth1", Shape::ethernet(None));
        state.take([RouteNetlinkMessage::DelLink(gone)]);
        assert_eq!(state.kind(2), Kind::Pods);
    }

    #[test]
    fn messages_of_the_bridge_and_without_a_name_change_nothing() {
        let mut state = State::with([new_link(3, "veth1", veth().port_of(2))]);
        let mut of_the_bridge = link(3, "veth1", veth());
        of_the_bridge.header.interface_family = AddressFamily::Bridge;
        let mut wireless = link(3, "", veth());
        wireless
            .attributes
            .retain(|attribute| !matches!(attribute, LinkAttribute::IfName(_)));
        let changed = state.take([
            RouteNetlinkMessage::DelLink(of_the_bridge.clone()),
            RouteNetlinkMessage::NewLink(of_the_bridge),
            RouteNetlinkMessage::NewLink(wireless),
        ]);
        assert!(changed.is_none());
        assert_eq!(state.kind(3), Kind::Port);
    }

    #[test]
    fn what_is_said_again_is_no_change() {
        let said = || {
            [
                new_link(2, "eth0", Shape::ethernet(None)),
                new_address(2, "192.0.2.1/24"),
                new_address(2, "fe80::1/64"),
                new_route("0.0.0.0/0", &[(2, Some("192.0.2.254"))]),
            ]
        };
        let mut state = State::default();
        assert!(state.take(said()).is_some());
        assert!(state.take(said()).is_none());
        assert_eq!(state.devices[&2].addresses.len(), 1);
        let before = Arc::clone(&state.devices[&2]);
        let mut listed = State::default();
        for message in said() {
            listed.apply(&message, false);
        }
        state.replace(listed);
        assert!(state.refresh().is_none());
        assert!(Arc::ptr_eq(&before, &state.devices[&2]));
    }

    #[test]
    fn a_listing_takes_away_what_is_gone() {
        let mut state = State::with([
            new_link(2, "eth0", Shape::ethernet(None)),
            new_route("0.0.0.0/0", &[(2, Some("192.0.2.254"))]),
            new_link(3, "eth1", Shape::ethernet(None)),
        ]);
        let gone = route("0.0.0.0/0", &[(2, Some("192.0.2.254"))]);
        state.take([RouteNetlinkMessage::DelRoute(gone)]);
        assert!(state.is_stale() && state.devices[&2].is_default);
        let mut listed = State::default();
        listed.new_link(&link(2, "eth0", Shape::ethernet(None)));
        state.replace(listed);
        let devices = state.refresh().unwrap();
        assert!(!devices[&2].is_default && !state.is_stale());
        assert!(!devices.contains_key(&3));
    }

    #[test]
    fn a_device_that_goes_down_has_no_routes() {
        let card = || Shape::ethernet(None);
        let mut state = State::with([
            new_link(2, "eth0", card()),
            new_route("10.0.0.0/8", &[(2, Some("192.0.2.254"))]),
        ]);
        assert!(state.devices[&2].is_routed);
        // The kernel says nothing of its routes.
        let devices = state.take([new_link(2, "eth0", card().down())]).unwrap();
        assert!(!devices[&2].is_routed && !state.is_stale());
        // Nor of those with other paths, which lead over it again.
        state.take([new_link(2, "eth0", card())]);
        assert!(state.is_stale());
    }

    #[test]
    fn an_uplink_without_an_address_has_the_source_of_its_routes() {
        // BGP unnumbered: the node's address is on lo, and the next hops are link-local.
        let hops = [(2, Some("fe80::1")), (3, Some("fe80::2"))];
        let default = from_source(route("0.0.0.0/0", &hops), "192.0.2.7");
        let state = State::with([
            new_link(1, "lo", Shape::of(LinkLayerType::Loopback, None)),
            new_address(1, "192.0.2.7/32"),
            new_link(2, "eth0", Shape::ethernet(None)),
            new_link(3, "eth1", Shape::ethernet(None)),
            RouteNetlinkMessage::NewRoute(default),
        ]);
        for index in [2, 3] {
            let device = &state.devices[&index];
            assert!(device.is_default && device.addresses.is_empty());
            assert_eq!(
                device.preferred_sources,
                ["192.0.2.7".parse::<IpAddr>().unwrap()]
            );
        }
    }
}
