//! What load balancing needs to know of Kubernetes, in its words and without its types.
//!
//! Sources fill these in; [`crate::plan`] gives them their meaning. Nothing here decides
//! anything: a terminating endpoint is recorded as terminating, and the plan decides whether
//! it is used.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use svclb_common::Proto;

/// The name of a namespaced object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl ObjectName {
    /// A name from its two parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `Service.spec.type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ServiceType {
    /// Reachable at its cluster IPs.
    #[default]
    ClusterIp,
    /// Also at a port of every node.
    NodePort,
    /// Also at the addresses that a load balancer announced.
    LoadBalancer,
    /// A DNS alias; never proxied, whatever addresses it still carries.
    ExternalName,
}

/// `internalTrafficPolicy` or `externalTrafficPolicy`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TrafficPolicy {
    /// Any endpoint.
    #[default]
    Cluster,
    /// Endpoints on this node only.
    Local,
}

/// One entry of `Service.spec.ports`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePort {
    /// `name`; empty for an unnamed port. Endpoint ports are matched by it.
    pub name: Arc<str>,
    /// `port`, 1 to 65535.
    pub port: u16,
    /// `protocol`.
    pub proto: Proto,
    /// `nodePort`; zero if there is none.
    pub node_port: u16,
}

/// A Service, as far as it concerns a proxy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Its name.
    pub name: ObjectName,
    /// `metadata.creationTimestamp` in seconds since the epoch. Of two Services that
    /// want one address and port the older one is served; zero if unset.
    pub created: i64,
    /// `spec.type`.
    pub kind: ServiceType,
    /// `spec.clusterIPs` (or `clusterIP`), without `None` and empty strings.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` whose `ipMode` is not `Proxy`.
    pub ingress_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`, of both families. The clients that may use
    /// `ingress_ips`; every client of a family that it does not name.
    pub source_ranges: Vec<IpNet>,
    /// `spec.ports`; no two have the same name and protocol.
    pub ports: Vec<ServicePort>,
    /// `sessionAffinityConfig.clientIP.timeoutSeconds` with `sessionAffinity: ClientIP`
    /// (10,800 if unset); `None` without affinity.
    pub affinity_seconds: Option<u32>,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`.
    pub external_policy: TrafficPolicy,
    /// `spec.healthCheckNodePort`; zero if there is none.
    pub health_check_node_port: u16,
    /// The annotation `svclb.io/local-source`; `None` without it.
    pub local_source: Option<LocalSource>,
}

/// `--local-source`, and the annotation `svclb.io/local-source`: which address a backend on this node
/// sees of a client outside, with `externalTrafficPolicy: Cluster`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LocalSource {
    /// The client's own.
    #[default]
    Keep,
    /// One of the node, as with kube-proxy: for pods whose route to the client passes the node by, and
    /// policies that admit nodes alone.
    Masquerade,
}

impl FromStr for LocalSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "keep" => Ok(Self::Keep),
            "masquerade" => Ok(Self::Masquerade),
            other => Err(format!("{other:?} is neither keep nor masquerade")),
        }
    }
}

impl Service {
    /// Whether it has addresses for clients outside the cluster.
    pub fn is_reached_from_outside(&self) -> bool {
        let has_type = matches!(self.kind, ServiceType::NodePort | ServiceType::LoadBalancer);
        has_type || !self.external_ips.is_empty()
    }
}

/// `EndpointSlice.addressType`, without FQDN.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// One entry of `EndpointSlice.ports` that has a name and a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointPort {
    /// `name`; the empty string is the unnamed port.
    pub name: Arc<str>,
    /// `port`, 1 to 65535.
    pub port: u16,
    /// `protocol`.
    pub proto: Proto,
}

/// `EndpointSlice.endpoints[].conditions`, with the defaults of discovery.k8s.io/v1 for what is unset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conditions {
    /// `ready`; unset means true.
    pub ready: bool,
    /// `serving`; unset means true.
    pub serving: bool,
    /// `terminating`; unset means false.
    pub terminating: bool,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            ready: true,
            serving: true,
            terminating: false,
        }
    }
}

/// One entry of `EndpointSlice.endpoints`, with its first address (the others are ignored by every proxy).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// `addresses[0]`.
    pub addr: IpAddr,
    /// `conditions`.
    pub conditions: Conditions,
    /// `nodeName`. Shared between endpoints: a source hands out one string for each node.
    pub node: Option<Arc<str>>,
    /// `hints`; `None` where there are none.
    pub hints: Option<Box<Hints>>,
}

/// `EndpointSlice.endpoints[].hints`: for whom the endpoint is meant.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Hints {
    /// `forZones[].name`.
    pub zones: Vec<Arc<str>>,
    /// `forNodes[].name` (Kubernetes 1.33, KEP-3015).
    pub nodes: Vec<Arc<str>>,
}

/// An EndpointSlice of a Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointSlice {
    /// Its own name. Its namespace is the Service's too.
    pub name: ObjectName,
    /// The label `kubernetes.io/service-name`.
    pub service: Arc<str>,
    /// `addressType`.
    pub family: Family,
    /// `ports`.
    pub ports: Vec<EndpointPort>,
    /// `endpoints`.
    pub endpoints: Vec<Endpoint>,
}

/// This node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Node {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// The label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// `status.addresses` of type InternalIP.
    pub internal_ips: Vec<IpAddr>,
    /// Whether `metadata.deletionTimestamp` is set.
    pub being_deleted: bool,
    /// Whether it has the taint `ToBeDeletedByClusterAutoscaler`.
    pub scaled_down: bool,
}

/// The configuration of this node that is in no object: from the agent's flags and the node's
/// devices.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeConfig {
    /// The addresses at which NodePorts are served, of both families.
    pub node_port_ips: Vec<IpAddr>,
    /// Whether `Service.spec.externalIPs` are served.
    pub external_ips: bool,
    /// The addresses that the node has on its devices, of both families.
    pub own_ips: BTreeSet<IpAddr>,
    /// What a backend on this node sees of a client outside, unless the Service says otherwise.
    pub local_source: LocalSource,
}

/// An object of a source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Object {
    /// A Service.
    Service(Service),
    /// An EndpointSlice, or a v1 Endpoints object in the form of one.
    EndpointSlice(EndpointSlice),
    /// This node's Node object.
    Node(Node),
}

/// What names an object of a source.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ObjectKey {
    /// A Service.
    Service(ObjectName),
    /// An EndpointSlice.
    EndpointSlice(ObjectName),
    /// This node.
    Node,
}

impl Object {
    /// What names it.
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Service(service) => ObjectKey::Service(service.name.clone()),
            Self::EndpointSlice(slice) => ObjectKey::EndpointSlice(slice.name.clone()),
            Self::Node(_) => ObjectKey::Node,
        }
    }
}

/// One change that a source reports. Both sources report the same changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The object is new, or is now like this.
    Apply(Object),
    /// The object is gone, or is no longer for this proxy.
    Delete(ObjectKey),
    /// Everything that exists has been reported at least once. Sent once, after the first
    /// full listing: until then nothing may be removed from the maps.
    Synced,
}
