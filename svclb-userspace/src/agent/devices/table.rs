//! `DEVICES`: what the packet programs read about the node's devices.

use std::collections::BTreeMap;
use std::io;

use svclb_common::DeviceValue;
use svclb_dataplane::Devices as DeviceMap;
use tracing::warn;

/// The map `DEVICES`, and what was written to it.
pub(super) struct DeviceTable {
    map: DeviceMap,
    written: BTreeMap<u32, DeviceValue>,
}

impl DeviceTable {
    pub(super) const fn new(map: DeviceMap) -> Self {
        Self {
            map,
            written: BTreeMap::new(),
        }
    }

    /// Takes what an earlier agent wrote as written: entries of devices that are gone are deleted
    /// by the next [`write`](Self::write).
    pub(super) fn adopt(&mut self) -> io::Result<&BTreeMap<u32, DeviceValue>> {
        self.written = self.map.list()?;
        Ok(&self.written)
    }

    /// Compares the map with what was written to it, and writes again what differs. Returns how
    /// many entries were changed, deleted or added by others.
    pub(super) fn verify(&self) -> io::Result<usize> {
        let found = self.map.list()?;
        let mut drifted = 0;
        for (index, value) in &self.written {
            if found.get(index) != Some(value) {
                self.map.put(*index, value)?;
                drifted += 1;
            }
        }
        for index in found.keys() {
            if !self.written.contains_key(index) {
                self.map.delete(*index)?;
                drifted += 1;
            }
        }
        Ok(drifted)
    }

    /// Brings the map from what was written before to these entries.
    pub(super) fn write(&mut self, wanted: BTreeMap<u32, DeviceValue>) {
        for (index, value) in &wanted {
            if self.written.get(index) != Some(value)
                && let Err(error) = self.map.put(*index, value)
            {
                warn!("an entry of the map DEVICES cannot be written: {error}");
                return;
            }
        }
        let is_gone = |index: &&u32| !wanted.contains_key(*index);
        for index in self.written.keys().filter(is_gone) {
            // The device does not exist any more: a leftover entry is never looked up.
            let _gone = self.map.delete(*index);
        }
        self.written = wanted;
    }
}
