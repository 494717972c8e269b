//! Removing what a killed run left behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, umount2};

use crate::machine::{Machine, RUN};
use crate::{cgroup, netns};

/// What every prefix begins with.
pub(crate) const FAMILY: &str = "svclb-lab";

/// The file that says that a lab outlives its process on purpose.
const KEPT: &str = "kept";

/// The process that a prefix (`svclb-lab-<pid>-<n>…`) belongs to.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(FAMILY)?
        .strip_prefix('-')?
        .split('-')
        .next()?
        .parse()
        .ok()
}

/// `svclb-lab-<pid>-<n>` out of a name that begins with it.
fn prefix_of(name: &str) -> Option<String> {
    owner(name)?;
    let mut end = name.match_indices('-').skip(3).map(|(at, _)| at);
    Some(name[..end.next().unwrap_or(name.len())].to_owned())
}

/// Marks a lab as one that is to stay.
pub(crate) fn keep(prefix: &str) -> Result<()> {
    let marker = Path::new(RUN).join(prefix).join(KEPT);
    fs::write(&marker, "").with_context(|| format!("cannot write {}", marker.display()))
}

/// The labs that are to stay.
pub(crate) fn kept() -> Vec<String> {
    names_in(Path::new(RUN))
        .into_iter()
        .filter(|name| owner(name).is_some() && Path::new(RUN).join(name).join(KEPT).exists())
        .collect()
}

/// One at a time: labs of one process that are made together find the same ones.
static SWEEPING: Mutex<()> = Mutex::new(());

/// Removes the labs of processes that are gone.
pub(crate) fn sweep(machine: &Machine) -> Result<()> {
    let _sweeping = SWEEPING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut prefixes: Vec<String> = places(machine)
        .iter()
        .flat_map(|place| names_in(place))
        .filter_map(|name| prefix_of(&name))
        .filter(|prefix| {
            owner(prefix).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
                && !Path::new(RUN).join(prefix).join(KEPT).exists()
        })
        .collect();
    prefixes.sort();
    prefixes.dedup();
    for prefix in prefixes {
        eprintln!("lab: removing {prefix}, whose process is gone");
        remove(machine, &prefix)?;
    }
    Ok(())
}

/// Removes everything that carries a prefix.
pub(crate) fn remove(machine: &Machine, prefix: &str) -> Result<()> {
    for hierarchy in cgroups(machine) {
        cgroup::remove_tree(&hierarchy.join(prefix))?;
    }
    for path in carrying(&machine.bpffs, prefix) {
        fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    for path in carrying(Path::new(netns::DIR), prefix) {
        netns::remove(&path);
    }
    let run = Path::new(RUN).join(prefix);
    // Mounts that `prepare_machine` made for a lab whose process was killed. Only this
    // lab's own folder is looked at; EINVAL where nothing is mounted.
    for private in ["bpf", "cgroup"] {
        umount2(&run.join(private), MntFlags::MNT_DETACH).ok();
    }
    if run.exists() {
        fs::remove_dir_all(&run).with_context(|| format!("cannot remove {}", run.display()))?;
    }
    drop(fs::remove_dir(RUN));
    Ok(())
}

/// What of a lab is still there.
pub(crate) fn leftovers(machine: &Machine, prefix: &str) -> Vec<PathBuf> {
    places(machine)
        .iter()
        .flat_map(|place| carrying(place, prefix))
        .collect()
}

fn places(machine: &Machine) -> Vec<PathBuf> {
    let others = [&*machine.bpffs, Path::new(netns::DIR), Path::new(RUN)];
    cgroups(machine).chain(others).map(Path::to_owned).collect()
}

/// The hierarchies of cgroups in which a lab has some.
fn cgroups(machine: &Machine) -> impl Iterator<Item = &Path> {
    let memory = machine.memory_root.as_deref();
    std::iter::once(&*machine.cgroup_root).chain(memory)
}

fn carrying(place: &Path, prefix: &str) -> Vec<PathBuf> {
    names_in(place)
        .into_iter()
        .filter(|name| prefix_of(name).as_deref() == Some(prefix))
        .map(|name| place.join(name))
        .collect()
}

fn names_in(place: &Path) -> Vec<String> {
    fs::read_dir(place)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_names_its_process_and_nothing_else_is_taken_for_one() {
        assert_eq!(owner("svclb-lab-41-2"), Some(41));
        assert_eq!(
            prefix_of("svclb-lab-41-2-client").as_deref(),
            Some("svclb-lab-41-2")
        );
        assert_eq!(
            prefix_of("svclb-lab-41-2").as_deref(),
            Some("svclb-lab-41-2")
        );
        assert_eq!(prefix_of("svclb"), None);
        assert_eq!(prefix_of("svclb-lab-x-2"), None);
        assert_eq!(prefix_of("other-41-2"), None);
    }
}
