//! What is too large for a program's stack of 512 bytes: one for each CPU.
//!
//! No packet program interrupts another one on its CPU: all run in softirqs, or with them
//! disabled.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use svclb_common::{FlowKey, FlowValue};
use svclb_packet::parse::Packet;

use super::fib::Route;

#[repr(C)]
pub(super) struct Scratch {
    /// The packet at hand.
    pub(super) packet: Packet,
    /// The packet that an ICMP error carries.
    pub(super) carried: Packet,
    /// The key that the packet's flow is looked up by.
    pub(super) key: FlowKey,
    /// The client's direction of a new flow, whose key is `key`.
    pub(super) forward: FlowValue,
    /// The other direction of a new flow.
    pub(super) reverse_key: FlowKey,
    pub(super) reverse: FlowValue,
    /// The two directions of a flow that may have to make room.
    pub(super) candidate: FlowKey,
    pub(super) other: FlowKey,
    /// Where the packet is sent.
    pub(super) route: Route,
}

#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's.
#[inline(always)]
pub(super) fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: map memory, valid for the run, and no other program's meanwhile (see above). Zeroed at
    // first, and then what programs wrote.
    unsafe { Some(&mut *SCRATCH.get_ptr_mut(0)?) }
}
