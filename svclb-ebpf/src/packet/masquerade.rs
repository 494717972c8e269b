//! A packet that leaves and is of no flow at this hook: one of a Service's flow is given an address of
//! this node, where it needs one; and flows of the node itself are remembered, so that their replies
//! are left alone.

use svclb_common::{
    Addr16, BackendId, Counter, DeviceFlags, DeviceValue, FlowFlags, FlowKey, FlowValue,
    FrontendKey, Hook, Scope, ServiceId,
};
use svclb_packet::parse::{Packet, Part};
use svclb_packet::rewrite::rewrite;

use super::flows;
use super::frame::HookFrame;
use super::new_flow::{in_snat_range, snat_ports};
use super::pair::{self, Pair, Ports};
use super::scratch::Scratch;
use super::verdict::{DropReason, Verdict};
use crate::counters::count;
use crate::kernel::now_ns;
use crate::maps::{self, MARK};

/// A packet without a flow at egress.
#[inline(always)]
pub(super) fn open<F: HookFrame>(frame: &F, scratch: &mut Scratch) -> Verdict {
    let packet = &scratch.packet;
    let opens = packet.is_udp() || packet.tcp.opens();
    if !opens || packet.part == Part::Later {
        return Verdict::Pass;
    }
    let (src, src_port) = (packet.tuple.src, packet.tuple.src_port);
    let proto = packet.proto();
    scratch.reverse_key = FlowKey::new(packet.tuple.reversed(), proto, Hook::EGRESS);
    let reply = flows::peek(&scratch.reverse_key).filter(|reply| {
        let others = FlowFlags::FROM_CLIENT.union(FlowFlags::OWN);
        reply.flags.intersection(others) == FlowFlags::NONE
    });
    // One place where a flow is entered: each costs the verifier.
    let (own, service, backend) = if let Some(reply) = reply {
        let Some(own) = source(frame, reply, packet.is_v4) else {
            return Verdict::Pass;
        };
        (Some(own), reply.service, reply.backend)
    } else {
        // One that a program sent here is no flow of the node itself, also where the agent has just
        // forgotten its flow.
        let mark = MARK.load();
        let was_translated = mark != 0 && frame.mark() & mark == mark;
        if was_translated || !maps::has_port(Hook::INGRESS, src_port) {
            return Verdict::Pass;
        }
        // Its replies could be taken for a client's first packets, or for those to a flow that this node
        // masqueraded: those come from a backend.
        let may_be_mistaken = if in_snat_range(src_port) {
            maps::has_port(Hook::EGRESS, packet.tuple.dst_port)
                && own_address(maps::device(frame.device()), packet.is_v4) == Some(src)
        } else {
            is_frontend(packet)
        };
        if !may_be_mistaken {
            return Verdict::Pass;
        }
        scratch.reverse_key.hook = Hook::INGRESS;
        let own = match flows::peek(&scratch.reverse_key) {
            // The replies would be taken for those to a flow that was masqueraded: this one is given
            // another port.
            Some(known) if is_masqueraded_reply(known) => Some(src),
            // A reply that is sent by another device, or one that was forwarded past the kernel.
            Some(_) => return Verdict::Pass,
            None => None,
        };
        (own, ServiceId::new(0), BackendId::new(0))
    };
    enter(frame, scratch, own, service, backend)
}

/// Whether an entry is of the replies to a flow that was masqueraded as it left.
#[inline(always)]
fn is_masqueraded_reply(entry: &FlowValue) -> bool {
    entry.flags.contains(FlowFlags::MASQUERADED) && !entry.flags.contains(FlowFlags::FROM_CLIENT)
}

/// Whether a packet is from the address and port of a frontend.
#[inline(always)]
fn is_frontend(packet: &Packet) -> bool {
    // Word by word: as a whole it would be copied by a call of `memmove` (see
    // [`OverflowKey::reserved`](svclb_common::OverflowKey::reserved)).
    let [a, b, c, d] = packet.tuple.src.words();
    let key = FrontendKey {
        addr: Addr16::from_words([a, b, c, d]),
        port: packet.tuple.src_port,
        proto: packet.proto(),
        scope: Scope::ANY,
    };
    maps::has_frontend(&key)
}

/// The address of this node that a flow is given as it leaves by a device. None where the client keeps
/// its own: its replies pass this node's hooks, since the backend is a pod of this node, or the client is.
#[inline(always)]
fn source<F: HookFrame>(frame: &F, reply: &FlowValue, is_v4: bool) -> Option<Addr16> {
    let device = maps::device(frame.device());
    let to_pods = device.is_some_and(|device| device.flags.contains(DeviceFlags::PODS));
    // A backend behind the device by which the client came in would reply to it directly.
    let goes_back = reply.device == frame.device();
    let keeps = to_pods || reply.flags.contains(FlowFlags::INSIDE);
    if keeps && !goes_back && !reply.flags.contains(FlowFlags::MASQUERADE) {
        return None;
    }
    own_address(device, is_v4)
}

/// The address that flows are given as they leave by a device.
#[inline(always)]
fn own_address(device: Option<DeviceValue>, is_v4: bool) -> Option<Addr16> {
    let own = device.and_then(|device| device.address(is_v4));
    own.or_else(|| maps::device(DeviceValue::NODE)?.address(is_v4))
}

/// Gives a flow an address and a port of this node; or remembers one that is the node's own, and leaves
/// it as it is.
#[inline(always)]
fn enter<F: HookFrame>(
    frame: &F,
    scratch: &mut Scratch,
    own: Option<Addr16>,
    service: ServiceId,
    backend: BackendId,
) -> Verdict {
    let value = &mut scratch.forward;
    value.tuple = scratch.packet.tuple.reversed().reversed();
    value.service = service;
    value.backend = backend;
    value.last_seen_ns = now_ns();
    for value in [&mut scratch.forward, &mut scratch.reverse] {
        value.device = 0;
        value.router = [0; 2];
    }
    let (flags, ports) = match own {
        Some(own) => {
            scratch.forward.tuple.src = own;
            (FlowFlags::MASQUERADED, snat_ports())
        }
        None => (FlowFlags::OWN, Ports::OWN),
    };
    let pair = Pair {
        reverse_hook: Hook::INGRESS,
        flags,
        ports,
    };
    let opened = match pair::enter(frame, scratch, pair) {
        Ok(opened) => opened,
        // Where there is no room for a flow of the node itself, it goes on unknown.
        Err(_) if own.is_none() => return Verdict::Pass,
        Err(reason) => return Verdict::Drop(reason),
    };
    if opened.is_none() {
        count(match own {
            Some(_) => Counter::FlowsMasqueraded,
            None => Counter::FlowsOwn,
        });
    }
    if own.is_none() {
        return Verdict::Pass;
    }
    let to = &opened.unwrap_or(&scratch.forward).tuple;
    match rewrite(frame, &scratch.packet, to) {
        Some(()) => Verdict::Translated,
        None => Verdict::Drop(DropReason::NotWritable),
    }
}
