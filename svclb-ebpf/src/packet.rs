//! Packets of Services: translated to a backend, and their replies back. One path for all hooks: in tc
//! the kernel forwards what was translated; in the direct mode XDP finishes what it can and passes up
//! the rest.
//!
//! A module uses those above it alone. Headers, checksums, rewriting and rejects are the crate
//! `svclb-packet`.
//!
//! | module | what is there |
//! |---|---|
//! | `frame` | what differs between XDP and tc: how a frame is sent on |
//! | `prefilter` | whether a frame can be of no Service, by its ports alone |
//! | `verdict` | what becomes of a packet, and counting it: the only way to drop one |
//! | `flows` | conntrack: the only module that writes `FLOWS` |
//! | `fragments` | the ports of the fragments that carry none |
//! | `fib` | the kernel's routing table |
//! | `local_socket` | the sockets of this node |
//! | `scratch` | what is too large for the stack |
//! | `reject` | resets and ICMP errors sent back |
//! | `pair` | entering both directions of a new flow |
//! | `forward` | a packet of a known flow: translated, and in the direct mode sent on |
//! | `return_path` | replies leave by the device that their client's packets come in by |
//! | `icmp` | errors about packets that were translated |
//! | `new_flow` | the first packet comes in: which frontend, which backend |
//! | `masquerade` | the first packet leaves: which source |

mod fib;
mod flows;
mod forward;
mod fragments;
mod frame;
mod icmp;
mod local_socket;
mod masquerade;
mod new_flow;
mod pair;
mod prefilter;
mod reject;
mod return_path;
mod scratch;
mod verdict;

use svclb_common::{FlowKey, FlowValue, Hook};
use svclb_packet::parse::{Kind, Part, parse};

pub(crate) use frame::{TcFrame, XdpFrame};

use frame::HookFrame;
use scratch::Scratch;
use verdict::Verdict;

/// The kernel forwards what was translated.
pub(crate) const KERNEL: bool = false;
/// Packets to other nodes, and their replies, are sent on past the kernel's routing.
pub(crate) const DIRECT: bool = true;

/// A packet came in by one of our devices. Returns the action of the hook.
#[inline(always)]
pub(crate) fn incoming<F: HookFrame, const MODE: bool>(frame: &F) -> i32 {
    if prefilter::cannot_match_ingress(frame) {
        return F::PASS;
    }
    let Some(scratch) = scratch::scratch() else {
        return F::PASS;
    };
    let verdict = ingress::<F, MODE>(frame, scratch);
    verdict::carry_out(frame, &scratch.route.next_hop, verdict)
}

/// A packet is about to leave by one of our devices. Returns the action of the hook.
#[inline(always)]
pub(crate) fn outgoing<F: HookFrame>(frame: &F) -> i32 {
    if prefilter::cannot_match_egress(frame) {
        return F::PASS;
    }
    let Some(scratch) = scratch::scratch() else {
        return F::PASS;
    };
    let verdict = egress(frame, scratch);
    verdict::carry_out(frame, &scratch.route.next_hop, verdict)
}

#[inline(always)]
fn ingress<F: HookFrame, const MODE: bool>(frame: &F, scratch: &mut Scratch) -> Verdict {
    match read(frame, scratch) {
        Kind::Packet => {}
        Kind::Icmp if !F::IS_XDP => {
            return icmp::translate::<F, MODE>(frame, scratch, Hook::INGRESS);
        }
        _ => return Verdict::Pass,
    }
    match find(scratch, Hook::INGRESS) {
        Some(flow) => {
            return_path::update(frame, &scratch.key, flow, &scratch.packet);
            forward::translate::<F, MODE>(frame, &scratch.packet, &mut scratch.route, flow)
        }
        None => new_flow::open::<F, MODE>(frame, scratch),
    }
}

#[inline(always)]
fn egress<F: HookFrame>(frame: &F, scratch: &mut Scratch) -> Verdict {
    match read(frame, scratch) {
        Kind::Packet => {}
        Kind::Icmp => return icmp::translate::<F, KERNEL>(frame, scratch, Hook::EGRESS),
        _ => return Verdict::Pass,
    }
    let Some(flow) = find(scratch, Hook::EGRESS) else {
        return masquerade::open(frame, scratch);
    };
    let verdict = forward::translate::<F, KERNEL>(frame, &scratch.packet, &mut scratch.route, flow);
    if let Verdict::Translated = verdict
        && let Some(next_hop) = return_path::next_hop(frame, &scratch.packet, flow)
    {
        scratch.route.next_hop = next_hop;
        return Verdict::Redirect;
    }
    verdict
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
