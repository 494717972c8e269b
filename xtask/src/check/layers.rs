//! Which crate may depend on which: dependencies flow one way.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{process, workspace};

/// A crate, and what it may not reach, directly or through others, with the reason.
const FORBIDDEN: [(&str, &[&str], &str); 6] = [
    (
        "svclb-common",
        &["aya", "aya-ebpf", "kube", "tokio", "serde"],
        "it is the contract of both halves and builds for the BPF target",
    ),
    (
        "svclb-packet",
        &["aya", "aya-ebpf", "kube", "tokio", "libc"],
        "it builds for the BPF target and, over a plain buffer, for the host",
    ),
    (
        "svclb-core",
        &["aya", "kube", "k8s-openapi", "tokio", "tracing", "libc"],
        "it is pure: no I/O, no clock, no kernel",
    ),
    (
        "svclb-source",
        &["aya", "svclb-dataplane"],
        "it knows nothing of the kernel",
    ),
    (
        "svclb-dataplane",
        &["kube", "k8s-openapi", "tokio", "svclb-source"],
        "it knows nothing of Kubernetes",
    ),
    (
        "xtask",
        &["tokio", "kube", "aya"],
        "every command compiles it first",
    ),
];

pub(super) fn check() -> Result<()> {
    let metadata = process::output(
        process::cargo()
            .args(["metadata", "--format-version=1", "--filter-platform"])
            .arg(workspace::static_target()),
    )?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is no JSON")?;
    let edges = edges(&metadata);
    for (package, forbidden, reason) in FORBIDDEN {
        let reached = reach(&edges, package);
        for name in forbidden {
            if reached.contains(*name) {
                bail!("{package} depends on {name}, and must not: {reason}");
            }
        }
    }
    Ok(())
}

/// The ordinary dependencies of each package, by name.
fn edges(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let names: BTreeMap<_, _> = list(&metadata["packages"])
        .iter()
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect();
    list(&metadata["resolve"]["nodes"])
        .iter()
        .map(|node| {
            let ordinary: BTreeSet<String> = list(&node["deps"])
                .iter()
                .filter(|dep| {
                    list(&dep["dep_kinds"])
                        .iter()
                        .any(|kind| kind["kind"].is_null())
                })
                .filter_map(|dep| names.get(&text(&dep["pkg"])).cloned())
                .collect();
            (
                names.get(&text(&node["id"])).cloned().unwrap_or_default(),
                ordinary,
            )
        })
        .fold(
            BTreeMap::new(),
            |mut all: BTreeMap<String, BTreeSet<String>>, (name, deps)| {
                all.entry(name).or_default().extend(deps);
                all
            },
        )
}

fn reach(edges: &BTreeMap<String, BTreeSet<String>>, from: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut next = vec![from.to_owned()];
    while let Some(name) = next.pop() {
        for dep in edges.get(&name).into_iter().flatten() {
            if reached.insert(dep.clone()) {
                next.push(dep.clone());
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reached_through_another_crate_counts() {
        let edges = BTreeMap::from([
            ("core".to_owned(), BTreeSet::from(["middle".to_owned()])),
            ("middle".to_owned(), BTreeSet::from(["tokio".to_owned()])),
        ]);
        assert!(reach(&edges, "core").contains("tokio"));
        assert!(!reach(&edges, "middle").contains("core"));
    }
}
