//! An endpoint with all that a slice may say of it, and the node that reads the hints.

use std::net::IpAddr;

use serde_json::{Value, json};

/// An entry of an EndpointSlice in the making.
#[derive(Clone, Debug)]
pub struct Endpoint {
    ip: IpAddr,
    node: Option<String>,
    ready: bool,
    serving: bool,
    terminating: bool,
    for_zones: Vec<String>,
    for_nodes: Vec<String>,
}

impl Endpoint {
    /// One that is ready, on `node1`.
    pub fn new(ip: impl Into<IpAddr>) -> Self {
        Self {
            ip: ip.into(),
            node: Some("node1".to_owned()),
            ready: true,
            serving: true,
            terminating: false,
            for_zones: Vec::new(),
            for_nodes: Vec::new(),
        }
    }

    /// Its address.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// On another node.
    #[must_use]
    pub fn on(mut self, node: &str) -> Self {
        self.node = Some(node.to_owned());
        self
    }

    /// Without the name of its node, as people write them by hand.
    #[must_use]
    pub fn on_no_node(mut self) -> Self {
        self.node = None;
        self
    }

    /// Neither ready nor serving.
    #[must_use]
    pub fn unready(mut self) -> Self {
        (self.ready, self.serving) = (false, false);
        self
    }

    /// On its way out, and still serving or not.
    #[must_use]
    pub fn terminating(mut self, serving: bool) -> Self {
        (self.ready, self.serving, self.terminating) = (false, serving, true);
        self
    }

    /// With a hint that it is for a zone.
    #[must_use]
    pub fn for_zone(mut self, zone: &str) -> Self {
        self.for_zones.push(zone.to_owned());
        self
    }

    /// With a hint that it is for a node.
    #[must_use]
    pub fn for_node(mut self, node: &str) -> Self {
        self.for_nodes.push(node.to_owned());
        self
    }

    /// As a slice has it.
    pub fn object(&self) -> Value {
        let mut object = json!({
            "addresses": [self.ip],
            "conditions": { "ready": self.ready },
        });
        if let Some(node) = &self.node {
            object["nodeName"] = json!(node);
        }
        // Those of a ready endpoint follow from that, and hand-written slices lack them.
        if !self.ready {
            object["conditions"]["serving"] = json!(self.serving);
            object["conditions"]["terminating"] = json!(self.terminating);
        }
        for (field, names) in [("forZones", &self.for_zones), ("forNodes", &self.for_nodes)] {
            if !names.is_empty() {
                let names: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
                object["hints"][field] = names.into();
            }
        }
        object
    }
}

/// A Node object in a zone.
pub fn node(name: &str, zone: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "topology.kubernetes.io/zone": zone,
            },
        },
    })
}
