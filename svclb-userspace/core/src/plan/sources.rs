//! Which clients may use a load balancer's addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use svclb_common::{Addr16, SourceRange};

use crate::model::{Family, Node, Service};

/// The ranges of a family, in order; none if every client may.
///
/// As kube-proxy has it: ranges of the other family limit no client, and neither does a list with
/// all addresses in it. Where this node may, so may a client that has the load balancer's
/// address itself: this node, if the address is on one of its devices.
pub(super) fn sources(service: &Service, family: Family, node: &Node) -> Vec<SourceRange> {
    let ranges: Vec<_> = service
        .source_ranges
        .iter()
        .filter(|range| Family::of(range.addr()) == family)
        .collect();
    if ranges.iter().any(|range| range.prefix_len() == 0) {
        return Vec::new();
    }
    let holds_node = node
        .internal_ips
        .iter()
        .any(|ip| ranges.iter().any(|range| range.contains(ip)));
    let own = service.ingress_ips.iter().copied().map(IpNet::from);
    let own = own.filter(|ip| holds_node && Family::of(ip.addr()) == family);
    let all: BTreeSet<_> = ranges.into_iter().copied().chain(own).map(range).collect();
    all.into_iter().collect()
}

fn range(range: IpNet) -> SourceRange {
    let mapped = match range.addr() {
        IpAddr::V4(_) => 96,
        IpAddr::V6(_) => 0,
    };
    SourceRange {
        addr: Addr16::from_ip(range.network()),
        bits: mapped + u32::from(range.prefix_len()),
    }
}
