//! The allocator.
//!
//! musl's has one lock, so that parsing on two CPUs is slower than on one. This one keeps
//! what is freed for a second by default; the agent works in bursts (a start, a listing)
//! and should be small in between.
#![expect(
    unsafe_code,
    reason = "mimalloc's options are set through its C interface"
)]

use libmimalloc_sys::{_mi_option_last, mi_option_set, mi_option_t};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_arena_eager_commit` and `mi_option_purge_delay` of mimalloc.h, version 3,
/// which the bindings don't name.
const ARENA_EAGER_COMMIT: mi_option_t = 4;
const PURGE_DELAY: mi_option_t = 15;

// Another version of the table: look the numbers up again.
const _: () = assert!(_mi_option_last == 47);

/// Makes the allocator give freed memory back to the kernel without delay.
pub(crate) fn give_back_at_once() {
    for option in [ARENA_EAGER_COMMIT, PURGE_DELAY] {
        // SAFETY: sets a number in a table of mimalloc's, which checks the index; no other
        // thread runs yet.
        unsafe { mi_option_set(option, 0) }
    }
}
