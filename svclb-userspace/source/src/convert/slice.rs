use svclb_core::model::{
    Conditions, Endpoint, EndpointPort, EndpointSlice, Family, Hints, ObjectName,
};

use super::{Names, Problem, address, port, protocol};
use crate::objects;

/// The label with the name of the Service that a slice belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// An EndpointSlice. `None` for one of names (FQDN), and, with a problem, for one that
/// belongs to no Service.
pub fn endpoint_slice(
    from: objects::EndpointSlice,
    names: &Names,
    problems: &mut Vec<Problem>,
) -> Option<EndpointSlice> {
    let Some(name) = from.metadata.name else {
        problems.push(Problem::new("metadata.name", "missing; ignored"));
        return None;
    };
    let family = match from.address_type.as_deref().unwrap_or_default() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        "FQDN" => return None,
        other => {
            problems.push(Problem::new(
                "addressType",
                format!("{other:?} is neither IPv4, IPv6 nor FQDN; ignored"),
            ));
            return None;
        }
    };
    let service = from.metadata.labels.service_name;
    let Some(service) = service.filter(|name| !name.is_empty()) else {
        problems.push(Problem::new(
            format!("metadata.labels[{SERVICE_NAME}]"),
            "missing; the slice belongs to no Service and is ignored",
        ));
        return None;
    };
    let namespace = from.metadata.namespace.as_deref().unwrap_or("default");
    Some(EndpointSlice {
        name: ObjectName::new(names.get(namespace), name),
        service: names.get(&service),
        family,
        ports: ports(from.ports, names, problems),
        endpoints: from
            .endpoints
            .into_iter()
            .enumerate()
            .filter_map(|(index, endpoint)| one(index, endpoint, family, names, problems))
            .collect(),
    })
}

/// Only the first address counts: the others are ignored by every proxy.
fn one(
    index: usize,
    from: objects::Endpoint,
    family: Family,
    names: &Names,
    problems: &mut Vec<Problem>,
) -> Option<Endpoint> {
    let text = from.addresses.first()?;
    let Some(addr) = address(text) else {
        problems.push(Problem::new(
            format!("endpoints[{index}].addresses[0]"),
            format!("{text:?} is no IP address; this endpoint is left out"),
        ));
        return None;
    };
    if Family::of(addr) != family {
        problems.push(Problem::new(
            format!("endpoints[{index}].addresses[0]"),
            format!("{addr} is not of the slice's addressType; this endpoint is left out"),
        ));
        return None;
    }
    let conditions = from.conditions;
    Some(Endpoint {
        addr,
        conditions: Conditions {
            ready: conditions.ready.unwrap_or(true),
            serving: conditions.serving.unwrap_or(true),
            terminating: conditions.terminating.unwrap_or(false),
        },
        node: from.node_name.map(|node| names.get(&node)),
        hints: hints(from.hints, names),
    })
}

fn hints(from: objects::Hints, names: &Names) -> Option<Box<Hints>> {
    let hints = Hints {
        zones: from
            .for_zones
            .iter()
            .map(|zone| names.get(&zone.name))
            .collect(),
        nodes: from
            .for_nodes
            .iter()
            .map(|node| names.get(&node.name))
            .collect(),
    };
    (hints != Hints::default()).then(|| Box::new(hints))
}

/// Ports without a name, without a number or with 0 are left to others: kube-proxy skips
/// them, too.
fn ports(
    from: Vec<objects::EndpointPort>,
    names: &Names,
    problems: &mut Vec<Problem>,
) -> Vec<EndpointPort> {
    let mut ports = Vec::with_capacity(from.len());
    for (index, entry) in from.into_iter().enumerate() {
        let (Some(name), Some(number)) = (entry.name, entry.port.filter(|port| *port != 0)) else {
            continue;
        };
        match (port(number), protocol(entry.protocol.as_deref())) {
            (Some(port), Some(proto)) => ports.push(EndpointPort {
                name: names.get(&name),
                port,
                proto,
            }),
            (None, _) => problems.push(Problem::new(
                format!("ports[{index}].port"),
                format!("{number} is not within 1 to 65535; this port is left out"),
            )),
            (_, None) => problems.push(Problem::new(
                format!("ports[{index}].protocol"),
                "neither TCP, UDP nor SCTP; this port is left out",
            )),
        }
    }
    ports
}
