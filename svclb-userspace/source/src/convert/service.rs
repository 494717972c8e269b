use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use svclb_common::Label;
use svclb_core::model::{
    LocalSource, ObjectName, Service, ServicePort, ServiceType, TrafficPolicy,
};

use super::{Names, Problem, address, port, protocol, range};
use crate::objects;

/// `sessionAffinityConfig.clientIP.timeoutSeconds` by default.
const DEFAULT_AFFINITY: u32 = 10_800;

/// The annotation by which a Service says what its backends see of their clients.
const LOCAL_SOURCE: &str = "svclb.io/local-source";

/// A Service. Headless and ExternalName ones are converted, too: the plan leaves them out.
///
/// `None`, with a problem, only for one that has no name, or one that no cluster would take.
pub fn service(
    from: objects::Service,
    names: &Names,
    problems: &mut Vec<Problem>,
) -> Option<Service> {
    let Some(name) = from.metadata.name else {
        problems.push(Problem::new("metadata.name", "missing; ignored"));
        return None;
    };
    let namespace = from.metadata.namespace.as_deref().unwrap_or("default");
    for (field, text) in [("metadata.name", &*name), ("metadata.namespace", namespace)] {
        if Label::new(text).is_err() {
            problems.push(Problem::new(
                field,
                "longer than 63 characters (RFC 1123 section 2.1); ignored",
            ));
            return None;
        }
    }
    let spec = from.spec;
    let cluster_ips = match &*spec.cluster_ips {
        [] => addresses("spec.clusterIP", spec.cluster_ip.as_deref(), problems),
        list => addresses("spec.clusterIPs", list.iter().map(String::as_str), problems),
    };
    let external_ips = addresses(
        "spec.externalIPs",
        spec.external_ips.iter().map(String::as_str),
        problems,
    );
    // ipMode Proxy means that traffic has to go out to the balancer (KEP-1860).
    let ingress = from.status.load_balancer.ingress;
    let mut ingress_ips = addresses(
        "status.loadBalancer.ingress",
        ingress
            .iter()
            .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
            .filter_map(|ingress| ingress.ip.as_deref()),
        problems,
    );
    let source_ranges = source_ranges(&spec, problems);
    if source_ranges.is_empty() && names_sources(&spec) {
        // Not to serve the addresses is safe; to serve them to every client is not.
        ingress_ips.clear();
        problems.push(Problem::new(
            "spec.loadBalancerSourceRanges",
            "no range is left; the load balancer's addresses are left out",
        ));
    }
    let affinity_seconds = affinity(&spec, problems);
    let local_source = local_source(from.metadata.annotations.local_source.as_deref(), problems);
    let health_check_node_port = health_check_node_port(&spec, problems);
    Some(Service {
        name: ObjectName::new(names.get(namespace), names.get(&name)),
        created: created(from.metadata.creation_timestamp.as_deref(), problems),
        kind: match spec.type_.as_deref() {
            None | Some("" | "ClusterIP") => ServiceType::ClusterIp,
            Some("NodePort") => ServiceType::NodePort,
            Some("LoadBalancer") => ServiceType::LoadBalancer,
            Some("ExternalName") => ServiceType::ExternalName,
            Some(other) => {
                problems.push(Problem::new(
                    "spec.type",
                    format!("{other:?} is no type of Service; taken as ClusterIP"),
                ));
                ServiceType::ClusterIp
            }
        },
        cluster_ips,
        external_ips,
        ingress_ips,
        source_ranges,
        ports: ports(spec.ports, names, problems),
        affinity_seconds,
        internal_policy: policy(
            "spec.internalTrafficPolicy",
            spec.internal_traffic_policy.as_deref(),
            problems,
        ),
        external_policy: policy(
            "spec.externalTrafficPolicy",
            spec.external_traffic_policy.as_deref(),
            problems,
        ),
        health_check_node_port,
        local_source,
    })
}

/// Seconds since the epoch; zero without a time.
fn created(text: Option<&str>, problems: &mut Vec<Problem>) -> i64 {
    let Some(text) = text else { return 0 };
    text.parse::<Timestamp>().map_or_else(
        |_| {
            problems.push(Problem::new(
                "metadata.creationTimestamp",
                format!("{text:?} is no time as in RFC 3339; taken as unset"),
            ));
            0
        },
        Timestamp::as_second,
    )
}

/// The annotation `svclb.io/local-source`.
fn local_source(text: Option<&str>, problems: &mut Vec<Problem>) -> Option<LocalSource> {
    text?
        .parse()
        .map_err(|error| {
            let field = format!("metadata.annotations[{LOCAL_SOURCE}]");
            problems.push(Problem::new(field, format!("{error}; ignored")));
        })
        .ok()
}

/// The ranges that can be read. Blanks around them are trimmed, as kube-proxy does, and host bits
/// are ignored.
fn source_ranges(spec: &objects::ServiceSpec, problems: &mut Vec<Problem>) -> Vec<IpNet> {
    let ranges = spec.load_balancer_source_ranges.iter();
    let mut found = Vec::new();
    for (index, text) in ranges.enumerate() {
        match range(text.trim()) {
            Some(range) => found.push(range.trunc()),
            None if text.trim().is_empty() => {}
            None => problems.push(Problem::new(
                format!("spec.loadBalancerSourceRanges[{index}]"),
                format!("{text:?} is no range of addresses such as 192.0.2.0/24; left out"),
            )),
        }
    }
    found
}

fn names_sources(spec: &objects::ServiceSpec) -> bool {
    let mut ranges = spec.load_balancer_source_ranges.iter();
    ranges.any(|range| !range.trim().is_empty())
}

fn addresses<'a>(
    field: &str,
    texts: impl IntoIterator<Item = &'a str>,
    problems: &mut Vec<Problem>,
) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for (index, text) in texts.into_iter().enumerate() {
        if text.is_empty() || text == "None" {
            continue;
        }
        match address(text) {
            Some(ip) => found.push(ip),
            None => problems.push(Problem::new(
                format!("{field}[{index}]"),
                format!("{text:?} is no IP address; left out"),
            )),
        }
    }
    found
}

fn ports(
    from: Vec<objects::ServicePort>,
    names: &Names,
    problems: &mut Vec<Problem>,
) -> Vec<ServicePort> {
    let mut ports = Vec::with_capacity(from.len());
    for (index, entry) in from.into_iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{index}].{name}");
        let Some(number) = port(entry.port) else {
            problems.push(Problem::new(
                field("port"),
                format!(
                    "{} is not within 1 to 65535; this port is left out",
                    entry.port
                ),
            ));
            continue;
        };
        let Some(proto) = protocol(entry.protocol.as_deref()) else {
            problems.push(Problem::new(
                field("protocol"),
                "neither TCP, UDP nor SCTP; this port is left out",
            ));
            continue;
        };
        let name = entry.name.as_deref().unwrap_or_default();
        if Label::new(name).is_err() {
            problems.push(Problem::new(
                field("name"),
                "longer than 63 characters; this port is left out",
            ));
            continue;
        }
        // EndpointSlices refer to ports by name: of two with one name neither has its own endpoints.
        let is_same = |other: &&ServicePort| *other.name == *name && other.proto == proto;
        if let Some(other) = ports.iter().find(is_same) {
            problems.push(Problem::new(
                field("name"),
                format!(
                    "{name:?} is the name of port {} too; this port is left out",
                    other.port
                ),
            ));
            continue;
        }
        let node_port = entry.node_port.unwrap_or(0);
        let node_port = u16::try_from(node_port).unwrap_or_else(|_| {
            problems.push(Problem::new(
                field("nodePort"),
                format!("{node_port} is not within 1 to 65535; no node port"),
            ));
            0
        });
        ports.push(ServicePort {
            name: names.get(name),
            port: number,
            proto,
            node_port,
        });
    }
    ports
}

fn health_check_node_port(spec: &objects::ServiceSpec, problems: &mut Vec<Problem>) -> u16 {
    let number = spec.health_check_node_port.unwrap_or(0);
    u16::try_from(number).unwrap_or_else(|_| {
        problems.push(Problem::new(
            "spec.healthCheckNodePort",
            format!("{number} is not within 1 to 65535; no health check"),
        ));
        0
    })
}

fn affinity(spec: &objects::ServiceSpec, problems: &mut Vec<Problem>) -> Option<u32> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            problems.push(Problem::new(
                "spec.sessionAffinity",
                format!("{other:?} is neither None nor ClientIP; taken as None"),
            ));
            return None;
        }
    }
    let Some(seconds) = spec.session_affinity_config.client_ip.timeout_seconds else {
        return Some(DEFAULT_AFFINITY);
    };
    match u32::try_from(seconds) {
        Ok(seconds @ 1..=86_400) => Some(seconds),
        _ => {
            problems.push(Problem::new(
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
                format!("{seconds} is not within 1 to 86400; taken as {DEFAULT_AFFINITY}"),
            ));
            Some(DEFAULT_AFFINITY)
        }
    }
}

fn policy(field: &str, value: Option<&str>, problems: &mut Vec<Problem>) -> TrafficPolicy {
    match value {
        None | Some("" | "Cluster") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            problems.push(Problem::new(
                field,
                format!("{other:?} is neither Cluster nor Local; taken as Cluster"),
            ));
            TrafficPolicy::Cluster
        }
    }
}
