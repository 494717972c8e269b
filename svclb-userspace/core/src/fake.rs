//! The maps in memory, for tests.
//!
//! # Charter
//! The fake knows what a hash map of the kernel does to one writer: it holds entries,
//! refuses more than its capacity, and takes a write or does not. It keeps a journal, so
//! that a test can look at the maps after every prefix of what was done, with the grace
//! periods in it. It knows nothing of batches, memory or permissions; those are tested on
//! the kernel, by the scenarios of the dataplane crate. Teach it something only when a
//! defect shows that it matters.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use svclb_common::{
    FrontendFlags, FrontendKey, FrontendValue, SlotIndex, SlotKey, SlotValue, SourceRange,
};

use crate::apply::{Failure, Maps, Snapshot};
use crate::image::Fill;
use crate::op::Op;
use crate::ports::PortSet;

/// One entry of the journal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    /// An operation was performed.
    Op(Op),
    /// A grace period began and ended here.
    GracePeriod,
}

/// The contents of the maps at one moment.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Contents {
    /// All maps but `SLOTS`; its `slots` is empty.
    pub maps: Snapshot,
    /// `SLOTS`.
    pub slots: BTreeMap<SlotKey, SlotValue>,
}

impl Contents {
    /// Performs an operation.
    pub fn perform(&mut self, op: &Op) {
        match op {
            Op::PutService(id, record) => {
                self.maps.services.insert(*id, **record);
            }
            Op::PutBackend(id, value) => {
                self.maps.backends.insert(*id, *value);
            }
            Op::PutSlot(key, value) => {
                self.slots.insert(*key, *value);
            }
            Op::PutSource(key) => {
                self.maps.sources.insert(*key);
            }
            Op::PutFrontend(key, value) => {
                self.maps.frontends.insert(*key, *value);
            }
            Op::DeleteFrontend(key) => {
                self.maps.frontends.remove(key);
            }
            Op::DeleteSlot(key) => {
                self.slots.remove(key);
            }
            Op::DeleteSource(key) => {
                self.maps.sources.remove(key);
            }
            Op::DeleteBackend(id) => {
                self.maps.backends.remove(id);
            }
            Op::DeleteService(id) => {
                self.maps.services.remove(id);
            }
            Op::SetPort(bit) => self.maps.ports.insert(*bit),
            Op::ClearPort(bit) => self.maps.ports.remove(*bit),
        }
    }

    /// What a reader sees that looked up a frontend earlier and looks up its slots here:
    /// the slot at each position of its internal range, `None` where one is missing.
    pub fn resolve(&self, frontend: &FrontendValue) -> Vec<Option<SlotValue>> {
        let range = frontend.internal;
        (range.first..range.first + range.count)
            .map(|position| {
                let key = SlotKey {
                    service: frontend.service,
                    generation: frontend.generation,
                    index: SlotIndex::position(position),
                };
                self.slots.get(&key).copied()
            })
            .collect()
    }

    /// The clients that such a reader lets in; `None` for all.
    pub fn sources(&self, frontend: &FrontendValue) -> Option<BTreeSet<SourceRange>> {
        if !frontend.flags.contains(FrontendFlags::SOURCE_RANGES) {
            return None;
        }
        let keys = self.maps.sources.iter().filter(|key| {
            key.source.service == frontend.service && key.source.generation == frontend.generation
        });
        Some(keys.map(|key| key.range()).collect())
    }

    /// What a frontend leads to here, for a reader that is not interrupted.
    pub fn slots_of(&self, key: &FrontendKey) -> Option<Vec<Option<SlotValue>>> {
        Some(self.resolve(self.maps.frontends.get(key)?))
    }

    /// As the writer reads it back.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            slots: self.slots.iter().map(|(k, v)| (*k, *v)).collect(),
            ..self.maps.clone()
        }
    }

    /// Whether an operation can be performed on maps of this capacity.
    fn has_room(&self, op: &Op, capacity: &Fill) -> bool {
        let maps = &self.maps;
        let (is_new, len, capacity) = match op {
            Op::PutService(id, _) => (
                !maps.services.contains_key(id),
                maps.services.len(),
                capacity.services,
            ),
            Op::PutBackend(id, _) => (
                !maps.backends.contains_key(id),
                maps.backends.len(),
                capacity.backends,
            ),
            Op::PutSlot(key, _) => (
                !self.slots.contains_key(key),
                self.slots.len(),
                capacity.slots,
            ),
            Op::PutSource(key) => (
                !maps.sources.contains(key),
                maps.sources.len(),
                capacity.sources,
            ),
            Op::PutFrontend(key, _) => (
                !maps.frontends.contains_key(key),
                maps.frontends.len(),
                capacity.frontends,
            ),
            _ => return true,
        };
        !is_new || len < capacity
    }
}

/// Maps in memory.
#[derive(Clone, Default, Debug)]
pub struct FakeMaps {
    /// What they hold.
    pub contents: Contents,
    /// Everything that was done to them.
    pub journal: Vec<Entry>,
    /// How many operations are still performed before all fail; `None` for no limit.
    pub stop_after: Option<usize>,
    /// The operations that fail, by their number from now on; those after them succeed.
    pub failing: BTreeSet<usize>,
    /// How many operations were tried since `failing` was set.
    pub tried: usize,
    /// How many entries each map may hold; `None` for no limit.
    pub capacity: Option<Fill>,
    /// The bits of `PORTS` that flows need.
    pub flow_ports: PortSet,
}

impl FakeMaps {
    /// Maps that hold something already.
    pub fn holding(contents: Contents) -> Self {
        Self {
            contents,
            ..Self::default()
        }
    }

    /// Lets the operations of these numbers fail, counted from now on.
    pub fn fail_at(&mut self, numbers: BTreeSet<usize>) {
        self.failing = numbers;
        self.tried = 0;
    }

    /// Why an operation is not performed, if it is not: whether its map is full, and the error.
    fn refuse(&mut self, op: &Op) -> Option<(bool, io::Error)> {
        const E2BIG: i32 = 7;
        let number = self.tried;
        self.tried += 1;
        if self.stop_after == Some(0) || self.failing.contains(&number) {
            return Some((false, io::Error::other("stopped")));
        }
        let is_full = self
            .capacity
            .is_some_and(|capacity| !self.contents.has_room(op, &capacity));
        is_full.then(|| (true, io::Error::from_raw_os_error(E2BIG)))
    }
}

impl Maps for FakeMaps {
    fn perform(&mut self, ops: &[Op]) -> Result<(), Failure> {
        assert!(
            ops.windows(2)
                .all(|pair| pair[0].phase() == pair[1].phase()),
            "operations of two phases in one call"
        );
        for (done, op) in ops.iter().enumerate() {
            if let Some((full, source)) = self.refuse(op) {
                return Err(Failure {
                    done,
                    map: "fake",
                    full,
                    source,
                });
            }
            if let Some(left) = &mut self.stop_after {
                *left -= 1;
            }
            self.contents.perform(op);
            self.journal.push(Entry::Op(op.clone()));
        }
        Ok(())
    }

    fn grace_period(&mut self) -> io::Result<()> {
        if self.stop_after == Some(0) {
            return Err(io::Error::other("stopped"));
        }
        self.journal.push(Entry::GracePeriod);
        Ok(())
    }

    fn snapshot(&mut self) -> io::Result<Snapshot> {
        Ok(self.contents.snapshot())
    }

    fn flow_ports(&mut self) -> io::Result<PortSet> {
        Ok(self.flow_ports.clone())
    }
}
