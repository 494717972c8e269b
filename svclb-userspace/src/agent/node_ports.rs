//! At which of the node's addresses NodePorts are served.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use svclb_core::model::Node;

use super::devices::{Device, Devices, Kind};

/// `--nodeport-addresses`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) enum NodePortAddresses {
    /// Those that the Node object gives as the node's own.
    #[default]
    Primary,
    /// All that are good beyond a link.
    All,
    /// Those of all that are within one of these; all of a family that has none here.
    Within(Vec<IpNet>),
}

impl FromStr for NodePortAddresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "primary" => Ok(Self::Primary),
            "all" => Ok(Self::All),
            list => list
                .split(',')
                .map(|part| part.trim().parse::<IpNet>())
                .collect::<Result<_, _>>()
                .map(Self::Within)
                .map_err(|_syntax| {
                    format!("{list:?} is neither primary, all, nor a list of CIDRs such as 192.0.2.0/24,2001:db8::/64")
                }),
        }
    }
}

impl NodePortAddresses {
    /// The addresses among those of the node.
    pub(crate) fn choose(&self, node: &Node, devices: &Devices) -> Vec<IpAddr> {
        let is_loopback = |device: &&Arc<Device>| device.kind == Kind::Loopback;
        let all = addresses(devices.values().filter(|device| !is_loopback(device)));
        match self {
            Self::Primary if !node.internal_ips.is_empty() => node.internal_ips.clone(),
            // Without a Node object, of each family: those of devices that default routes lead over; where
            // these have none (unnumbered uplinks, as with BGP) those of the loopback device; else of all
            // by which others are reached, or of any.
            Self::Primary => {
                let of = |wanted: &dyn Fn(&Device) -> bool| {
                    addresses(devices.values().filter(|device| wanted(device)))
                };
                let has_default = devices.values().any(|device| device.is_default);
                let default = of(&|device| device.is_default);
                let outward = of(&|device| device.kind.is_outward());
                let loopback = of(&|device| device.kind == Kind::Loopback);
                let candidates = if has_default {
                    [default, loopback, outward, all]
                } else {
                    [default, outward, loopback, all]
                };
                let of_family = |is_v4| {
                    let of_family = |ips: &Vec<IpAddr>| {
                        let ips = ips.iter().filter(|ip| ip.is_ipv4() == is_v4);
                        ips.copied().collect::<Vec<_>>()
                    };
                    let chosen = candidates.iter().map(of_family);
                    chosen
                        .into_iter()
                        .find(|ips| !ips.is_empty())
                        .unwrap_or_default()
                };
                [of_family(true), of_family(false)].concat()
            }
            Self::All => all,
            Self::Within(nets) => {
                // An address of the loopback device is meant only if it is named.
                let candidates = addresses(devices.values());
                candidates
                    .into_iter()
                    .filter(|ip| {
                        let mut of_family = nets
                            .iter()
                            .filter(|net| net.addr().is_ipv4() == ip.is_ipv4());
                        match of_family.clone().next() {
                            Some(_) => of_family.any(|net| net.contains(ip)),
                            None => all.contains(ip),
                        }
                    })
                    .collect()
            }
        }
    }
}

fn addresses<'a>(devices: impl Iterator<Item = &'a Arc<Device>>) -> Vec<IpAddr> {
    let all: BTreeSet<_> = devices.flat_map(|device| &device.addresses).collect();
    all.into_iter().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn device(addresses: &[&str], kind: Kind, is_default: bool) -> Arc<Device> {
        Arc::new(Device {
            kind,
            is_default,
            addresses: ips(addresses).into_iter().collect(),
            ..Device::default()
        })
    }

    fn devices() -> Devices {
        [
            (1, device(&["203.0.113.1"], Kind::Loopback, false)),
            (2, device(&["192.0.2.1", "2001:db8::1"], Kind::Uplink, true)),
            (3, device(&["10.244.1.1", "fd00:244::1"], Kind::Pods, false)),
        ]
        .into()
    }

    fn chosen(flag: &str, node: &Node) -> Vec<IpAddr> {
        let flag: NodePortAddresses = flag.parse().unwrap();
        flag.choose(node, &devices())
    }

    #[test]
    fn primary_is_what_the_node_object_says_or_else_the_device_of_the_default_route() {
        let node = Node {
            internal_ips: ips(&["192.0.2.9"]),
            ..Node::default()
        };
        assert_eq!(chosen("primary", &node), ips(&["192.0.2.9"]));
        let unknown = Node::default();
        assert_eq!(
            chosen("primary", &unknown),
            ips(&["192.0.2.1", "2001:db8::1"])
        );
    }

    #[test]
    fn where_no_uplink_has_an_address_it_is_that_of_the_loopback_device() {
        // BGP unnumbered: the bridge of pods and a tunnel have addresses too.
        let devices: Devices = [
            (1, device(&["192.0.2.7"], Kind::Loopback, false)),
            (2, device(&["2001:db8::1"], Kind::Uplink, true)),
            (4, device(&["10.244.1.0"], Kind::Tunnel, false)),
            (3, device(&["10.244.1.1", "fd00:244::1"], Kind::Pods, false)),
        ]
        .into();
        let chosen = NodePortAddresses::Primary.choose(&Node::default(), &devices);
        assert_eq!(chosen, ips(&["192.0.2.7", "2001:db8::1"]));
    }

    #[test]
    fn all_leaves_out_addresses_of_the_loopback_device() {
        let expected = ips(&["10.244.1.1", "192.0.2.1", "2001:db8::1", "fd00:244::1"]);
        assert_eq!(chosen("all", &Node::default()), expected);
    }

    #[test]
    fn a_family_without_a_cidr_has_all_its_addresses() {
        let expected = ips(&["10.244.1.1", "2001:db8::1", "fd00:244::1"]);
        assert_eq!(chosen("10.0.0.0/8", &Node::default()), expected);
        let expected = ips(&["203.0.113.1", "fd00:244::1"]);
        assert_eq!(
            chosen("203.0.113.0/24, fd00::/8", &Node::default()),
            expected
        );
    }

    #[test]
    fn what_is_no_list_of_cidrs_is_named() {
        let error = "192.0.2.1,primary"
            .parse::<NodePortAddresses>()
            .unwrap_err();
        assert!(error.contains("192.0.2.1,primary"), "{error}");
    }
}
