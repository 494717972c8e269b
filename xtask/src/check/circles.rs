//! No circle between the modules of a crate: each can be read with only those below it in mind.
//!
//! A module depends on another when it names it by a path, in a `use` or anywhere else. A name that a
//! module hands on from below itself (`pub use child::Name`) counts as what it stands for, and handing
//! it on as no dependency. Tests count for nothing.

mod read;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use crate::workspace;
use read::{Module, Path};

/// The crates that are held to it, and the file that each begins with.
const CRATES: &[&str] = &[
    "svclb-common/src/lib.rs",
    "svclb-ebpf/packet/src/lib.rs",
    "svclb-ebpf/src/main.rs",
    "svclb-userspace/core/src/lib.rs",
    "svclb-userspace/dataplane/src/lib.rs",
    "xtask/src/main.rs",
];

pub(super) fn check() -> Result<()> {
    for root in CRATES {
        let modules = read::crate_modules(&workspace::root().join(root))?;
        if let Some(circle) = circle(&dependencies(&modules)) {
            let names: Vec<_> = circle.iter().map(shown).collect();
            bail!(
                "{root}: modules depend on each other in a circle: {}; move what both need into a \
                 module of its own",
                names.join(" → ")
            );
        }
    }
    Ok(())
}

fn shown(path: &Path) -> String {
    if path.is_empty() {
        "the root".to_owned()
    } else {
        path.join("::")
    }
}

/// The modules that each one names, apart from itself.
fn dependencies(modules: &BTreeMap<Path, Module>) -> BTreeMap<Path, BTreeSet<Path>> {
    let of = |(path, module): (&Path, &Module)| {
        let named = module.paths.iter().map(|named| resolve(modules, named));
        let others = named.filter(|other| other != path).collect();
        (path.clone(), others)
    };
    modules.iter().map(of).collect()
}

/// The module that a path from the root leads to, or in which its item is.
fn resolve(modules: &BTreeMap<Path, Module>, named: &[String]) -> Path {
    let mut named = named.to_vec();
    // Each turn leads further down, so that there are no more turns than modules.
    for _ in 0..=modules.len() {
        let lengths = (0..=named.len()).rev();
        let mut prefixes = lengths.map(|length| named[..length].to_vec());
        let module = prefixes
            .find(|path| modules.contains_key(path))
            .unwrap_or_default();
        let item = named.get(module.len());
        let handed_on = item.and_then(|item| modules.get(&module)?.handed_on.get(item));
        match handed_on {
            Some(place) => {
                named = [place.as_slice(), &named[module.len() + 1..]].concat();
            }
            None => return module,
        }
    }
    named
}

/// A shortest way from a module back to itself; its first and last are the same.
fn circle(edges: &BTreeMap<Path, BTreeSet<Path>>) -> Option<Vec<Path>> {
    edges
        .keys()
        .filter_map(|start| way_back(edges, start))
        .min_by_key(Vec::len)
}

fn way_back(edges: &BTreeMap<Path, BTreeSet<Path>>, start: &Path) -> Option<Vec<Path>> {
    let mut ways = std::collections::VecDeque::from([vec![start.clone()]]);
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop_front() {
        for next in edges.get(way.last()?).into_iter().flatten() {
            let longer = [way.as_slice(), std::slice::from_ref(next)].concat();
            if next == start {
                return Some(longer);
            }
            if seen.insert(next.clone()) {
                ways.push_back(longer);
            }
        }
    }
    None
}
