//! What is too large for a program's stack of 512 bytes: one for each CPU.
//!
//! No packet program interrupts another one on its CPU: all run in softirqs, or with them
//! disabled.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use svclb_common::{FlowKey, FlowValue};

use super::fib::FibParams;
use super::parse::Packet;

#[repr(C)]
pub(crate) struct Scratch {
    /// The packet at hand.
    pub(super) packet: Packet,
    /// The packet that an ICMP error carries.
    pub(super) carried: Packet,
    /// What is looked for.
    pub(super) key: FlowKey,
    /// The two directions of a new flow: the client's is found by `key`.
    pub(super) forward: FlowValue,
    pub(super) reverse_key: FlowKey,
    pub(super) reverse: FlowValue,
    pub(super) fib_params: FibParams,
}

#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's.
#[inline(always)]
pub(super) fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: map memory, valid for the run, and nobody else's meanwhile (see above). Zeroed at
    // first, and then what programs wrote.
    unsafe { Some(&mut *SCRATCH.get_ptr_mut(0)?) }
}
