//! Packets of clients outside: translated to a backend, and their replies back. One path for
//! both hooks: XDP finishes what it can and passes up the rest, and tc does everything.
//!
//! A module uses those above it alone. Headers, checksums, rewriting and rejects are the crate
//! `svclb-packet`.
//!
//! | module | what is there |
//! |---|---|
//! | `frame` | what differs between XDP and tc: how a frame is sent on |
//! | `prefilter` | whether a frame can be of no Service, by its port alone |
//! | `verdict` | what becomes of a packet, and counting it: the only way to drop one |
//! | `flows` | conntrack: the only module that writes `FLOWS` |
//! | `fragments` | the ports of the fragments that carry none |
//! | `fib` | the kernel's routing table |
//! | `local_socket` | whether a socket of this node has an address and port |
//! | `scratch` | what is too large for the stack |
//! | `reject` | resets and ICMP errors sent back |
//! | `forward` | a packet of a known flow: translated, and sent on where the kernel can't |
//! | `icmp` | errors about packets that were translated |
//! | `new_flow` | the first packet: which frontend, which backend, which source |

mod fib;
mod flows;
mod forward;
mod fragments;
mod frame;
mod icmp;
mod local_socket;
mod new_flow;
mod prefilter;
mod reject;
mod scratch;
mod verdict;

use svclb_common::{FlowKey, FlowValue, Hook};
use svclb_packet::parse::{Kind, Part, parse};

pub(crate) use frame::{TcFrame, XdpFrame};

use frame::HookFrame;
use scratch::Scratch;
use verdict::Verdict;

/// A packet came in by one of our devices. Returns the action of the hook.
#[inline(always)]
pub(crate) fn incoming<F: HookFrame>(frame: &F) -> i32 {
    if prefilter::cannot_match(frame, Hook::INGRESS) {
        return F::PASS;
    }
    let Some(scratch) = scratch::scratch() else {
        return F::PASS;
    };
    let verdict = ingress(frame, scratch);
    verdict::carry_out(frame, &scratch.route.next_hop, verdict)
}

/// A packet is about to leave by one of our devices. Returns the action of the hook.
#[inline(always)]
pub(crate) fn outgoing<F: HookFrame>(frame: &F) -> i32 {
    if prefilter::cannot_match(frame, Hook::EGRESS) {
        return F::PASS;
    }
    let Some(scratch) = scratch::scratch() else {
        return F::PASS;
    };
    let verdict = egress(frame, scratch);
    verdict::carry_out(frame, &scratch.route.next_hop, verdict)
}

#[inline(always)]
fn ingress<F: HookFrame>(frame: &F, scratch: &mut Scratch) -> Verdict {
    match read(frame, scratch) {
        Kind::Packet => {}
        Kind::Icmp if !F::IS_XDP => return icmp::translate(frame, scratch, Hook::INGRESS),
        _ => return Verdict::Pass,
    }
    match find(scratch, Hook::INGRESS) {
        Some(flow) => forward::translate(frame, &scratch.packet, &mut scratch.route, flow),
        None => new_flow::open(frame, scratch),
    }
}

#[inline(always)]
fn egress<F: HookFrame>(frame: &F, scratch: &mut Scratch) -> Verdict {
    match read(frame, scratch) {
        Kind::Packet => {}
        Kind::Icmp => return icmp::translate(frame, scratch, Hook::EGRESS),
        _ => return Verdict::Pass,
    }
    match find(scratch, Hook::EGRESS) {
        Some(flow) => forward::translate(frame, &scratch.packet, &mut scratch.route, flow),
        None => Verdict::Pass,
    }
}

/// Reads the headers; a later fragment gets the ports of the first one.
#[inline(always)]
fn read<F: HookFrame>(frame: &F, scratch: &mut Scratch) -> Kind {
    match parse(frame, &mut scratch.packet) {
        Kind::LaterFragment if F::IS_XDP => Kind::Other,
        Kind::LaterFragment => match fragments::set_ports(&mut scratch.packet) {
            Some(()) => Kind::Packet,
            None => Kind::Other,
        },
        kind => kind,
    }
}

/// The flow of a packet, if there is one.
#[inline(always)]
fn find(scratch: &mut Scratch, hook: Hook) -> Option<&'static FlowValue> {
    scratch.key = FlowKey::new(scratch.packet.tuple, scratch.packet.proto(), hook);
    let flow = flows::find(&scratch.key, &scratch.packet)?;
    if scratch.packet.part == Part::First {
        fragments::remember(&scratch.packet);
    }
    Some(flow)
}
