//! At which of the node's addresses NodePorts are served.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use svclb_core::model::Node;

use super::devices::{Device, Devices};

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
        let outward = devices.values().filter(|device| !device.is_loopback);
        let all = addresses(outward);
        match self {
            Self::Primary if !node.internal_ips.is_empty() => node.internal_ips.clone(),
            // Without a Node object, of each family: those of default routes; or else those of the
            // loopback device, where a node with unnumbered BGP has its own; or else all.
            Self::Primary => {
                let default = addresses(devices.values().filter(|device| device.is_default));
                let loopback = addresses(devices.values().filter(|device| device.is_loopback));
                let candidates = [default, loopback, all];
                let of_family = |is_v4| {
                    let chosen = candidates.iter().map(move |ips: &Vec<IpAddr>| {
                        let ips = ips.iter().filter(move |ip| ip.is_ipv4() == is_v4);
                        ips.copied().collect::<Vec<_>>()
                    });
                    let mut chosen = chosen.filter(|ips| !ips.is_empty());
                    chosen.next().unwrap_or_default()
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

fn addresses<'a>(devices: impl Iterator<Item = &'a Device>) -> Vec<IpAddr> {
    let all: BTreeSet<_> = devices.flat_map(|device| &device.addresses).collect();
    all.into_iter().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn device(addresses: &[&str], is_loopback: bool, is_default: bool) -> Device {
        Device {
            is_loopback,
            is_default,
            addresses: ips(addresses).into_iter().collect(),
            ..Device::default()
        }
    }

    fn devices() -> Devices {
        [
            (1, device(&["203.0.113.1"], true, false)),
            (2, device(&["192.0.2.1", "2001:db8::1"], false, true)),
            (3, device(&["10.244.1.1", "fd00:244::1"], false, false)),
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
    fn primary_is_of_the_loopback_device_where_uplinks_have_no_address() {
        let devices: Devices = [
            (1, device(&["203.0.113.1"], true, false)),
            (2, device(&["2001:db8::1"], false, true)),
            (3, device(&["10.244.1.1", "fd00:244::1"], false, false)),
        ]
        .into();
        let chosen = NodePortAddresses::Primary.choose(&Node::default(), &devices);
        assert_eq!(chosen, ips(&["203.0.113.1", "2001:db8::1"]));
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
