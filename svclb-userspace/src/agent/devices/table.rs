//! `DEVICES`: what the packet programs read about the node's devices.

use std::collections::BTreeMap;
use std::io;

use svclb_common::DeviceValue;
use svclb_dataplane::Devices as DeviceMap;
use tracing::warn;

/// What is done to the map `DEVICES`.
pub(super) trait DeviceEntries {
    fn list(&self) -> io::Result<BTreeMap<u32, DeviceValue>>;
    fn put(&self, index: u32, value: &DeviceValue) -> io::Result<()>;
    fn delete(&self, index: u32) -> io::Result<()>;
}

impl DeviceEntries for DeviceMap {
    fn list(&self) -> io::Result<BTreeMap<u32, DeviceValue>> {
        self.list()
    }

    fn put(&self, index: u32, value: &DeviceValue) -> io::Result<()> {
        self.put(index, value)
    }

    fn delete(&self, index: u32) -> io::Result<()> {
        self.delete(index)
    }
}

/// The map `DEVICES`, and what was written to it.
pub(super) struct DeviceTable<M = DeviceMap> {
    map: M,
    written: BTreeMap<u32, DeviceValue>,
    /// What is to be written, or deleted.
    pending: BTreeMap<u32, Option<DeviceValue>>,
}

impl<M: DeviceEntries> DeviceTable<M> {
    pub(super) const fn new(map: M) -> Self {
        Self {
            map,
            written: BTreeMap::new(),
            pending: BTreeMap::new(),
        }
    }

    /// Takes what an earlier agent wrote as written: entries of devices that are gone are deleted
    /// by the next [`write`](Self::write), unless one is [wanted](Self::want) again.
    pub(super) fn adopt(&mut self) -> io::Result<&BTreeMap<u32, DeviceValue>> {
        self.written = self.map.list()?;
        self.pending
            .extend(self.written.keys().map(|index| (*index, None)));
        Ok(&self.written)
    }

    /// Compares the map with what was written to it, and writes again what differs. Returns how
    /// many entries were changed, deleted or added by others and are repaired, and the first
    /// error about one that is not.
    pub(super) fn verify(&self) -> (usize, io::Result<()>) {
        let found = match self.map.list() {
            Ok(found) => found,
            Err(error) => return (0, Err(error)),
        };
        let strangers = found.keys().filter(|key| !self.written.contains_key(key));
        let deleted = strangers.map(|index| self.delete(*index));
        let differing = self
            .written
            .iter()
            .filter(|(index, value)| found.get(index) != Some(value));
        let put = differing.map(|(index, value)| self.map.put(*index, value));
        let mut repaired = 0;
        let mut result = Ok(());
        for outcome in deleted.chain(put) {
            match outcome {
                Ok(()) => repaired += 1,
                Err(error) => result = result.and(Err(error)),
            }
        }
        (repaired, result)
    }

    /// Says what an entry is to be from the next [`write`](Self::write) on; `None` for a device that is
    /// gone.
    pub(super) fn want(&mut self, index: u32, value: Option<DeviceValue>) {
        if self.written.get(&index) == value.as_ref() {
            self.pending.remove(&index);
        } else {
            self.pending.insert(index, value);
        }
    }

    /// Writes what is wanted, as far as it can: what fails is tried again by the next call. Entries of
    /// devices that are gone make room first.
    pub(super) fn write(&mut self) {
        let (gone, wanted): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|(_, value)| value.is_none());
        let mut failed = 0;
        let mut first = None;
        for (index, value) in gone.into_iter().chain(wanted) {
            match value {
                // A leftover entry is never looked up, as its device does not exist any more.
                None => match self.delete(index) {
                    Ok(()) => drop(self.written.remove(&index)),
                    Err(_) => drop(self.pending.insert(index, None)),
                },
                Some(value) => match self.map.put(index, &value) {
                    Ok(()) => drop(self.written.insert(index, value)),
                    Err(error) => {
                        self.pending.insert(index, Some(value));
                        failed += 1;
                        first.get_or_insert(error);
                    }
                },
            }
        }
        if let Some(error) = first {
            warn!(
                entries = failed,
                "entries of the map DEVICES cannot be written: {error}"
            );
        }
    }

    /// Deletes an entry that may be gone already.
    fn delete(&self, index: u32) -> io::Result<()> {
        match self.map.delete(index) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// A map with room for three entries, of which one cannot be written or deleted.
    #[derive(Default)]
    struct Fake {
        entries: RefCell<BTreeMap<u32, DeviceValue>>,
        broken: Option<u32>,
    }

    const ROOM: usize = 3;

    impl DeviceEntries for Fake {
        fn list(&self) -> io::Result<BTreeMap<u32, DeviceValue>> {
            Ok(self.entries.borrow().clone())
        }

        fn put(&self, index: u32, value: &DeviceValue) -> io::Result<()> {
            let mut entries = self.entries.borrow_mut();
            let has_room = entries.len() < ROOM || entries.contains_key(&index);
            if self.broken == Some(index) || !has_room {
                return Err(io::ErrorKind::StorageFull.into());
            }
            entries.insert(index, *value);
            Ok(())
        }

        fn delete(&self, index: u32) -> io::Result<()> {
            if self.broken == Some(index) {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            let removed = self.entries.borrow_mut().remove(&index);
            removed.map(drop).ok_or(io::ErrorKind::NotFound.into())
        }
    }

    fn value(mtu: u32) -> DeviceValue {
        DeviceValue {
            mtu,
            ..DeviceValue::default()
        }
    }

    fn values<const N: usize>(indices: [u32; N]) -> BTreeMap<u32, DeviceValue> {
        indices.map(|index| (index, value(index))).into()
    }

    impl DeviceTable<Fake> {
        /// Writes these entries and no others.
        fn write_all(&mut self, wanted: &BTreeMap<u32, DeviceValue>) {
            let gone: Vec<_> = self.written.keys().copied().collect();
            for index in gone {
                self.want(index, None);
            }
            for (index, value) in wanted {
                self.want(*index, Some(*value));
            }
            self.write();
        }
    }

    #[test]
    fn an_entry_that_cannot_be_written_keeps_no_other_from_it() {
        let mut table = DeviceTable::new(Fake::default());
        table.write_all(&values([1, 2, 3]));
        table.map.broken = Some(4);
        table.write_all(&values([3, 4, 5]));
        assert_eq!(*table.map.entries.borrow(), values([3, 5]));
        // The next one writes it.
        table.map.broken = None;
        table.write();
        assert_eq!(*table.map.entries.borrow(), values([3, 4, 5]));
    }

    #[test]
    fn entries_of_devices_that_are_gone_make_room() {
        let mut table = DeviceTable::new(Fake::default());
        table.write_all(&values([4, 5, 6]));
        table.write_all(&values([1, 2, 3]));
        assert_eq!(*table.map.entries.borrow(), values([1, 2, 3]));
    }

    #[test]
    fn an_entry_that_cannot_be_repaired_keeps_no_other_from_it_and_from_being_counted() {
        let mut table = DeviceTable::new(Fake::default());
        table.write_all(&values([1, 2]));
        assert_eq!(table.verify().0, 0);
        // Both are changed, and one is added.
        table
            .map
            .entries
            .replace([(1, value(0)), (2, value(0)), (9, value(0))].into());
        table.map.broken = Some(1);
        let (repaired, result) = table.verify();
        assert_eq!(repaired, 2);
        assert!(result.is_err());
        table.map.broken = None;
        let (repaired, result) = table.verify();
        assert_eq!(repaired, 1);
        assert!(result.is_ok());
        assert_eq!(*table.map.entries.borrow(), values([1, 2]));
    }
}
