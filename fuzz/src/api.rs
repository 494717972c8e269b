//! Text of users and of API servers: manifests and objects.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use svclb_core::model::{Object, ObjectKey};
use svclb_source::convert::{self, Names};
use svclb_source::objects::{EndpointSlice, Node, Service, from_json};
use svclb_source::testing;

use crate::cluster::{Cluster, NODE};

/// More than that is slow, and no more likely to break anything.
const LONGEST: usize = 1 << 16;

/// Versions of one manifest, a zero byte between them: each takes the place of the one before.
/// Problems are sentences on one line.
pub fn manifests(bytes: &[u8]) {
    if bytes.len() > LONGEST {
        return;
    }
    let mut cluster = Cluster::new();
    cluster.synced();
    let mut before: BTreeMap<ObjectKey, Object> = BTreeMap::new();
    for text in bytes.split(|byte| *byte == 0) {
        let is_json = text.first() == Some(&b'{');
        let Ok(read) = testing::manifest(NODE, text, is_json) else {
            continue;
        };
        for problem in &read.problems {
            assert!(!problem.contains('\n'), "{problem:?} has several lines");
        }
        if read.is_broken {
            continue;
        }
        let now: BTreeMap<_, _> = read
            .objects
            .into_iter()
            .map(|object| (object.key(), object))
            .collect();
        for key in before.keys().filter(|key| !now.contains_key(key)) {
            cluster.observe(key.clone(), None);
        }
        for (key, object) in &now {
            if before.get(key) != Some(object) {
                cluster.observe(key.clone(), Some(object.clone()));
            }
        }
        before = now;
        assert!(cluster.write(None));
    }
    cluster.check();
}

/// An event of a watch (Kubernetes' `WatchEvent`).
#[derive(Deserialize)]
struct Watched {
    #[serde(rename = "type")]
    kind: String,
    object: Value,
}

/// Watch events, one JSON to a line.
pub fn objects(bytes: &[u8]) {
    if bytes.len() > LONGEST {
        return;
    }
    let names = Names::default();
    let mut cluster = Cluster::new();
    cluster.synced();
    for line in bytes.split(|byte| *byte == b'\n') {
        let Ok(event) = serde_json::from_slice::<Watched>(line) else {
            continue;
        };
        let Some(object) = converted(event.object, &names) else {
            continue;
        };
        let key = object.key();
        match event.kind.as_str() {
            "ADDED" | "MODIFIED" => cluster.observe(key, Some(object)),
            "DELETED" => cluster.observe(key, None),
            _ => continue,
        }
        assert!(cluster.write(None));
    }
    cluster.check();
}

fn converted(object: Value, names: &Names) -> Option<Object> {
    let mut problems = Vec::new();
    let kind = object.get("kind")?.as_str()?.to_owned();
    let json = object.to_string();
    let converted = match kind.as_str() {
        "Service" => {
            let from: Service = from_json(&json).ok()?;
            convert::service(from, names, &mut problems).map(Object::Service)
        }
        "EndpointSlice" => {
            let from: EndpointSlice = from_json(&json).ok()?;
            convert::endpoint_slice(from, names, &mut problems).map(Object::EndpointSlice)
        }
        "Node" => {
            let from: Node = from_json(&json).ok()?;
            let node = convert::node(from, names, &mut problems);
            node.filter(|node| &*node.name == NODE).map(Object::Node)
        }
        _ => None,
    };
    for problem in problems {
        let sentence = problem.to_string();
        assert!(!sentence.contains('\n'), "{sentence:?} has several lines");
    }
    converted
}
