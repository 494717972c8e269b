//! The manifests of the matrix.

use std::net::IpAddr;

use serde_json::{Map, Value, json};
use svclb_tests::Pod;
use svclb_tests::manifests::Service;

use super::Asked;
use super::oracle::{Endpoint, Place, Policy};
use crate::lab::scene::TARGET;

/// A Node with the label that says its zone.
pub(crate) fn node(place: Place) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": place.node,
            "labels": { "topology.kubernetes.io/zone": place.zone },
        },
    })
}

impl Asked {
    /// The Service, and a slice for each family unless it has no endpoint at all.
    pub(crate) fn objects(&self, backends: &[Pod]) -> Vec<Value> {
        let [v4, v6] = self.at;
        let name = format!("at-{v4}").replace('.', "-");
        let service = Service::new(&name)
            .at(v4)
            .at(v6)
            .tcp(80, TARGET)
            .udp(80, TARGET);
        let mut object = service.object();
        if self.policy == Policy::Local {
            object["spec"]["internalTrafficPolicy"] = json!("Local");
        }
        let mut objects = vec![object];
        for like in self.at {
            objects.extend(slice(&service, &self.endpoints, backends, like));
        }
        objects
    }
}

/// The slice of a family, unless there is no endpoint.
pub(crate) fn slice(
    service: &Service,
    endpoints: &[Endpoint],
    backends: &[Pod],
    like: IpAddr,
) -> Option<Value> {
    let named = |endpoint: &Endpoint| {
        let pod = backends.iter().find(|pod| pod.name() == endpoint.name);
        pod.unwrap().ip_like(like)
    };
    let ips: Vec<_> = endpoints.iter().map(named).collect();
    if ips.is_empty() {
        return None;
    }
    let mut slice = service.slice(&ips);
    let entries = endpoints.iter().zip(ips);
    slice["endpoints"] = entries.map(|(from, ip)| entry(from, json!([ip]))).collect();
    Some(slice)
}

/// An entry of an EndpointSlice, without the fields that it does not have.
fn entry(endpoint: &Endpoint, addresses: Value) -> Value {
    let names = |names: &[&str]| names.iter().map(|name| json!({ "name": name })).collect();
    let conditions = there([
        ("ready", endpoint.ready.map(Value::from)),
        ("serving", endpoint.serving.map(Value::from)),
        ("terminating", endpoint.terminating.map(Value::from)),
    ]);
    let hints = there([
        ("forZones", endpoint.for_zones.map(names)),
        ("forNodes", endpoint.for_nodes.map(names)),
    ]);
    there([
        ("addresses", Some(addresses)),
        ("conditions", Some(conditions)),
        ("hints", Some(hints).filter(|hints| *hints != json!({}))),
        ("nodeName", endpoint.node.map(Value::from)),
    ])
}

/// An object of the fields that are there.
fn there<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let fields = fields.into_iter();
    let there = fields.filter_map(|(name, value)| Some((name.to_owned(), value?)));
    there.collect::<Map<_, _>>().into()
}
