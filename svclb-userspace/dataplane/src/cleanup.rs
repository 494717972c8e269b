//! Taking everything of ours away, and nothing else.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use svclb_common::maps as names;

use crate::attach::PROGRAMS;
use crate::claim::{Claim, ClaimError};
use crate::links::release;
use crate::packets::{device_pins, remove_filters};
use crate::pinned::Pinned;
use crate::pins::Pins;
use crate::ports::PortRange;
use crate::sys;

/// Why not everything was removed.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// It would come back.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// Something resists.
    #[error("{path} cannot be removed: {source}; run `svclb cleanup` as root again", path = .path.display())]
    Remove {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// All maps that svclb pins.
pub(crate) const MAPS: [&str; 15] = [
    names::META,
    names::FRONTENDS,
    names::SLOTS,
    names::SOURCES,
    names::BACKENDS,
    names::SERVICES,
    names::AFFINITY,
    names::PEERS,
    names::PEER_RINGS,
    names::PEER_OVERFLOW,
    names::FLOWS,
    names::FRAGMENTS,
    names::DEVICES,
    names::PORTS,
    names::COUNTERS,
];

/// Detaches the programs, unpins links and maps, and removes the pin directory if nothing
/// else is in it. Returns what was removed; nothing pinned is nothing to do.
///
/// # Errors
/// [`CleanupError`]: an agent runs, or with the first path that resisted.
pub fn cleanup(pin_dir: &Path) -> Result<Vec<PathBuf>, CleanupError> {
    let pins = Pins::new(pin_dir);
    let mut removed = Vec::new();
    if !pin_dir.exists() {
        return Ok(removed);
    }
    let _claim = Claim::new(pin_dir)?;
    for program in &PROGRAMS {
        let path = pins.link(program.name);
        // Detached even if another process still holds the link.
        if let Ok(link) = sys::open_pin(&path) {
            let _already_detached = sys::detach_link(link.as_fd());
        }
        remove(&path, fs::remove_file, &mut removed)?;
    }
    remove_from_devices(&pins, &mut removed)?;
    for dir in [pins.maps(), pins.beside().maps(), pins.superseded()] {
        remove_maps(&dir, &mut removed)?;
    }
    for dir in [pins.links(), pins.dir().to_owned()] {
        remove(&dir, fs::remove_dir, &mut removed)?;
    }
    Ok(removed)
}

/// The folders of maps are ours alone; in them may be maps that another version has and this one
/// doesn't.
fn remove_maps(dir: &Path, removed: &mut Vec<PathBuf>) -> Result<(), CleanupError> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        remove(&path, fs::remove_file, removed)?;
    }
    remove(dir, fs::remove_dir, removed)
}

/// What is not in the maps alone: the packet programs, and the source ports.
fn remove_from_devices(pins: &Pins, removed: &mut Vec<PathBuf>) -> Result<(), CleanupError> {
    // Without maps of ours nothing is ours.
    let Ok(Some(meta)) = Pinned::meta(pins) else {
        return Ok(());
    };
    let failed = |path: PathBuf| |source| CleanupError::Remove { path, source };
    for (name, _) in device_pins(pins).map_err(failed(pins.links()))? {
        let path = pins.link(&name);
        release(&path).map_err(failed(path.clone()))?;
        removed.push(path);
    }
    remove_filters();
    let [first, last] = meta.source_ports;
    if let Some(ports) = PortRange::new(first, last) {
        ports
            .give_back()
            .map_err(failed("net.ipv4.ip_local_reserved_ports".into()))?;
    }
    Ok(())
}

fn remove(
    path: &Path,
    how: impl Fn(PathBuf) -> io::Result<()>,
    removed: &mut Vec<PathBuf>,
) -> Result<(), CleanupError> {
    match how(path.to_owned()) {
        Ok(()) => removed.push(path.to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // Somebody else's pins are none of our business.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
        Err(source) => {
            return Err(CleanupError::Remove {
                path: path.to_owned(),
                source,
            });
        }
    }
    Ok(())
}
