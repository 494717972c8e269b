//! Counting what happens. One word for each CPU, so no CPU waits for another.

use svclb_common::Counter;

use crate::maps::COUNTERS;

/// Adds one.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    count_index(counter.index());
}

/// Adds one to the counter of an index.
#[inline(always)]
pub(crate) fn count_index(index: u32) {
    if let Some(value) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: this CPU's word, valid for the run. A program that interrupts this one
        // may lose it a count; nothing else depends on it.
        unsafe { *value = (*value).wrapping_add(1) }
    }
}
