//! Maps of another layout: new ones are made beside them, filled, and take their place when the
//! programs that use them are attached.
//!
//! Until then the old programs go on with the old maps, so that no connect fails in between. A
//! crash before the end leaves the old maps in their place, and the next start begins again.

pub(crate) mod flows;

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use svclb_common::maps::{self as names, SINCE};
use svclb_common::{ABI_VERSION, MAGIC};

use self::flows::Earlier;
use crate::error::OpenError;
use crate::maps::meta;
use crate::pins::{Pins, make_dir};
use crate::sys;

/// Those that a reader needs together: entries of one lead to entries of another.
const READ_TOGETHER: [&str; 4] = [names::FRONTENDS, names::SLOTS, names::SOURCES, names::PORTS];
/// Those whose entries hold ids that these give.
const IDS: [&str; 2] = [names::SERVICES, names::BACKENDS];
const HOLD_IDS: [&str; 2] = [names::AFFINITY, names::FLOWS];

/// Maps that earlier agents pinned under another name: the former one and today's. The layout is
/// the same.
const RENAMED: [(&str, &str); 1] = [("PEER_RINGS", names::UDP_TRANSLATIONS)];

/// Where the maps are to be made or adopted: in their place, or beside maps of another layout. Of
/// the latter, those that are as this version has them are shared.
pub(crate) fn begin(pins: Pins, warnings: &mut Vec<String>) -> Result<Pins, OpenError> {
    let failed = |path: PathBuf| |source| OpenError::PinDir { path, source };
    let beside = pins.beside();
    if !pins.maps().exists() && beside.maps().exists() {
        fs::rename(beside.maps(), pins.maps()).map_err(failed(pins.maps()))?;
    }
    for left in [pins.superseded().maps(), beside.maps()] {
        remove_maps(&left).map_err(failed(left.clone()))?;
    }
    let Some(meta) = meta::read(&pins)? else {
        return Ok(pins);
    };
    let found = meta.abi_version;
    // Without a version they were made by an agent that died before it wrote one: nothing is in
    // them.
    if meta.magic == 0 || (meta.magic == MAGIC && found == ABI_VERSION) {
        rename_pins(&pins).map_err(failed(pins.maps()))?;
        return Ok(pins);
    }
    if meta.magic != MAGIC {
        return Err(OpenError::OtherAbi {
            path: pins.dir().to_owned(),
            found,
            ours: ABI_VERSION,
        });
    }
    make_dir(&beside.maps())?;
    let shared = shared(found);
    for name in &shared {
        let share = || -> io::Result<()> {
            let map = sys::open_pin(&existing_pin(&pins, name))?;
            sys::pin(map.as_fd(), &beside.map(name))
        };
        share().map_err(failed(beside.map(name)))?;
    }
    warnings.push(warning(pins.dir(), found, &shared));
    Ok(beside)
}

/// The flows that are to go on, of which `found` is the layout version: in a map of another layout, or in
/// the one that is used. `None` where they cannot be known.
pub(crate) fn earlier_flows(pins: &Pins, found: Option<u32>) -> io::Result<Option<Earlier>> {
    if !pins.is_beside() {
        return Ok(Some(Earlier::Same));
    }
    let is_known = found.is_some_and(|found| flows::EARLIER.contains(&found));
    is_known
        .then(|| Earlier::of_layout(&Pins::new(pins.dir())))
        .transpose()
}

/// Gives maps with a former name today's, so that they are adopted. A pin of today's name beside
/// one of the former is replaced: only an agent that does not know today's name makes the former
/// pin, so the attached programs use that map.
fn rename_pins(pins: &Pins) -> io::Result<()> {
    for (former, name) in RENAMED {
        match fs::rename(pins.map(former), pins.map(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Where a map is pinned, under its former name or today's.
fn existing_pin(pins: &Pins, name: &str) -> PathBuf {
    let former = RENAMED.iter().find(|(_, renamed)| *renamed == name);
    former
        .map(|(former, _)| pins.map(former))
        .filter(|path| path.exists())
        .unwrap_or_else(|| pins.map(name))
}

/// Puts the maps that were made beside others in their place.
pub(crate) fn end(beside: &Pins) -> io::Result<Pins> {
    let pins = Pins::new(beside.dir());
    fs::rename(pins.maps(), pins.superseded().maps())?;
    fs::rename(beside.maps(), pins.maps())?;
    remove_maps(&pins.superseded().maps())?;
    Ok(pins)
}

/// Removes a folder of pinned maps, if it is there, and returns what was removed. Only svclb pins
/// in it; it may hold maps of other versions.
pub(crate) fn remove_maps(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut removed = Vec::new();
    for entry in entries {
        let path = entry?.path();
        fs::remove_file(&path)?;
        removed.push(path);
    }
    fs::remove_dir(dir)?;
    removed.push(dir.to_owned());
    Ok(removed)
}

/// The maps of a layout version that are as this version has them, and may go on being used.
fn shared(found: u32) -> Vec<&'static str> {
    let is_same = |name: &str| {
        let since = SINCE.iter().find(|(other, _)| *other == name);
        // The changes of a newer version are unknown.
        found <= ABI_VERSION && since.is_some_and(|(_, since)| *since <= found)
    };
    let all = |group: &[&'static str]| group.iter().all(|name| is_same(name));
    let ids = all(&IDS);
    let read = ids && all(&READ_TOGETHER);
    names::all()
        .filter(|name| match name {
            name if READ_TOGETHER.contains(name) => read,
            name if IDS.contains(name) => ids,
            name if HOLD_IDS.contains(name) => ids && is_same(name),
            // It holds the version.
            name if *name == names::META => false,
            name => is_same(name),
        })
        .collect()
}

/// The warning for the operator.
fn warning(dir: &Path, found: u32, shared: &[&str]) -> String {
    let memory = [
        (names::PEERS, "the Service addresses of sockets"),
        (names::AFFINITY, "session affinity"),
        (names::FLOWS, "flows from outside"),
    ];
    let is_lost = |name: &str| {
        let is_carried_over = name == names::FLOWS && flows::EARLIER.contains(&found);
        !shared.contains(&name) && !is_carried_over
    };
    let lost = memory.iter().filter(|(name, _)| is_lost(name));
    let lost: Vec<_> = lost.map(|(_, what)| *what).collect();
    let newer = if found > ABI_VERSION {
        ", of a newer svclb"
    } else {
        ""
    };
    let lost = if lost.is_empty() {
        "nothing is lost".to_owned()
    } else {
        format!("lost are {}", lost.join(", "))
    };
    format!(
        "the maps pinned in {} have layout version {found}{newer}, and this svclb has {ABI_VERSION}: \
         it makes its own beside them, which take their place as soon as they are filled; {lost}",
        dir.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_has_the_version_since_which_it_is_as_it_is() {
        let mut listed: Vec<_> = names::all().collect();
        let mut all = [
            names::META,
            names::FRONTENDS,
            names::SLOTS,
            names::SOURCES,
            names::BACKENDS,
            names::SERVICES,
            names::AFFINITY,
            names::PEERS,
            names::UDP_TRANSLATIONS,
            names::PEER_OVERFLOW,
            names::FLOWS,
            names::FLOW_RING,
            names::FLOW_CURSOR,
            names::FRAGMENTS,
            names::DEVICES,
            names::PORTS,
            names::COUNTERS,
        ];
        listed.sort_unstable();
        all.sort_unstable();
        assert_eq!(listed, all);
        assert!(SINCE.iter().all(|(_, since)| *since <= ABI_VERSION));
    }

    #[test]
    fn of_version_1_the_memory_of_sockets_is_kept_and_ids_are_not() {
        assert_eq!(
            shared(1),
            [names::PEERS, names::UDP_TRANSLATIONS, names::PEER_OVERFLOW]
        );
        let text = warning(Path::new("/pins"), 1, &shared(1));
        assert!(text.contains("lost are session affinity, flows"), "{text}");
    }

    #[test]
    fn of_a_newer_version_nothing_is_kept() {
        assert_eq!(shared(ABI_VERSION + 1), [""; 0]);
        let text = warning(Path::new("/pins"), ABI_VERSION + 1, &[]);
        assert!(text.contains("of a newer svclb"), "{text}");
    }
}
