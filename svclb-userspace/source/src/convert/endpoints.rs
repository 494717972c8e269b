use svclb_core::model::{Conditions, Endpoint, EndpointPort, EndpointSlice, Family, ObjectName};

use super::{Names, Problem, address, port, protocol};
use crate::objects;

/// A v1 Endpoints object as what Kubernetes would mirror it into: a slice for each subset
/// and family. In a cluster its mirroring controller does this, so only the manifests need it.
pub fn endpoints(
    from: objects::Endpoints,
    names: &Names,
    problems: &mut Vec<Problem>,
) -> Vec<EndpointSlice> {
    let Some(name) = from.metadata.name else {
        problems.push(Problem::new("metadata.name", "missing; ignored"));
        return Vec::new();
    };
    if from.metadata.labels.skip_mirror.as_deref() == Some("true") {
        return Vec::new();
    }
    let namespace = names.get(from.metadata.namespace.as_deref().unwrap_or("default"));
    let mut slices = Vec::new();
    for (index, subset) in from.subsets.into_iter().enumerate() {
        let ports = ports(index, subset.ports, names, problems);
        let ready = subset.addresses;
        let unready = subset.not_ready_addresses;
        let mut all = addresses(index, "addresses", ready, true, names, problems);
        all.extend(addresses(
            index,
            "notReadyAddresses",
            unready,
            false,
            names,
            problems,
        ));
        for family in [Family::V4, Family::V6] {
            let endpoints: Vec<Endpoint> = all
                .iter()
                .filter(|endpoint| Family::of(endpoint.addr) == family)
                .cloned()
                .collect();
            if endpoints.is_empty() {
                continue;
            }
            let suffix = if family == Family::V4 { "ipv4" } else { "ipv6" };
            slices.push(EndpointSlice {
                // A colon can't be in the name of a real slice.
                name: ObjectName::new(
                    std::sync::Arc::clone(&namespace),
                    format!("endpoints:{name}:{index}:{suffix}"),
                ),
                service: names.get(&name),
                family,
                ports: ports.clone(),
                endpoints,
            });
        }
    }
    slices
}

fn addresses(
    subset: usize,
    list: &str,
    from: Vec<objects::EndpointAddress>,
    ready: bool,
    names: &Names,
    problems: &mut Vec<Problem>,
) -> Vec<Endpoint> {
    let mut endpoints = Vec::with_capacity(from.len());
    for (index, entry) in from.into_iter().enumerate() {
        let Some(addr) = address(&entry.ip) else {
            problems.push(Problem::new(
                format!("subsets[{subset}].{list}[{index}].ip"),
                format!("{:?} is no IP address; this endpoint is left out", entry.ip),
            ));
            continue;
        };
        endpoints.push(Endpoint {
            addr,
            conditions: Conditions {
                ready,
                serving: ready,
                terminating: false,
            },
            node: entry.node_name.map(|node| names.get(&node)),
            hints: None,
        });
    }
    endpoints
}

/// Here a port without a name is the unnamed one: only slices tell `nil` from empty.
fn ports(
    subset: usize,
    from: Vec<objects::EndpointPort>,
    names: &Names,
    problems: &mut Vec<Problem>,
) -> Vec<EndpointPort> {
    let mut ports = Vec::with_capacity(from.len());
    for (index, entry) in from.into_iter().enumerate() {
        let number = entry.port.unwrap_or_default();
        match (port(number), protocol(entry.protocol.as_deref())) {
            (Some(port), Some(proto)) => ports.push(EndpointPort {
                name: names.get(entry.name.as_deref().unwrap_or_default()),
                port,
                proto,
            }),
            (None, _) => problems.push(Problem::new(
                format!("subsets[{subset}].ports[{index}].port"),
                format!("{number} is not within 1 to 65535; this port is left out"),
            )),
            (_, None) => problems.push(Problem::new(
                format!("subsets[{subset}].ports[{index}].protocol"),
                "neither TCP, UDP nor SCTP; this port is left out",
            )),
        }
    }
    ports
}
