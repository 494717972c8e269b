//! A packet of a known flow: translated, and left to the kernel or, in the direct mode, sent to its next
//! hop.

use svclb_common::{DeviceFlags, FlowFlags, FlowValue, Tuple};
use svclb_packet::headers::{TCP_LEN, UDP_LEN};
use svclb_packet::parse::Packet;
use svclb_packet::rewrite::{decrement_hop_limit, rewrite};

use super::fib::{Route, next_hop};
use super::frame::HookFrame;
use super::reject;
use super::verdict::{DropReason, Verdict};
use crate::maps;

/// Gives a packet the addresses of its flow.
#[inline(always)]
pub(super) fn translate<F: HookFrame, const DIRECT: bool>(
    frame: &F,
    packet: &Packet,
    route: &mut Route,
    flow: &FlowValue,
) -> Verdict {
    if flow.flags.contains(FlowFlags::OWN) {
        return Verdict::Pass;
    }
    if DIRECT && flow.flags.contains(FlowFlags::FORWARDED) {
        return forward(frame, packet, route, &flow.tuple);
    }
    match rewrite(frame, packet, &flow.tuple) {
        Some(()) => Verdict::Translated,
        None => Verdict::Drop(DropReason::NotWritable),
    }
}

/// Gives a packet the addresses of its flow, and sends it on as a router does: to a backend on
/// another node, or from there back to its client.
#[inline(always)]
fn forward<F: HookFrame>(frame: &F, packet: &Packet, route: &mut Route, to: &Tuple) -> Verdict {
    if packet.hop_limit <= 1 {
        return reject::hop_limit(frame, packet, route);
    }
    let Some(mut next_hop) = next_hop(frame, route, packet.is_v4, to.src, to.dst) else {
        // For XDP the lookup knows fewer kinds of routes.
        if F::IS_XDP {
            return Verdict::Pass;
        }
        return Verdict::Drop(DropReason::NoRoute);
    };
    let device = maps::device(next_hop.device);
    if F::IS_XDP {
        let takes = device.is_some_and(|device| device.flags.contains(DeviceFlags::XDP_TARGET));
        if next_hop.link.is_none() || !takes && next_hop.device != frame.device() {
            return Verdict::Pass;
        }
        next_hop.by_redirect = takes;
    }
    if let Some(device) = device
        && !fits(device.mtu, frame, packet)
    {
        return reject::too_big(frame, packet, route, device.mtu);
    }
    // No `and_then`: its closure would become a function of its own, and before Linux 6.2 the verifier
    // takes long over the loops of a program with more than one.
    if decrement_hop_limit(frame, packet.is_v4, packet.hop_limit).is_none()
        || rewrite(frame, packet, to).is_none()
    {
        return Verdict::Drop(DropReason::NotWritable);
    }
    route.next_hop = next_hop;
    Verdict::Redirect
}

/// Whether each packet that a frame stands for is no longer than a device's MTU, where zero is any length.
#[inline(always)]
pub(super) fn fits<F: HookFrame>(mtu: u32, frame: &F, packet: &Packet) -> bool {
    mtu == 0 || longest(frame, packet) <= mtu
}

/// The length of the longest packet that a frame stands for, without the link header.
#[inline(always)]
fn longest<F: HookFrame>(frame: &F, packet: &Packet) -> u32 {
    const TCP_LENGTH_AT: u32 = 12;
    let segment = frame.segment();
    if segment == 0 {
        return packet.length;
    }
    let header = if packet.is_udp() {
        UDP_LEN
    } else {
        frame
            .load::<u8>(packet.transport + TCP_LENGTH_AT)
            .map_or(TCP_LEN, |length| u32::from(length >> 4) * 4)
    };
    packet.transport - F::NETWORK + header + segment
}
