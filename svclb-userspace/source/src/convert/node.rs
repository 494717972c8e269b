use svclb_core::model::Node;

use super::{Names, Problem, address};
use crate::objects;

/// What the cluster autoscaler taints a node with before it removes it (KEP-3836).
const SCALED_DOWN: &str = "ToBeDeletedByClusterAutoscaler";

/// A Node: its zone, its internal addresses, and whether it is about to go. `None`, with a
/// problem, without a name.
pub fn node(from: objects::Node, names: &Names, problems: &mut Vec<Problem>) -> Option<Node> {
    let Some(name) = from.metadata.name else {
        problems.push(Problem::new("metadata.name", "missing; ignored"));
        return None;
    };
    let mut internal_ips = Vec::new();
    for (index, entry) in from.status.addresses.into_iter().enumerate() {
        if entry.type_ != "InternalIP" {
            continue;
        }
        match address(&entry.address) {
            Some(ip) => internal_ips.push(ip),
            None => problems.push(Problem::new(
                format!("status.addresses[{index}].address"),
                format!("{:?} is no IP address; left out", entry.address),
            )),
        }
    }
    Some(Node {
        name: names.get(&name),
        zone: from.metadata.labels.zone.map(|zone| names.get(&zone)),
        internal_ips,
        being_deleted: from.metadata.deletion_timestamp.is_some(),
        scaled_down: from
            .spec
            .taints
            .iter()
            .any(|taint| taint.key == SCALED_DOWN),
    })
}
