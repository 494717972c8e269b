//! Conntrack: the only module of the kernel half that writes `FLOWS`.
//!
//! A flow never moves while it lives: its backend and source are looked up, and chosen again only
//! where its client opens it anew. The agent removes entries that are over.

use svclb_common::{FlowFlags, FlowKey, FlowValue};
use svclb_packet::parse::Packet;

use crate::kernel::now_ns;
use crate::maps::FLOWS;

/// How precisely is known when a flow was last seen: writing it for each packet would move the
/// entry from CPU to CPU.
const PRECISION_NS: u64 = 1_000_000_000;

/// `BPF_NOEXIST`.
const NO_EXIST: u64 = 1;
const EEXIST: i32 = -17;

/// Why a direction could not be entered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Its key is another flow's.
    Taken,
    /// Another CPU just entered it, for another packet of the flow.
    Opened,
    /// There is no room.
    Full,
}

/// How a direction was entered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Entered {
    /// Nothing had its key.
    New,
    /// In the place of an entry that leads to the same, or is over.
    Replaced,
}

/// The flow of a packet, whose entry is marked as seen. None for a packet that opens a flow where the
/// entry is over.
#[inline(always)]
pub(super) fn find(key: &FlowKey, packet: &Packet) -> Option<&'static FlowValue> {
    let known = FLOWS.get_ptr_mut(key)?;
    // SAFETY: map memory, valid for the run. Only flows that are over are deleted, and no program
    // ever writes the addresses of an entry again. What is written are aligned words, and a lost
    // update of one is of no harm.
    unsafe {
        let flags = (&raw const (*known).flags).read_volatile();
        if packet.tcp.opens() && flags.contains(FlowFlags::FROM_CLIENT) && is_over(key, &*known) {
            return None;
        }
        let mut seen = flags.union(seen(packet));
        let now = now_ns();
        let last = (&raw const (*known).last_seen_ns).read_volatile();
        if now.wrapping_sub(last) > PRECISION_NS {
            (&raw mut (*known).last_seen_ns).write_volatile(now);
            seen = seen.union(FlowFlags::STREAM);
        }
        if seen != flags {
            (&raw mut (*known).flags).write_volatile(seen);
        }
        Some(&*known)
    }
}

/// The flow of a tuple, without marking it as seen.
#[inline(always)]
pub(super) fn peek(key: &FlowKey) -> Option<&'static FlowValue> {
    // SAFETY: as above.
    unsafe { FLOWS.get(key) }
}

/// What a packet shows of its direction. An opening one shows nothing yet: its source may be forged,
/// and what it opens must not be remembered for long.
#[inline(always)]
const fn seen(packet: &Packet) -> FlowFlags {
    let tcp = packet.tcp;
    let mut flags = if packet.is_udp() || tcp.ack() {
        FlowFlags::SEEN
    } else {
        FlowFlags::NONE
    };
    if tcp.fin() {
        flags = flags.union(FlowFlags::FIN);
    }
    if tcp.rst() {
        flags = flags.union(FlowFlags::RST);
    }
    flags
}

/// Whether a TCP flow came to its end, so that its addresses may be used again: a reset, or a FIN of
/// both sides; or its other direction is gone.
#[inline(always)]
fn is_over(key: &FlowKey, flow: &FlowValue) -> bool {
    if flow.flags.contains(FlowFlags::RST) {
        return true;
    }
    let other = peek(&flow.other(key.proto));
    let Some(other) = other.filter(|other| other.other(key.proto) == *key) else {
        return true;
    };
    let is_done = flow.flags.contains(FlowFlags::FIN) && other.flags.contains(FlowFlags::FIN);
    is_done || other.flags.contains(FlowFlags::RST)
}

/// Enters the reverse direction of a new flow.
#[inline(always)]
pub(super) fn enter_reverse(key: &FlowKey, value: &FlowValue) -> Result<Entered, Refused> {
    match FLOWS.insert(key, value, NO_EXIST) {
        Ok(()) => Ok(Entered::New),
        Err(EEXIST) => replace(key, value),
        Err(_) => Err(Refused::Full),
    }
}

/// Takes the place of an entry that leads to the same, or has been over for a while: packets of the
/// old flow that are still on their way must not reach the new one's client.
#[inline(always)]
fn replace(key: &FlowKey, value: &FlowValue) -> Result<Entered, Refused> {
    const WHILE_NS: u64 = 10_000_000_000;
    let is_free = match peek(key) {
        Some(known) => {
            let is_quiet = value.last_seen_ns.wrapping_sub(known.last_seen_ns) > WHILE_NS;
            known.tuple == value.tuple || is_quiet && is_over(key, known)
        }
        None => true,
    };
    if !is_free {
        return Err(Refused::Taken);
    }
    renew(key, value)?;
    Ok(Entered::Replaced)
}

/// Enters the client's direction of a new flow, where there is none.
#[inline(always)]
pub(super) fn enter_forward(key: &FlowKey, value: &FlowValue) -> Result<(), Refused> {
    FLOWS
        .insert(key, value, NO_EXIST)
        .map_err(|errno| match errno {
            EEXIST => Refused::Opened,
            _ => Refused::Full,
        })
}

/// Enters a direction of a new flow, in the place of one that is over.
#[inline(always)]
pub(super) fn renew(key: &FlowKey, value: &FlowValue) -> Result<(), Refused> {
    FLOWS.insert(key, value, 0).map_err(|_errno| Refused::Full)
}

/// Removes the reverse direction that this run entered for a flow that another CPU opened meanwhile,
/// unless it is that flow's own: both may have come to the same backend and source.
#[inline(always)]
pub(super) fn take_back(reverse_key: &FlowKey, opened: &FlowValue) {
    if opened.other(reverse_key.proto) != *reverse_key {
        let _gone = FLOWS.remove(reverse_key);
    }
}
