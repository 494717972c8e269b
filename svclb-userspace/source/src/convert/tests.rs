use std::net::IpAddr;

use serde::de::DeserializeOwned;
use svclb_core::model::{ServiceType, TrafficPolicy};

use super::*;

fn from<T: DeserializeOwned>(yaml: &str) -> T {
    serde_saphyr::from_str(yaml).unwrap()
}

fn one_service(spec: &str) -> (svclb_core::model::Service, Vec<String>) {
    let mut problems = Vec::new();
    let text = format!("metadata: {{name: web}}\nspec:\n{spec}");
    let service = service(from(&text), &Names::default(), &mut problems).unwrap();
    (service, problems.iter().map(ToString::to_string).collect())
}

fn one_slice(rest: &str) -> (Option<svclb_core::model::EndpointSlice>, Vec<String>) {
    let mut problems = Vec::new();
    let text =
        format!("metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}\n{rest}");
    let slice = endpoint_slice(from(&text), &Names::default(), &mut problems);
    (slice, problems.iter().map(ToString::to_string).collect())
}

#[test]
fn headless_has_no_cluster_ip() {
    let (service, problems) = one_service("  clusterIP: None\n  clusterIPs: [None]");
    assert!(service.cluster_ips.is_empty() && problems.is_empty());
}

#[test]
fn a_port_out_of_range_is_left_out_and_named() {
    let (service, problems) =
        one_service("  clusterIP: 10.0.0.1\n  ports: [{port: 80}, {port: 70000}]");
    assert_eq!(service.ports.len(), 1);
    assert!(
        problems[0].starts_with("spec.ports[1].port: 70000"),
        "{problems:?}"
    );
}

#[test]
fn of_two_ports_with_one_name_and_protocol_the_first_is_served() {
    let (service, problems) =
        one_service("  ports: [{port: 80}, {port: 81}, {port: 82, protocol: UDP}]");
    let ports: Vec<_> = service.ports.iter().map(|port| port.port).collect();
    assert_eq!(ports, [80, 82]);
    assert_eq!(
        problems,
        ["spec.ports[1].name: \"\" is the name of port 80 too; this port is left out"]
    );
}

#[test]
fn names_that_no_cluster_takes_are_named_and_left_out() {
    let long = "x".repeat(64);
    let mut problems = Vec::new();
    let one = from(&format!("{{metadata: {{name: {long}}}}}"));
    assert_eq!(super::service(one, &Names::default(), &mut problems), None);
    assert_eq!(problems.len(), 1);
    let (service, problems) = one_service(&format!("  ports: [{{port: 80, name: {long}}}]"));
    assert!(service.ports.is_empty());
    assert_eq!(problems.len(), 1);
}

#[test]
fn affinity_without_a_time_is_three_hours() {
    let (service, _) = one_service("  sessionAffinity: ClientIP");
    assert_eq!(service.affinity_seconds, Some(10_800));
}

#[test]
fn policies_and_types_have_their_defaults() {
    let (service, _) = one_service("  clusterIP: 10.0.0.1");
    assert_eq!(service.kind, ServiceType::ClusterIp);
    assert_eq!(service.internal_policy, TrafficPolicy::Cluster);
}

fn balanced(ranges: &str) -> (svclb_core::model::Service, Vec<String>) {
    one_service(&format!(
        "  clusterIP: 10.0.0.1\n  loadBalancerSourceRanges: {ranges}\n\
         status: {{loadBalancer: {{ingress: [{{ip: 192.0.2.1}}]}}}}"
    ))
}

#[test]
fn source_ranges_are_trimmed_and_host_bits_are_of_no_account() {
    let (service, problems) = balanced("[' 198.51.100.7/24 ', '2001:db8::1/64', '']");
    let ranges: Vec<_> = service
        .source_ranges
        .iter()
        .map(|r| r.to_string())
        .collect();
    assert_eq!(ranges, ["198.51.100.0/24", "2001:db8::/64"]);
    assert_eq!((service.ingress_ips.len(), problems.len()), (1, 0));
    let (service, problems) = balanced("[]");
    assert!(service.source_ranges.is_empty() && problems.is_empty());
    assert_eq!(service.ingress_ips.len(), 1);
}

#[test]
fn a_load_balancer_without_a_source_range_that_can_be_read_is_not_served_to_everybody() {
    let (service, problems) = balanced("[198.51.100.0/24, nonsense]");
    assert_eq!(
        (service.source_ranges.len(), service.ingress_ips.len()),
        (1, 1)
    );
    assert!(
        problems[0].starts_with("spec.loadBalancerSourceRanges[1]: \"nonsense\""),
        "{problems:?}"
    );
    let (service, problems) = balanced("[198.51.100.0]");
    assert!(service.ingress_ips.is_empty());
    assert!(problems[1].contains("left out"), "{problems:?}");
}

#[test]
fn an_endpoint_without_conditions_is_ready() {
    let (slice, _) = one_slice("addressType: IPv4\nendpoints: [{addresses: [10.0.0.1]}]");
    let endpoint = &slice.unwrap().endpoints[0];
    assert!(endpoint.conditions.ready && endpoint.conditions.serving);
    assert!(!endpoint.conditions.terminating);
}

#[test]
fn only_the_first_address_counts() {
    let (slice, _) = one_slice("addressType: IPv4\nendpoints: [{addresses: [10.0.0.1, 10.0.0.2]}]");
    let addresses: Vec<IpAddr> = slice.unwrap().endpoints.iter().map(|e| e.addr).collect();
    assert_eq!(addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
}

#[test]
fn an_endpoint_of_the_wrong_family_is_left_out_and_named() {
    let (slice, problems) = one_slice(
        "addressType: IPv4\nendpoints: [{addresses: [fd00::1]}, {addresses: [10.0.0.1]}]",
    );
    assert_eq!(slice.unwrap().endpoints.len(), 1);
    assert!(
        problems[0].starts_with("endpoints[0].addresses[0]: fd00::1"),
        "{problems:?}"
    );
}

#[test]
fn ports_without_name_or_number_are_skipped() {
    let (slice, problems) = one_slice(
        "addressType: IPv4\nendpoints: []\nports: [{port: 1}, {name: a}, {name: '', port: 2}]",
    );
    assert_eq!(slice.unwrap().ports.len(), 1);
    assert!(problems.is_empty());
}

#[test]
fn a_slice_of_names_is_ignored() {
    let (slice, problems) = one_slice("addressType: FQDN\nendpoints: []");
    assert!(slice.is_none() && problems.is_empty());
}

#[test]
fn a_slice_without_its_service_is_a_problem() {
    let mut problems = Vec::new();
    let text = "metadata: {name: web-1}\naddressType: IPv4\nendpoints: []";
    assert!(endpoint_slice(from(text), &Names::default(), &mut problems).is_none());
    assert_eq!(problems.len(), 1);
}

#[test]
fn an_affinity_timeout_out_of_range_is_three_hours_and_named() {
    for seconds in [0, -1, 86_401] {
        let (service, problems) = one_service(&format!(
            "  sessionAffinity: ClientIP\n  sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {seconds}}}}}"
        ));
        assert_eq!(service.affinity_seconds, Some(10_800));
        assert!(problems[0].contains("timeoutSeconds"), "{problems:?}");
    }
}

#[test]
fn hints_are_for_zones_and_nodes() {
    let (slice, problems) = one_slice(
        "addressType: IPv4\nendpoints: [{addresses: [10.0.0.1], hints: {forZones: [{name: a}], forNodes: [{name: n}]}}, {addresses: [10.0.0.2], hints: {}}]",
    );
    let endpoints = slice.unwrap().endpoints;
    let hints = endpoints[0].hints.as_deref().unwrap();
    assert_eq!((&*hints.zones[0], &*hints.nodes[0]), ("a", "n"));
    assert_eq!(endpoints[1].hints, None);
    assert!(problems.is_empty(), "{problems:?}");
}

#[test]
fn a_health_check_node_port_out_of_range_is_none_and_named() {
    let (service, problems) = one_service("  healthCheckNodePort: 32000");
    assert_eq!(service.health_check_node_port, 32_000);
    assert!(problems.is_empty(), "{problems:?}");
    for number in [-1, 65_536] {
        let (service, problems) = one_service(&format!("  healthCheckNodePort: {number}"));
        assert_eq!(service.health_check_node_port, 0);
        assert!(
            problems[0].starts_with(&format!("spec.healthCheckNodePort: {number}")),
            "{problems:?}"
        );
    }
}

/// Whether a Node is being deleted, and whether the autoscaler removes it.
fn leaves(rest: &str) -> (bool, bool) {
    let text = format!("metadata: {{name: node1{rest}");
    let node = node(from(&text), &Names::default(), &mut Vec::new()).unwrap();
    (node.being_deleted, node.scaled_down)
}

#[test]
fn a_node_goes_by_its_deletion_timestamp_or_the_autoscalers_taint_and_by_no_other() {
    let taint = |key: &str| {
        leaves(&format!(
            "}}\nspec: {{taints: [{{key: {key}, effect: NoSchedule}}]}}"
        ))
    };
    assert_eq!(leaves("}"), (false, false));
    assert_eq!(taint("node.kubernetes.io/unschedulable"), (false, false));
    assert_eq!(taint("ToBeDeletedByClusterAutoscaler"), (false, true));
    let deleted = leaves(", deletionTimestamp: '2026-01-01T00:00:00Z'}");
    assert_eq!(deleted, (true, false));
}
