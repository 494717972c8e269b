//! Which devices routes lead over: kept by route messages, without a copy of the routing tables.
//!
//! Messages alone do not say when the last route over a device is gone. One that replaces a route does
//! not name that one's device, and where a device goes down, or an address, the kernel removes IPv4
//! routes without a word (`fib_flush`). So a route counts at once, and its end makes the routes stale
//! where it may be the last: only a listing takes a way away.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType,
};

/// How a route leads over a device; the later ones say more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Way {
    /// To who is on its wire.
    Direct,
    /// By a router.
    Gateway,
    /// To everywhere.
    Default,
}

const WAYS: usize = 3;

/// The routes over one device.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Ways {
    /// How many there are of each way, as far as messages say.
    counts: [u32; WAYS],
    /// Whether there was one of each way since the last listing.
    has: [bool; WAYS],
    /// The source addresses that routes prefer, and by which way: one of each family.
    sources: [Option<(Way, IpAddr)>; 2],
}

/// The routes of all devices.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Routes {
    by_device: BTreeMap<u32, Ways>,
    is_stale: bool,
}

impl Routes {
    /// Takes in `RTM_NEWROUTE`. Returns the devices about which it says something new. `replaces`: in the
    /// place of another route, whose device is unknown.
    pub(super) fn add(&mut self, route: &RouteMessage, replaces: bool) -> Vec<u32> {
        let source = preferred_source(route);
        let mut changed = Vec::new();
        for (device, way) in ways(route) {
            let ways = self.by_device.entry(device).or_default();
            ways.counts[way as usize] = ways.counts[way as usize].saturating_add(1);
            let is_new = !std::mem::replace(&mut ways.has[way as usize], true);
            let has_new_source = source.is_some_and(|source| ways.prefer(way, source));
            if is_new || has_new_source {
                changed.push(device);
            }
            self.is_stale |= replaces && way == Way::Default;
        }
        changed
    }

    /// Takes in `RTM_DELROUTE`.
    pub(super) fn remove(&mut self, route: &RouteMessage) {
        let source = preferred_source(route);
        for (device, way) in ways(route) {
            let Some(ways) = self.by_device.get_mut(&device) else {
                continue;
            };
            let count = &mut ways.counts[way as usize];
            *count = count.saturating_sub(1);
            let may_be_last = *count == 0 && ways.has[way as usize];
            let had_source = ways
                .sources
                .iter()
                .flatten()
                .any(|(_, ip)| Some(*ip) == source);
            self.is_stale |= may_be_last || way == Way::Default && had_source;
        }
    }

    /// Forgets a device that is gone or down, whose routes went with it. Returns whether a router was
    /// behind it.
    pub(super) fn forget(&mut self, device: u32) -> bool {
        let forgotten = self.by_device.remove(&device);
        forgotten
            .is_some_and(|ways| ways.has[Way::Gateway as usize] || ways.has[Way::Default as usize])
    }

    /// What is known may be out of date, and a listing is due.
    pub(super) const fn mark_stale(&mut self) {
        self.is_stale = true;
    }

    /// Whether a listing is due.
    pub(super) const fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// Whether a route leads over a device in a way.
    pub(super) fn has(&self, device: u32, way: Way) -> bool {
        let ways = self.by_device.get(&device);
        ways.is_some_and(|ways| ways.has[way as usize])
    }

    /// The source addresses that routes over a device prefer.
    pub(super) fn sources(&self, device: u32) -> impl Iterator<Item = IpAddr> {
        let ways = self.by_device.get(&device);
        let sources = ways.into_iter().flat_map(|ways| &ways.sources);
        sources.flatten().map(|(_, ip)| *ip)
    }
}

impl Ways {
    /// Takes in a preferred source. Returns whether it is the one from now on, and was not.
    fn prefer(&mut self, way: Way, source: IpAddr) -> bool {
        let known = &mut self.sources[usize::from(source.is_ipv6())];
        let is_better = known.is_none_or(|(known, ip)| known < way && ip != source);
        if is_better {
            *known = Some((way, source));
        }
        is_better
    }
}

/// The devices of a route over which others can be reached, and how; each once.
fn ways(route: &RouteMessage) -> BTreeMap<u32, Way> {
    let mut found = BTreeMap::new();
    let is_cloned = route.header.flags.contains(RouteFlags::Cloned);
    if route.header.kind != RouteType::Unicast || is_cloned || is_of_one_link(route) {
        return found;
    }
    let mut add = |device, attributes: &[RouteAttribute]| {
        let is_gateway = |attribute: &RouteAttribute| {
            matches!(
                attribute,
                RouteAttribute::Gateway(_) | RouteAttribute::Via(_)
            )
        };
        let way = if route.header.destination_prefix_length == 0 {
            Way::Default
        } else if attributes.iter().any(is_gateway) {
            Way::Gateway
        } else {
            Way::Direct
        };
        let known = found.entry(device).or_insert(way);
        *known = way.max(*known);
    };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(device) => add(*device, &route.attributes),
            RouteAttribute::MultiPath(hops) => {
                for hop in hops {
                    add(hop.interface_index, &hop.attributes);
                }
            }
            _ => {}
        }
    }
    found
}

/// Whether a route leads only to addresses that are good on one link, or to groups.
fn is_of_one_link(route: &RouteMessage) -> bool {
    route.attributes.iter().any(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => {
            ip.is_link_local() || ip.is_multicast() || ip.is_broadcast()
        }
        RouteAttribute::Destination(RouteAddress::Inet6(ip)) => {
            ip.is_unicast_link_local() || ip.is_multicast()
        }
        _ => false,
    })
}

fn preferred_source(route: &RouteMessage) -> Option<IpAddr> {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => Some((*ip).into()),
            RouteAttribute::PrefSource(RouteAddress::Inet6(ip)) => Some((*ip).into()),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::devices::messages::{from_source, route};

    /// Which ways lead over a device.
    fn ways_of(routes: &Routes, device: u32) -> Vec<Way> {
        let all = [Way::Direct, Way::Gateway, Way::Default];
        all.into_iter()
            .filter(|way| routes.has(device, *way))
            .collect()
    }

    #[test]
    fn routes_that_lead_to_others_count() {
        let mut routes = Routes::default();
        let v6 = Some("fe80::1");
        for (to, device, by) in [
            ("10.1.0.0/16", 2, None),
            ("10.2.0.0/16", 3, v6),
            ("0.0.0.0/0", 4, v6),
            ("::/0", 5, v6),
            ("fd00::/64", 6, None),
            // To no one beyond the link.
            ("fe80::/64", 7, None),
            ("ff00::/8", 7, None),
            ("169.254.0.0/16", 7, None),
            ("224.0.0.0/4", 7, None),
        ] {
            routes.add(&route(to, &[(device, by)]), false);
        }
        let mut unreachable = route("0.0.0.0/0", &[(7, None)]);
        unreachable.header.kind = RouteType::Unreachable;
        routes.add(&unreachable, false);
        assert_eq!(ways_of(&routes, 2), [Way::Direct]);
        assert_eq!(ways_of(&routes, 3), [Way::Gateway]);
        assert_eq!(ways_of(&routes, 4), [Way::Default]);
        assert_eq!(ways_of(&routes, 5), [Way::Default]);
        assert_eq!(ways_of(&routes, 6), [Way::Direct]);
        assert_eq!(ways_of(&routes, 7), []);
    }

    #[test]
    fn a_route_of_several_paths_counts_for_each_of_their_devices() {
        let mut routes = Routes::default();
        let hops = [(2, Some("fe80::1")), (3, Some("fe80::2")), (3, None)];
        let changed = routes.add(&route("10.0.0.0/8", &hops), false);
        assert_eq!(changed, [2, 3]);
        assert_eq!(ways_of(&routes, 2), [Way::Gateway]);
        assert_eq!(ways_of(&routes, 3), [Way::Gateway]);
    }

    #[test]
    fn only_the_end_of_what_may_be_the_last_route_asks_for_a_listing() {
        let mut routes = Routes::default();
        let many: Vec<_> = (0..100_u8)
            .map(|n| route(&format!("10.{n}.0.0/16"), &[(2, Some("192.0.2.1"))]))
            .collect();
        for route in &many {
            routes.add(route, false);
        }
        // Changes as a routing daemon makes them.
        for route in &many {
            routes.remove(route);
            let changed = routes.add(route, false);
            assert!(changed.is_empty() && !routes.is_stale());
            routes.add(route, true);
            routes.remove(route);
        }
        assert!(!routes.is_stale());
        for route in &many {
            assert!(!routes.is_stale());
            routes.remove(route);
        }
        // A listing shows whether it was the last.
        assert!(routes.is_stale());
        assert_eq!(ways_of(&routes, 2), [Way::Gateway]);
    }

    #[test]
    fn a_default_route_that_is_replaced_asks_for_a_listing() {
        let mut routes = Routes::default();
        routes.add(&route("0.0.0.0/0", &[(2, Some("192.0.2.1"))]), false);
        assert!(!routes.is_stale());
        // As by `ip route replace default dev eth1`: no message names eth0.
        let changed = routes.add(&route("0.0.0.0/0", &[(3, None)]), true);
        assert_eq!(changed, [3]);
        assert!(routes.is_stale());
    }

    #[test]
    fn the_source_of_the_widest_route_is_preferred() {
        let mut routes = Routes::default();
        let sources = |routes: &Routes| {
            routes
                .sources(2)
                .map(|ip| ip.to_string())
                .collect::<Vec<_>>()
        };
        let direct = from_source(route("10.1.0.0/16", &[(2, None)]), "10.1.0.9");
        assert_eq!(routes.add(&direct, false), [2]);
        let default = from_source(route("0.0.0.0/0", &[(2, Some("fe80::1"))]), "192.0.2.7");
        assert_eq!(routes.add(&default, false), [2]);
        assert!(routes.add(&direct, false).is_empty());
        let v6 = from_source(route("::/0", &[(2, Some("fe80::1"))]), "2001:db8::7");
        routes.add(&v6, false);
        assert_eq!(sources(&routes), ["192.0.2.7", "2001:db8::7"]);
    }
}
