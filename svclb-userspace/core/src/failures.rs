//! The changes of a round that failed before any reader could see them: what they wrote makes
//! room for others at once.

use std::collections::{BTreeMap, HashMap};

use svclb_common::BackendId;

use crate::apply::Failure;
use crate::diff::Change;
use crate::image::Image;
use crate::op::Op;

/// Which changes of a round failed, by their number in it.
#[derive(Default)]
pub(crate) struct Failures {
    by_change: BTreeMap<usize, Failure>,
    /// Those that failed for want of room, in the order in which they failed.
    full: Vec<usize>,
    /// How many of `full` had failed before rows were last deleted.
    retried: usize,
    /// How many changes that have not failed take each backend. Counted at the first failure.
    takers: Option<HashMap<BackendId, usize>>,
}

impl Failures {
    pub(crate) fn contains(&self, change: usize) -> bool {
        self.by_change.contains_key(&change)
    }

    pub(crate) fn changes(&self) -> impl Iterator<Item = usize> {
        self.by_change.keys().copied()
    }

    pub(crate) fn into_changes(self) -> impl Iterator<Item = (usize, Failure)> {
        self.by_change.into_iter()
    }

    pub(crate) fn insert(&mut self, change: usize, failure: Failure) {
        if failure.full {
            self.full.push(change);
        }
        self.by_change.insert(change, failure);
    }

    /// A change fails in a phase before the commit: what deletes all that it alone has newly
    /// written. No frontend ever named that generation, nor a slot that a reader could find those
    /// backends. So neither a grace period nor a quarantine is needed. Bits of `PORTS` stay.
    pub(crate) fn undo(&mut self, change: usize, changes: &[Change], image: &Image) -> Vec<Op> {
        let takers = self.takers.get_or_insert_with(|| {
            let mut takers = HashMap::new();
            let alive = changes.iter().enumerate();
            let alive = alive.filter(|(index, _)| !self.by_change.contains_key(index));
            for (id, _) in alive.flat_map(|(_, change)| &change.take_backends) {
                *takers.entry(*id).or_default() += 1;
            }
            takers
        });
        let Some(change) = changes.get(change) else {
            return Vec::new();
        };
        let mut ops = change.fill.as_ref().map_or_else(Vec::new, |new| {
            image.unfinished_rows(change.id, new.generation)
        });
        ops.sort_by_key(Op::phase);
        for (id, _) in &change.take_backends {
            let left = takers.get_mut(id).map_or(0, |count| {
                *count = count.saturating_sub(1);
                *count
            });
            if left == 0 && image.has_backend(id.get()) {
                ops.push(Op::DeleteBackend(*id));
            }
        }
        if change.take_service && image.service(change.id).is_some() {
            ops.push(Op::DeleteService(change.id));
        }
        ops
    }

    /// Rows were deleted: changes that failed before for want of room may fit now.
    pub(crate) fn made_room(&mut self) {
        self.retried = self.full.len();
    }

    /// The changes that may fit now, small ones first. They count as not failed from now on.
    pub(crate) fn take_retries(&mut self, changes: &[Change]) -> Vec<usize> {
        let mut retries: Vec<_> = self.full.drain(..self.retried).collect();
        self.retried = 0;
        retries.sort_by_key(|index| changes.get(*index).map_or(0, Change::new_rows));
        for index in &retries {
            self.by_change.remove(index);
            let taken = changes.get(*index).into_iter();
            for (id, _) in taken.flat_map(|change| &change.take_backends) {
                *self.takers.get_or_insert_default().entry(*id).or_default() += 1;
            }
        }
        retries
    }
}
