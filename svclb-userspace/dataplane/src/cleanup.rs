//! Removing everything that svclb made, and nothing else.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::attach::device::{device_pins, remove_filters};
use crate::attach::links::release;
use crate::error::CleanupError;
use crate::maps::meta;
use crate::migration::remove_maps;
use crate::pin_lock::PinLock;
use crate::pins::Pins;
use crate::programs::PROGRAMS;
use crate::{reserved_ports, sys};

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
    let _pin_lock = PinLock::new(pin_dir)?;
    for program in &PROGRAMS {
        let path = pins.link(program.name);
        // The pin alone would leave it attached while another process holds the link.
        if let Ok(link) = sys::open_pin(&path) {
            let _already_detached = sys::detach_link(link.as_fd());
        }
        remove(&path, fs::remove_file, &mut removed)?;
    }
    remove_from_devices(&pins, &mut removed)?;
    for dir in [&pins, &pins.beside(), &pins.superseded()].map(Pins::maps) {
        let gone =
            remove_maps(&dir).map_err(|source| CleanupError::Remove { path: dir, source })?;
        removed.extend(gone);
    }
    for dir in [pins.links(), pins.dir().to_owned()] {
        remove(&dir, fs::remove_dir, &mut removed)?;
    }
    Ok(removed)
}

/// Detaches the packet programs, and gives back the source ports. Links are svclb's by their names;
/// a filter only if maps of svclb's are pinned.
fn remove_from_devices(pins: &Pins, removed: &mut Vec<PathBuf>) -> Result<(), CleanupError> {
    let failed = |path: PathBuf| |source| CleanupError::Remove { path, source };
    for (name, _) in device_pins(pins).map_err(failed(pins.links()))? {
        let path = pins.link(&name);
        release(&path).map_err(failed(path.clone()))?;
        removed.push(path);
    }
    // An agent that died while it replaced maps left those of the agent before it aside.
    let meta = [pins.clone(), pins.superseded(), pins.beside()]
        .iter()
        .find_map(|pins| meta::read(pins).ok().flatten());
    if meta.is_some() {
        remove_filters();
    }
    let unrecorded = meta.as_ref().and_then(meta::source_ports);
    let had_record = reserved_ports::give_back(pins, unrecorded)
        .map_err(failed("net.ipv4.ip_local_reserved_ports".into()))?;
    removed.extend(had_record.then(|| pins.reserved_ports()));
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
        // Pins of other programs are in it.
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
