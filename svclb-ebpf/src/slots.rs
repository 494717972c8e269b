//! The second lookup: from a frontend to one of its slots.

use svclb_common::{FrontendValue, SlotIndex, SlotKey, SlotRange, SlotValue, pick};

use crate::kernel::random;
use crate::maps;

/// Any slot of the range, each as likely.
#[inline(always)]
pub(crate) fn random_slot(frontend: &FrontendValue, range: SlotRange) -> Option<SlotValue> {
    slot_at(frontend, SlotIndex::position(pick(range, random())?))
}

/// The slot at an index of the frontend's generation.
#[inline(always)]
pub(crate) fn slot_at(frontend: &FrontendValue, index: SlotIndex) -> Option<SlotValue> {
    maps::slot(&SlotKey {
        service: frontend.service,
        generation: frontend.generation,
        index,
    })
}
