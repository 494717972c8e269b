//! What becomes of a packet, and counting it: the only way to drop one.

use svclb_common::Counter;

use super::frame::{HookFrame, NextHop};
use crate::counters::{count, count_index};
use crate::maps::MARK;

/// What becomes of a packet. [`carry_out`] counts it and turns it into the action of the hook.
///
/// A next hop is not part of it but in map memory: from an enum the compiler would keep its fields in
/// registers, where on other paths pointers are, and the verifier of Linux 5.10 takes one for the other.
#[must_use]
#[derive(Clone, Copy)]
pub(super) enum Verdict {
    /// It goes on as it is.
    Pass,
    /// It has the addresses of its flow, and goes on into the kernel.
    Translated,
    /// It has the addresses of its flow, and is sent to the next hop, past the kernel's routing.
    Redirect,
    /// In its place is a reset or an ICMP error, which is sent back.
    Reject(DropReason),
    /// It is dropped.
    Drop(DropReason),
}

/// Why a packet is dropped or rejected: each is a counter.
#[repr(u32)]
#[derive(Clone, Copy)]
pub(super) enum DropReason {
    /// Nothing serves it, and its sender gets a reset or an ICMP error.
    Unserved = Counter::OutsideRefused as u32,
    /// Nothing serves it, and there is nothing to be sent back.
    UnservedSilently = Counter::DropUnserved as u32,
    /// Only other nodes have endpoints.
    NoLocalEndpoint = Counter::DropNoLocalEndpoint as u32,
    /// `FLOWS` is full of flows that go on.
    FlowsFull = Counter::DropFlowsFull as u32,
    /// No source port is free.
    NoPort = Counter::DropNoPort as u32,
    /// No route leads on.
    NoRoute = Counter::DropNoRoute as u32,
    /// It is longer than the next link takes.
    TooBig = Counter::DropTooBig as u32,
    /// Its hop limit is used up.
    HopLimit = Counter::DropHopLimit as u32,
    /// Its client is in none of the source ranges.
    SourceRange = Counter::DropSourceRange as u32,
    /// The flow that another CPU opened for it was gone when it was looked up.
    FlowGone = Counter::DropFlowGone as u32,
    /// Its frontend changed at each of several readings.
    FrontendUnsettled = Counter::FrontendUnsettled as u32,
    /// It tells a client to send the packets of a flow past this node.
    IcmpRedirect = Counter::DropIcmpRedirect as u32,
    /// The kernel could not make its headers writable.
    NotWritable = Counter::DropNotWritable as u32,
}

/// Counts a verdict, and carries it out. Returns the action of the hook.
#[inline(always)]
pub(super) fn carry_out<F: HookFrame>(frame: &F, next_hop: &NextHop, verdict: Verdict) -> i32 {
    let counted = match verdict {
        Verdict::Pass => return F::PASS,
        Verdict::Translated => {
            frame.set_mark(MARK.load());
            count(Counter::Translated);
            return F::PASS;
        }
        Verdict::Redirect => {
            // The program at the egress of the other device sees that it was translated.
            frame.set_mark(MARK.load());
            Counter::Translated as u32
        }
        Verdict::Reject(reason) | Verdict::Drop(reason) => reason as u32,
    };
    // One place where a frame is sent: each costs the verifier.
    let action = match verdict {
        Verdict::Drop(_) => Some(F::DROP),
        _ => frame.send(next_hop),
    };
    let (counted, action) = match action {
        Some(action) => (counted, action),
        None => (DropReason::NotWritable as u32, F::DROP),
    };
    count_index(counted);
    action
}
