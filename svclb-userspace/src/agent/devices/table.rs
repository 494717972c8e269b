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

    /// The entry of a device index, as the kernel has it.
    pub(super) fn read(&self, index: u32) -> io::Result<Option<DeviceValue>> {
        self.map.get(index)
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
