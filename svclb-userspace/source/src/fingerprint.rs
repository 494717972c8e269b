//! The fingerprint of an object, kept instead of a copy of it.

use std::hash::{DefaultHasher, Hash, Hasher};

use svclb_core::model::{EndpointSlice, Node, Object, Service};

/// 64 bits that differ when the objects do. The types are taken apart field by field, so
/// that a field added to the model does not compile until it is counted here.
pub(crate) fn fingerprint(object: &Object) -> u64 {
    let mut hasher = DefaultHasher::new();
    match object {
        Object::Service(service) => hash_service(service, &mut hasher),
        Object::EndpointSlice(slice) => hash_slice(slice, &mut hasher),
        Object::Node(Node {
            name,
            zone,
            internal_ips,
            being_deleted,
            scaled_down,
        }) => {
            (2u8, name, zone, internal_ips).hash(&mut hasher);
            (being_deleted, scaled_down).hash(&mut hasher);
        }
    }
    hasher.finish()
}

fn hash_service(service: &Service, hasher: &mut DefaultHasher) {
    let Service {
        name,
        created,
        kind,
        cluster_ips,
        external_ips,
        ingress_ips,
        source_ranges,
        ports,
        affinity_seconds,
        internal_policy,
        external_policy,
        health_check_node_port,
        local_source,
    } = service;
    (0u8, name, created, *kind as u8).hash(hasher);
    (cluster_ips, external_ips, ingress_ips, source_ranges).hash(hasher);
    (
        affinity_seconds,
        *internal_policy as u8,
        *external_policy as u8,
        health_check_node_port,
        local_source.map(|source| source as u8),
    )
        .hash(hasher);
    for port in ports {
        (&port.name, port.port, port.proto.number(), port.node_port).hash(hasher);
    }
}

fn hash_slice(slice: &EndpointSlice, hasher: &mut DefaultHasher) {
    let EndpointSlice {
        name,
        service,
        family,
        ports,
        endpoints,
    } = slice;
    (1u8, name, service, family, ports.len()).hash(hasher);
    for port in ports {
        (&port.name, port.port, port.proto.number()).hash(hasher);
    }
    for endpoint in endpoints {
        let conditions = endpoint.conditions;
        (endpoint.addr, &endpoint.node, &endpoint.hints).hash(hasher);
        (conditions.ready, conditions.serving, conditions.terminating).hash(hasher);
    }
}
