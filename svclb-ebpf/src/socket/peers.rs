//! The peer of a TCP socket, in an array indexed by its cookie.
//!
//! The array costs a connect a few nanoseconds (the JIT inlines its look-up), where
//! socket-local storage costs an allocation.

use aya_ebpf::EbpfContext;
use aya_ebpf::programs::SockAddrContext;
use core::arch::asm;
use svclb_common::{Counter, PeerSlot, Translation};

use crate::counters::count;
use crate::kernel::socket_cookie;
use crate::maps::{PEERS, PEERS_MASK};

#[inline(always)]
fn slot_of(cookie: u64) -> Option<*mut PeerSlot> {
    PEERS.get_ptr_mut(cookie as u32 & PEERS_MASK.load())
}

/// Adds to the acquisitions of a slot, by an addition without a result: see [`PeerSlot::acquisitions`].
#[inline(always)]
fn add_acquisitions(slot: *mut PeerSlot, number: u64) {
    // SAFETY: the slot is map memory, valid for the run, and its acquisitions are aligned. An
    // instruction of its own, since `core` offers only additions that return a result.
    unsafe {
        asm!(
            "lock *(u64 *)({slot} + 8) += {number}",
            slot = in(reg) slot,
            number = in(reg) number,
        );
    }
}

const _: () = assert!(core::mem::offset_of!(PeerSlot, acquisitions) == 8);

/// Remembers the translation of a TCP socket; `false` if the slot is another socket's.
#[inline(always)]
pub(crate) fn acquire(ctx: &SockAddrContext, translation: &Translation) -> bool {
    let cookie = socket_cookie(ctx);
    let Some(slot) = slot_of(cookie) else {
        return false;
    };
    // SAFETY: map memory, valid for the run. Only the owner writes more than the acquisitions,
    // and a cookie of ours was written by ourselves: this socket connects again.
    unsafe {
        if (&raw const (*slot).cookie).read_volatile() != cookie {
            if (&raw const (*slot).acquisitions).read_volatile() != 0 {
                count(Counter::PeerFallback);
                return false;
            }
            add_acquisitions(slot, 1);
            if (&raw const (*slot).acquisitions).read_volatile() != 1 {
                add_acquisitions(slot, 1_u64.wrapping_neg());
                count(Counter::PeerFallback);
                return false;
            }
            (&raw mut (*slot).cookie).write_volatile(cookie);
        }
        (*slot).translation = *translation;
    }
    true
}

/// The translation of a socket, if the array has it.
#[inline(always)]
pub(crate) fn find(ctx: &impl EbpfContext) -> Option<&'static Translation> {
    let cookie = socket_cookie(ctx);
    let slot = slot_of(cookie)?;
    // SAFETY: map memory, valid for the run; with our cookie in it, written by our own
    // socket's connect, which is over.
    unsafe { ((&raw const (*slot).cookie).read_volatile() == cookie).then(|| &(*slot).translation) }
}

/// Gives a socket's slot back.
///
/// Runs once for a socket, after its last call. The cookie is left where it is: no later
/// socket has it, and on a machine that reorders writes, clearing it could clear the cookie
/// of the slot's next owner.
#[inline(always)]
pub(crate) fn release(cookie: u64) {
    if let Some(slot) = slot_of(cookie) {
        // SAFETY: map memory, valid for the run.
        if unsafe { (&raw const (*slot).cookie).read_volatile() } == cookie {
            add_acquisitions(slot, 1_u64.wrapping_neg());
        }
    }
}
