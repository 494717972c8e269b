//! Session affinity: `sessionAffinity: ClientIP`.
//!
//! At a socket the client is its network namespace: a pod has one of its own, and a
//! socket has no source address before it is connected. Outside it is its address. The time
//! counts from the client's last new connection.

use svclb_common::{
    AffinityKey, AffinityValue, Counter, FrontendValue, SlotIndex, SlotRange, SlotValue,
};

use crate::counters::count;
use crate::kernel::now_ns;
use crate::maps::AFFINITY;
use crate::slots::{random_slot, slot_at};

/// The slot of a new connection of a client to a frontend with affinity, out of a range.
#[inline(always)]
pub(crate) fn slot(
    key: &AffinityKey,
    frontend: &FrontendValue,
    range: SlotRange,
) -> Option<SlotValue> {
    let now = now_ns();
    if let Some(known) = AFFINITY.get_ptr_mut(key) {
        // SAFETY: map memory stays valid for the run; a recycled element can only name
        // another backend, and the member row below decides whether that is one of ours.
        let (value, last_used) = unsafe { (*known, &raw mut (*known).last_used_ns) };
        if value.holds(now, frontend.affinity_seconds)
            && let Some(slot) = slot_at(frontend, SlotIndex::member(value.backend))
            && range.contains(slot.position)
        {
            // SAFETY: as above; one aligned word.
            unsafe { last_used.write_volatile(now) };
            count(Counter::AffinityHit);
            return Some(slot);
        }
    }
    let slot = random_slot(frontend, range)?;
    let value = AffinityValue {
        last_used_ns: now,
        backend: slot.backend,
        reserved: 0,
    };
    // It is an LRU map: there is always room, and a failure costs a client its affinity.
    let _stored = AFFINITY.insert(key, value, 0);
    Some(slot)
}
