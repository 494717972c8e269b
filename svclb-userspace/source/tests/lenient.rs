//! Any JSON that an API server accepts is read, whichever of its fields are null, absent or unknown:
//! checked against k8s-openapi's own serialisation.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use svclb_source::convert::{self, Names};
use svclb_source::objects::{self, KubeObject};

// === Objects as the API server serialises them ===

fn text() -> BoxedStrategy<String> {
    prop_oneof![
        Just(String::new()),
        Just("None".to_owned()),
        Just("Local".to_owned()),
        Just("ClientIP".to_owned()),
        Just("TCP".to_owned()),
        Just("LoadBalancer".to_owned()),
        Just("InternalIP".to_owned()),
        "[a-z\"\\\\\n\u{0}é]{0,70}",
        any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).to_string()),
        any::<u32>().prop_map(|bits| format!("{}/24", Ipv4Addr::from_bits(bits))),
    ]
    .boxed()
}

fn texts() -> impl Strategy<Value = Option<Vec<String>>> {
    option::of(vec(text(), 0..4))
}

fn map() -> impl Strategy<Value = Option<BTreeMap<String, String>>> {
    let key = prop_oneof![
        Just("service.kubernetes.io/headless".to_owned()),
        Just("kubernetes.io/service-name".to_owned()),
        Just("topology.kubernetes.io/zone".to_owned()),
        Just("svclb.io/local-source".to_owned()),
        "[a-z]{1,5}",
    ];
    option::of(proptest::collection::btree_map(key, text(), 0..5))
}

fn time() -> impl Strategy<Value = meta::Time> {
    // The years that RFC 3339 has.
    (0..253_000_000_000_i64).prop_map(|seconds| {
        serde_json::from_value(json!(
            jiff::Timestamp::from_second(seconds).unwrap().to_string()
        ))
        .unwrap()
    })
}

fn metadata() -> impl Strategy<Value = meta::ObjectMeta> {
    let names = (option::of(text()), option::of(text()), option::of(text()));
    let times = (option::of(time()), option::of(time()));
    (names, times, map(), map()).prop_map(|(names, times, labels, annotations)| meta::ObjectMeta {
        name: names.0,
        namespace: names.1,
        uid: names.2,
        resource_version: Some("7".to_owned()),
        creation_timestamp: times.0.clone(),
        deletion_timestamp: times.1,
        labels,
        annotations,
        managed_fields: Some(vec![meta::ManagedFieldsEntry {
            manager: Some("m".to_owned()),
            fields_v1: Some(meta::FieldsV1(json!({"f:spec": {"f:ports": {}}}))),
            time: times.0,
            ..meta::ManagedFieldsEntry::default()
        }]),
        ..meta::ObjectMeta::default()
    })
}

prop_compose! {
    fn service_port()(
        name in option::of(text()), protocol in option::of(text()), port in any::<i32>(),
        node_port in option::of(any::<i32>())
    ) -> core::ServicePort {
        core::ServicePort { name, protocol, port, node_port, ..core::ServicePort::default() }
    }
}

prop_compose! {
    fn spec()(
        ips in (option::of(text()), texts(), texts(), texts()),
        ports in option::of(vec(service_port().boxed(), 0..4)),
        words in (option::of(text()), option::of(text()), option::of(text()), option::of(text())),
        timeout in option::of(option::of(option::of(any::<i32>()))),
        health_check_node_port in option::of(any::<i32>())
    ) -> core::ServiceSpec {
        core::ServiceSpec {
            cluster_ip: ips.0,
            cluster_ips: ips.1,
            external_ips: ips.2,
            load_balancer_source_ranges: ips.3,
            ports,
            type_: words.0,
            session_affinity: words.1,
            internal_traffic_policy: words.2,
            external_traffic_policy: words.3,
            session_affinity_config: timeout.map(|client_ip| core::SessionAffinityConfig {
                client_ip: client_ip.map(|timeout_seconds| core::ClientIPConfig { timeout_seconds }),
            }),
            health_check_node_port,
            selector: Some([("app".to_owned(), "a".to_owned())].into()),
            ..core::ServiceSpec::default()
        }
    }
}

prop_compose! {
    fn service()(
        metadata in metadata().boxed(), spec in option::of(spec().boxed()),
        ingress in option::of(vec((option::of(text()), option::of(text())), 0..4)), at in time()
    ) -> core::Service {
        let ingress = ingress.map(|ingress| {
            let entries = ingress.into_iter().map(|(ip, ip_mode)| core::LoadBalancerIngress {
                ip,
                ip_mode,
                hostname: Some("h".to_owned()),
                ports: None,
            });
            entries.collect()
        });
        let status = core::ServiceStatus {
            load_balancer: Some(core::LoadBalancerStatus { ingress }),
            conditions: Some(vec![meta::Condition {
                last_transition_time: at,
                message: "m".to_owned(),
                observed_generation: None,
                reason: "R".to_owned(),
                status: "True".to_owned(),
                type_: "E2E".to_owned(),
            }]),
        };
        core::Service { metadata, spec, status: Some(status) }
    }
}

prop_compose! {
    fn endpoint()(
        addresses in vec(text(), 0..3), node_name in option::of(text()),
        conditions in option::of((any::<Option<bool>>(), any::<Option<bool>>(), any::<Option<bool>>())),
        hints in option::of((texts(), texts()))
    ) -> discovery::Endpoint {
        let zones = |names: Vec<String>| names.into_iter().map(|name| discovery::ForZone { name });
        let nodes = |names: Vec<String>| names.into_iter().map(|name| discovery::ForNode { name });
        discovery::Endpoint {
            addresses,
            node_name,
            conditions: conditions.map(|(ready, serving, terminating)| discovery::EndpointConditions {
                ready,
                serving,
                terminating,
            }),
            hints: hints.map(|(of_zones, of_nodes)| discovery::EndpointHints {
                for_zones: of_zones.map(|names| zones(names).collect()),
                for_nodes: of_nodes.map(|names| nodes(names).collect()),
            }),
            zone: Some("z".to_owned()),
            ..discovery::Endpoint::default()
        }
    }
}

prop_compose! {
    fn slice_port()(
        name in option::of(text()), protocol in option::of(text()), port in option::of(any::<i32>())
    ) -> discovery::EndpointPort {
        discovery::EndpointPort { name, protocol, port, app_protocol: None }
    }
}

prop_compose! {
    fn slice()(
        metadata in metadata().boxed(), endpoints in vec(endpoint().boxed(), 0..4),
        address_type in prop_oneof![Just("IPv4"), Just("IPv6"), Just("FQDN"), Just("")],
        ports in option::of(vec(slice_port(), 0..4))
    ) -> discovery::EndpointSlice {
        let address_type = address_type.to_owned();
        discovery::EndpointSlice { metadata, address_type, endpoints, ports }
    }
}

prop_compose! {
    fn node()(
        metadata in metadata().boxed(), taints in option::of(vec(text(), 0..3)),
        addresses in option::of(vec((text(), text()), 0..4)), at in time()
    ) -> core::Node {
        let taint = |key| core::Taint {
            key,
            effect: "NoSchedule".to_owned(),
            time_added: Some(at.clone()),
            ..core::Taint::default()
        };
        let address = |(type_, address)| core::NodeAddress { type_, address };
        core::Node {
            metadata,
            spec: Some(core::NodeSpec {
                taints: taints.map(|keys| keys.into_iter().map(taint).collect()),
                pod_cidr: Some("10.244.0.0/24".to_owned()),
                ..core::NodeSpec::default()
            }),
            status: Some(core::NodeStatus {
                addresses: addresses.map(|of| of.into_iter().map(address).collect()),
                ..core::NodeStatus::default()
            }),
        }
    }
}

// === The same by our types ===

trait OneOfOurs: KubeObject + PartialEq {
    type Of: Serialize + DeserializeOwned;

    /// What is served of it, and the problems that are named.
    fn converted(self) -> (Option<String>, Vec<String>);
}

fn lines(problems: Vec<convert::Problem>) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

macro_rules! ours {
    ($($type:ident $of:ty, $convert:ident)*) => { $(
        impl OneOfOurs for objects::$type {
            type Of = $of;

            fn converted(self) -> (Option<String>, Vec<String>) {
                let mut problems = Vec::new();
                let converted = convert::$convert(self, &Names::default(), &mut problems);
                (converted.map(|object| format!("{object:?}")), lines(problems))
            }
        }
    )* };
}

ours! {
    Service core::Service, service
    EndpointSlice discovery::EndpointSlice, endpoint_slice
    Node core::Node, node
}

/// Reads an object, and checks that it is served, or that something says why not.
fn read<T: OneOfOurs>(json: &Value) -> T {
    let read = objects::from_json::<T>(&json.to_string());
    let object = read.unwrap_or_else(|reason| panic!("{reason}: {json}"));
    let (served, problems) = object.clone().converted();
    let is_of_names = json["addressType"] == "FQDN";
    assert!(
        served.is_some() || !problems.is_empty() || is_of_names,
        "left out without a word: {json}"
    );
    for problem in problems {
        assert!(!problem.contains('\n'), "{problem:?} has several lines");
    }
    object
}

/// Both types agree wherever k8s-openapi's reads the object at all.
fn agree<T: OneOfOurs>(json: &Value) {
    let ours: T = read(json);
    if let Ok(theirs) = serde_json::from_value::<T::Of>(json.clone()) {
        let again = serde_json::to_value(theirs).unwrap();
        assert_eq!(ours.converted(), read::<T>(&again).converted(), "{json}");
    }
}

// === Every field null, absent, unknown ===

/// What becomes of a field.
#[derive(Clone, Copy, Debug)]
enum Edit {
    Null,
    Remove,
    Unknown,
}

/// The places of all fields and entries, as JSON pointers (RFC 6901).
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(key, of)| (key.clone(), of)).collect(),
        Value::Array(list) => (0..).map(|i: usize| i.to_string()).zip(list).collect(),
        _ => Vec::new(),
    };
    for (key, of) in children {
        let at = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
        places(of, &at, found);
        found.push(at);
    }
}

fn edit(json: &mut Value, at: &str, edit: Edit) {
    let (parent, key) = at.rsplit_once('/').unwrap();
    let key = key.replace("~1", "/").replace("~0", "~");
    // An edit before this one may have taken it away.
    match (json.pointer_mut(parent), edit) {
        (Some(Value::Object(map)), Edit::Null) => _ = map.insert(key, Value::Null),
        (Some(Value::Object(map)), Edit::Remove) => _ = map.remove(&key),
        (Some(Value::Object(map)), Edit::Unknown) => {
            map.insert(format!("{key}New"), json!({"a": [null, {"b": 1.5e300}]}));
        }
        (Some(Value::Array(list)), Edit::Null) => {
            let entry = list.get_mut(key.parse::<usize>().unwrap());
            entry.into_iter().for_each(|entry| *entry = Value::Null);
        }
        _ => {}
    }
}

fn edits() -> impl Strategy<Value = Vec<(prop::sample::Index, Edit)>> {
    let edit = prop_oneof![Just(Edit::Null), Just(Edit::Remove), Just(Edit::Unknown)];
    vec((any::<prop::sample::Index>(), edit), 0..6)
}

fn check<T: OneOfOurs>(of: &T::Of, edits: &[(prop::sample::Index, Edit)]) {
    let mut json = serde_json::to_value(of).unwrap();
    agree::<T>(&json);
    let mut found = Vec::new();
    places(&json, "", &mut found);
    for (index, what) in edits {
        let at: &String = index.get(&found);
        edit(&mut json, at, *what);
    }
    agree::<T>(&json);
}

proptest! {
    #[test]
    fn any_service_is_read(of in service(), edits in edits()) {
        check::<objects::Service>(&of, &edits);
    }

    #[test]
    fn any_slice_is_read(of in slice(), edits in edits()) {
        check::<objects::EndpointSlice>(&of, &edits);
    }

    #[test]
    fn any_node_is_read(of in node(), edits in edits()) {
        check::<objects::Node>(&of, &edits);
    }
}

fn full_service() -> Value {
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "n", "uid": "u", "resourceVersion": "5",
            "creationTimestamp": "2026-01-02T03:04:05Z", "labels": {"a": "b"},
            "annotations": {"svclb.io/local-source": "masquerade"}},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
            "externalIPs": ["192.0.2.1"], "loadBalancerSourceRanges": ["198.51.100.0/24"],
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": "http",
                "nodePort": 30080, "appProtocol": "http"}],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 32000, "ipFamilies": ["IPv4", "IPv6"], "selector": {"app": "web"}},
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1", "ipMode": "VIP"}]},
            "conditions": [{"type": "E2E", "status": "True", "reason": "R", "message": "m",
                "lastTransitionTime": "2026-01-02T03:04:05Z"}]}})
}

fn full_slice() -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "n", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "node1", "zone": "a",
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "node1"}]},
            "targetRef": {"kind": "Pod", "name": "p"}}],
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}]})
}

fn full_node() -> Value {
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "node1", "deletionTimestamp": "2026-01-02T03:04:05Z",
            "labels": {"topology.kubernetes.io/zone": "a"}},
        "spec": {"taints": [{"key": "k", "effect": "NoSchedule", "timeAdded": "2026-01-02T03:04:05Z"}]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}})
}

/// An object with all fields that are read, with each of them null, absent, unknown, and of every type.
fn check_every_field<T: OneOfOurs>(json: &Value) {
    agree::<T>(json);
    let mut found = Vec::new();
    places(json, "", &mut found);
    assert!(found.len() > 10);
    for at in found {
        for what in [Edit::Null, Edit::Remove, Edit::Unknown] {
            let mut json = json.clone();
            edit(&mut json, &at, what);
            agree::<T>(&json);
        }
        // No API server has these: read, or refused with the place of the field.
        for wrong in [
            json!(true),
            json!(-1.5),
            json!(u64::MAX),
            json!("x"),
            json!([[]]),
            json!({}),
        ] {
            let mut json = json.clone();
            *json.pointer_mut(&at).unwrap() = wrong;
            match objects::from_json::<T>(&json.to_string()) {
                Ok(object) => _ = object.converted(),
                Err(reason) => {
                    let first = at.split('/').nth(1).unwrap();
                    assert!(reason.starts_with(first), "{at}: {reason}");
                    assert!(!reason.contains("column"), "{reason}");
                }
            }
        }
    }
}

#[test]
fn every_field_may_be_null_absent_or_unknown() {
    check_every_field::<objects::Service>(&full_service());
    check_every_field::<objects::EndpointSlice>(&full_slice());
    check_every_field::<objects::Node>(&full_node());
}

#[test]
fn all_fields_are_read() {
    let (served, problems) = read::<objects::Service>(&full_service()).converted();
    assert_eq!(problems, [""; 0]);
    let served = served.unwrap();
    for part in [
        "n/web",
        "1767323045",
        "LoadBalancer",
        "10.96.0.1",
        "fd00::1",
        "192.0.2.1",
        "198.51.100.0/24",
        "203.0.113.1",
        "30080",
        "Some(60)",
        "32000",
        "Masquerade",
        "http",
    ] {
        assert!(served.contains(part), "{part} is not in {served}");
    }
    let (served, _) = read::<objects::EndpointSlice>(&full_slice()).converted();
    let served = served.unwrap();
    for part in [
        "n/web-1",
        "\"web\"",
        "10.0.0.1",
        "node1",
        "zones: [\"a\"]",
        "8080",
    ] {
        assert!(served.contains(part), "{part} is not in {served}");
    }
    let (served, _) = read::<objects::Node>(&full_node()).converted();
    let served = served.unwrap();
    for part in ["node1", "Some(\"a\")", "192.0.2.1", "being_deleted: true"] {
        assert!(served.contains(part), "{part} is not in {served}");
    }
}
