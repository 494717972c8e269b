//! Sends a packet to a backend on another node, or from there back to its client.

use svclb_common::{Counter, DeviceFlags, Tuple};

use super::fib::next_hop;
use super::frame::{ETHERNET, Frame};
use super::parse::Packet;
use super::reject::{self, Error};
use super::rewrite::{hop, rewrite};
use super::scratch::Scratch;
use crate::counters::count;
use crate::maps;

/// Gives a packet the addresses of its flow, and forwards it.
#[inline(always)]
pub(super) fn forward<F: Frame>(frame: &F, scratch: &mut Scratch, to: &Tuple) -> i32 {
    let Scratch {
        packet, fib_params, ..
    } = scratch;
    if packet.hops <= 1 {
        return reject::error(frame, packet, Error::NoHops);
    }
    let Some(mut next_hop) = next_hop(frame, fib_params, packet.is_v4, to.src, to.dst) else {
        // XDP is not told of every kind of route.
        if F::IS_XDP {
            return F::PASS;
        }
        count(Counter::DropNoRoute);
        return F::DROP;
    };
    let device = maps::device(next_hop.device);
    if F::IS_XDP {
        let takes = device.is_some_and(|device| device.flags.contains(DeviceFlags::XDP_TARGET));
        if next_hop.link.is_none() || !takes && next_hop.device != frame.device() {
            return F::PASS;
        }
        next_hop.by_redirect = takes;
    }
    if let Some(device) = device
        && device.mtu != 0
        && longest(frame, packet) > device.mtu
    {
        return reject::error(frame, packet, Error::TooBig(device.mtu));
    }
    let sent = hop(frame, packet.is_v4, packet.hops)
        .and_then(|()| rewrite(frame, packet, to))
        .map(|()| frame.send(&next_hop));
    count(Counter::Translated);
    sent.unwrap_or(F::DROP)
}

/// The length of the longest packet that a frame stands for, without the link header.
#[inline(always)]
fn longest<F: Frame>(frame: &F, packet: &Packet) -> u32 {
    const TCP_LENGTH: u32 = 12;
    let segment = frame.segment();
    if segment == 0 {
        return packet.length;
    }
    let header = if packet.is_udp() {
        8
    } else {
        frame
            .load::<u8>(packet.transport + TCP_LENGTH)
            .map_or(20, |length| u32::from(length >> 4) * 4)
    };
    packet.transport - ETHERNET + header + segment
}
