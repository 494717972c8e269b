//! Packets of clients outside: translated to a backend, and its answers back. One path for
//! both hooks: XDP finishes what it can and passes up the rest, and tc does everything.
//!
//! | file | what is there |
//! |---|---|
//! | `frame` | what differs between XDP and tc: reaching the bytes, sending them on |
//! | `prefilter` | whether a frame can be anybody's, by its port alone |
//! | `parse` | from bytes to addresses, ports and protocol |
//! | `flows` | conntrack: the only file that writes `FLOWS` |
//! | `new_flow` | a new flow: which frontend, which backend, which source |
//! | `rewrite` | new addresses into the bytes, with the checksums |
//! | `fib` | the kernel's routing: where a packet leaves that the kernel is not to route |
//! | `forward` | a packet to a backend on another node, or back from there |
//! | `reject` | what is sent back instead: refusals, and errors of the way |
//! | `icmp` | errors about packets that were translated |
//! | `scratch` | what is too large for the stack |
//! | `fragments` | the ports of the fragments that have none |

mod fib;
mod flows;
mod forward;
mod fragments;
pub(crate) mod frame;
mod icmp;
mod new_flow;
mod parse;
mod prefilter;
mod reject;
mod rewrite;
mod scratch;

use svclb_common::{Counter, FlowFlags, FlowKey, FlowValue, Hook};

use crate::counters::count;
use frame::Frame;
use parse::{Kind, Packet, parse};
use scratch::Scratch;

/// A packet came in by one of our devices.
#[inline(always)]
pub(crate) fn incoming<F: Frame>(frame: &F) -> i32 {
    if prefilter::cannot_match(frame, Hook::INGRESS) {
        return F::PASS;
    }
    let Some(scratch) = scratch::scratch() else {
        return F::PASS;
    };
    match parse(frame, &mut scratch.packet) {
        Kind::Packet => {}
        Kind::Message if !F::IS_XDP => return icmp::translate(frame, scratch, Hook::INGRESS),
        Kind::Message | Kind::Other => return F::PASS,
    }
    match find(scratch, Hook::INGRESS) {
        Some(flow) => translate(frame, scratch, flow),
        None => new_flow::open(frame, scratch),
    }
}

/// A packet is about to leave by one of our devices.
#[inline(always)]
pub(crate) fn outgoing<F: Frame>(frame: &F) -> i32 {
    if prefilter::cannot_match(frame, Hook::EGRESS) {
        return F::PASS;
    }
    let Some(scratch) = scratch::scratch() else {
        return F::PASS;
    };
    match parse(frame, &mut scratch.packet) {
        Kind::Packet => {}
        Kind::Message => return icmp::translate(frame, scratch, Hook::EGRESS),
        Kind::Other => return F::PASS,
    }
    match find(scratch, Hook::EGRESS) {
        Some(flow) => translate(frame, scratch, flow),
        None => F::PASS,
    }
}

#[inline(always)]
fn find(scratch: &mut Scratch, hook: Hook) -> Option<&'static FlowValue> {
    let Packet { tuple, .. } = scratch.packet;
    scratch.key = FlowKey::new(tuple, scratch.packet.proto(), hook);
    flows::find(&scratch.key, &scratch.packet)
}

/// Gives a packet the addresses of its flow, and sends it on its way.
#[inline(always)]
fn translate<F: Frame>(frame: &F, scratch: &mut Scratch, flow: &FlowValue) -> i32 {
    if flow.flags.contains(FlowFlags::FORWARDED) {
        return forward::forward(frame, scratch, &flow.tuple);
    }
    if rewrite::rewrite(frame, &scratch.packet, &flow.tuple).is_none() {
        return F::DROP;
    }
    count(Counter::Translated);
    F::PASS
}
