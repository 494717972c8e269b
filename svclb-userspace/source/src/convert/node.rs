use k8s_openapi::api::core::v1 as core;
use svclb_core::model::Node;

use super::{Names, Problem, address};

/// What the cluster autoscaler taints a node with before it removes it (KEP-3836).
const SCALED_DOWN: &str = "ToBeDeletedByClusterAutoscaler";

/// A Node: its zone, its internal addresses, and whether it is about to go. `None`, with a
/// problem, without a name.
pub fn node(from: core::Node, names: &Names, problems: &mut Vec<Problem>) -> Option<Node> {
    let Some(name) = from.metadata.name else {
        problems.push(Problem::new("metadata.name", "missing; ignored"));
        return None;
    };
    let mut internal_ips = Vec::new();
    let addresses = from.status.and_then(|status| status.addresses);
    for (index, entry) in addresses.into_iter().flatten().enumerate() {
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
    let taints = from.spec.and_then(|spec| spec.taints).unwrap_or_default();
    let labels = from.metadata.labels.unwrap_or_default();
    Some(Node {
        name: names.get(&name),
        zone: labels
            .get("topology.kubernetes.io/zone")
            .map(|zone| names.get(zone)),
        internal_ips,
        being_deleted: from.metadata.deletion_timestamp.is_some(),
        scaled_down: taints.iter().any(|taint| taint.key == SCALED_DOWN),
    })
}
