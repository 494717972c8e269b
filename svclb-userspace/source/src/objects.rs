//! What load balancing needs of Kubernetes' objects, read as Go clients read them: every field may be
//! absent or null, and any other field may be there. Strict types would refuse a whole object, and with
//! it a list or a watch, for a field that is of no use here.
//!
//! What is left to refuse is a field of these that has another type. The API server stores none.

use std::fmt::Debug;

use serde::de::{Deserialize, DeserializeOwned, Deserializer};
use serde_json::Value;

/// Null is as if the field were absent.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A null in a list is as if it were an empty object, or an empty string.
fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    let entries = Option::<Vec<Option<T>>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(entries.into_iter().map(Option::unwrap_or_default).collect())
}

/// A key that is there, whatever its value: one that is null is as if it were an empty string.
fn there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    or_default(deserializer).map(Some)
}

/// Types with the fields that are read; every field may be absent or null.
macro_rules! objects {
    ($(
        $(#[$doc:meta])*
        struct $name:ident {
            $( $(#[$field_meta:meta])* $field:ident: $type:ty, )*
        }
    )*) => { $(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug, Default, serde::Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $type, )*
        }
    )* };
}

objects! {
    /// `metadata` of any object.
    struct Metadata {
        /// `name`.
        name: Option<String>,
        /// `namespace`.
        namespace: Option<String>,
        /// `uid`.
        uid: Option<String>,
        /// `resourceVersion`.
        resource_version: Option<String>,
        /// `creationTimestamp`, RFC 3339.
        creation_timestamp: Option<String>,
        /// `deletionTimestamp`, RFC 3339.
        deletion_timestamp: Option<String>,
        /// `labels`.
        #[serde(deserialize_with = "or_default")]
        labels: Labels,
        /// `annotations`.
        #[serde(deserialize_with = "or_default")]
        annotations: Annotations,
    }

    /// The labels that have a meaning here.
    struct Labels {
        /// Gives a Service to another proxy.
        #[serde(rename = "service.kubernetes.io/service-proxy-name", deserialize_with = "there")]
        service_proxy_name: Option<String>,
        /// Marks what no proxy serves.
        #[serde(rename = "service.kubernetes.io/headless", deserialize_with = "there")]
        headless: Option<String>,
        /// The name of the Service that a slice belongs to.
        #[serde(rename = "kubernetes.io/service-name")]
        service_name: Option<String>,
        /// Keeps Kubernetes from mirroring an Endpoints object.
        #[serde(rename = "endpointslice.kubernetes.io/skip-mirror")]
        skip_mirror: Option<String>,
        /// The zone of a Node.
        #[serde(rename = "topology.kubernetes.io/zone")]
        zone: Option<String>,
    }

    /// The annotations that have a meaning here.
    struct Annotations {
        /// What a Service's backends see of their clients.
        #[serde(rename = "svclb.io/local-source")]
        local_source: Option<String>,
    }

    /// `v1 Service`.
    struct Service {
        /// `apiVersion`; objects in a list lack it.
        api_version: Option<String>,
        /// `kind`; objects in a list lack it.
        kind: Option<String>,
        /// `metadata`.
        #[serde(deserialize_with = "or_default")]
        metadata: Metadata,
        /// `spec`.
        #[serde(deserialize_with = "or_default")]
        spec: ServiceSpec,
        /// `status`.
        #[serde(deserialize_with = "or_default")]
        status: ServiceStatus,
    }

    /// `spec` of a Service.
    struct ServiceSpec {
        /// `type`.
        #[serde(rename = "type")]
        type_: Option<String>,
        /// `clusterIP`.
        #[serde(rename = "clusterIP")]
        cluster_ip: Option<String>,
        /// `clusterIPs`.
        #[serde(rename = "clusterIPs", deserialize_with = "list")]
        cluster_ips: Vec<String>,
        /// `externalIPs`.
        #[serde(rename = "externalIPs", deserialize_with = "list")]
        external_ips: Vec<String>,
        /// `loadBalancerSourceRanges`.
        #[serde(deserialize_with = "list")]
        load_balancer_source_ranges: Vec<String>,
        /// `ports`.
        #[serde(deserialize_with = "list")]
        ports: Vec<ServicePort>,
        /// `sessionAffinity`.
        session_affinity: Option<String>,
        /// `sessionAffinityConfig`.
        #[serde(deserialize_with = "or_default")]
        session_affinity_config: SessionAffinityConfig,
        /// `internalTrafficPolicy`.
        internal_traffic_policy: Option<String>,
        /// `externalTrafficPolicy`.
        external_traffic_policy: Option<String>,
        /// `healthCheckNodePort`.
        health_check_node_port: Option<i64>,
    }

    /// An entry of a Service's `spec.ports`.
    struct ServicePort {
        /// `name`.
        name: Option<String>,
        /// `protocol`.
        protocol: Option<String>,
        /// `port`.
        #[serde(deserialize_with = "or_default")]
        port: i64,
        /// `nodePort`.
        node_port: Option<i64>,
    }

    /// `spec.sessionAffinityConfig` of a Service.
    struct SessionAffinityConfig {
        /// `clientIP`.
        #[serde(rename = "clientIP", deserialize_with = "or_default")]
        client_ip: ClientIp,
    }

    /// `spec.sessionAffinityConfig.clientIP` of a Service.
    struct ClientIp {
        /// `timeoutSeconds`.
        timeout_seconds: Option<i64>,
    }

    /// `status` of a Service.
    struct ServiceStatus {
        /// `loadBalancer`.
        #[serde(deserialize_with = "or_default")]
        load_balancer: LoadBalancer,
    }

    /// `status.loadBalancer` of a Service.
    struct LoadBalancer {
        /// `ingress`.
        #[serde(deserialize_with = "list")]
        ingress: Vec<Ingress>,
    }

    /// An address that a load balancer announced.
    struct Ingress {
        /// `ip`.
        ip: Option<String>,
        /// `ipMode`.
        ip_mode: Option<String>,
    }

    /// `discovery.k8s.io/v1 EndpointSlice`.
    struct EndpointSlice {
        /// `apiVersion`; objects in a list lack it.
        api_version: Option<String>,
        /// `kind`; objects in a list lack it.
        kind: Option<String>,
        /// `metadata`.
        #[serde(deserialize_with = "or_default")]
        metadata: Metadata,
        /// `addressType`.
        address_type: Option<String>,
        /// `endpoints`.
        #[serde(deserialize_with = "list")]
        endpoints: Vec<Endpoint>,
        /// `ports`.
        #[serde(deserialize_with = "list")]
        ports: Vec<EndpointPort>,
    }

    /// An endpoint of a slice.
    struct Endpoint {
        /// `addresses`.
        #[serde(deserialize_with = "list")]
        addresses: Vec<String>,
        /// `conditions`.
        #[serde(deserialize_with = "or_default")]
        conditions: Conditions,
        /// `hints`.
        #[serde(deserialize_with = "or_default")]
        hints: Hints,
        /// `nodeName`.
        node_name: Option<String>,
    }

    /// `conditions` of an endpoint.
    struct Conditions {
        /// `ready`.
        ready: Option<bool>,
        /// `serving`.
        serving: Option<bool>,
        /// `terminating`.
        terminating: Option<bool>,
    }

    /// `hints` of an endpoint.
    struct Hints {
        /// `forZones`.
        #[serde(deserialize_with = "list")]
        for_zones: Vec<Hint>,
        /// `forNodes`.
        #[serde(deserialize_with = "list")]
        for_nodes: Vec<Hint>,
    }

    /// A zone or a node.
    struct Hint {
        /// `name`.
        #[serde(deserialize_with = "or_default")]
        name: String,
    }

    /// A port of a slice or of an Endpoints' subset.
    struct EndpointPort {
        /// `name`.
        name: Option<String>,
        /// `protocol`.
        protocol: Option<String>,
        /// `port`.
        port: Option<i64>,
    }

    /// `v1 Endpoints`.
    struct Endpoints {
        /// `apiVersion`; objects in a list lack it.
        api_version: Option<String>,
        /// `kind`; objects in a list lack it.
        kind: Option<String>,
        /// `metadata`.
        #[serde(deserialize_with = "or_default")]
        metadata: Metadata,
        /// `subsets`.
        #[serde(deserialize_with = "list")]
        subsets: Vec<Subset>,
    }

    /// A subset of an Endpoints object.
    struct Subset {
        /// `addresses`.
        #[serde(deserialize_with = "list")]
        addresses: Vec<EndpointAddress>,
        /// `notReadyAddresses`.
        #[serde(deserialize_with = "list")]
        not_ready_addresses: Vec<EndpointAddress>,
        /// `ports`.
        #[serde(deserialize_with = "list")]
        ports: Vec<EndpointPort>,
    }

    /// An address of a subset.
    struct EndpointAddress {
        /// `ip`.
        #[serde(deserialize_with = "or_default")]
        ip: String,
        /// `nodeName`.
        node_name: Option<String>,
    }

    /// `v1 Node`.
    struct Node {
        /// `apiVersion`; objects in a list lack it.
        api_version: Option<String>,
        /// `kind`; objects in a list lack it.
        kind: Option<String>,
        /// `metadata`.
        #[serde(deserialize_with = "or_default")]
        metadata: Metadata,
        /// `spec`.
        #[serde(deserialize_with = "or_default")]
        spec: NodeSpec,
        /// `status`.
        #[serde(deserialize_with = "or_default")]
        status: NodeStatus,
    }

    /// `spec` of a Node.
    struct NodeSpec {
        /// `taints`.
        #[serde(deserialize_with = "list")]
        taints: Vec<Taint>,
    }

    /// A taint of a Node.
    struct Taint {
        /// `key`.
        #[serde(deserialize_with = "or_default")]
        key: String,
    }

    /// `status` of a Node.
    struct NodeStatus {
        /// `addresses`.
        #[serde(deserialize_with = "list")]
        addresses: Vec<NodeAddress>,
    }

    /// An address of a Node.
    struct NodeAddress {
        /// `type`.
        #[serde(rename = "type", deserialize_with = "or_default")]
        type_: String,
        /// `address`.
        #[serde(deserialize_with = "or_default")]
        address: String,
    }
}

/// One of the kinds above.
pub trait KubeObject: Clone + Debug + Default + DeserializeOwned + Send + 'static {
    /// `apiVersion` of the kind.
    const API_VERSION: &'static str;
    /// `kind`.
    const KIND: &'static str;
    /// `metadata` of the object.
    fn metadata(&self) -> &Metadata;
    /// `apiVersion` and `kind` of the object, as far as they are there.
    fn type_meta(&self) -> [Option<&str>; 2];
}

macro_rules! kube_objects {
    ($( $type:ident $version:literal )*) => { $(
        impl KubeObject for $type {
            const API_VERSION: &'static str = $version;
            const KIND: &'static str = stringify!($type);
            fn metadata(&self) -> &Metadata {
                &self.metadata
            }
            fn type_meta(&self) -> [Option<&str>; 2] {
                [self.api_version.as_deref(), self.kind.as_deref()]
            }
        }
    )* };
}

kube_objects! { Service "v1" EndpointSlice "discovery.k8s.io/v1" Endpoints "v1" Node "v1" }

/// Reads an object from JSON.
///
/// # Errors
/// One line: the field that has another type than it should, and what stands there.
pub fn from_json<T: DeserializeOwned>(json: &str) -> Result<T, String> {
    // To know the path of a field costs more than to read the object.
    serde_json::from_str(json).or_else(|_| {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let read = serde_path_to_error::deserialize(&mut deserializer);
        let read = read.map_err(|error| json_error(&error.to_string()))?;
        let rest = deserializer.end();
        rest.map_err(|error| json_error(&error.to_string()))?;
        Ok(read)
    })
}

/// An error of `serde_json` on one line, without the place of it in a text of one line.
fn json_error(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let line = match line.rsplit_once(" at line 1 column ") {
        Some((line, _)) => line,
        None => line,
    };
    line.trim().to_owned()
}

/// What names an object that cannot be read.
pub(crate) fn metadata_of_unreadable(json: &str) -> Metadata {
    let value = serde_json::from_str::<Value>(json).unwrap_or_default();
    let metadata = &value["metadata"];
    let field = |name| metadata[name].as_str().map(str::to_owned);
    Metadata {
        name: field("name"),
        namespace: field("namespace"),
        uid: field("uid"),
        resource_version: field("resourceVersion"),
        ..Metadata::default()
    }
}
