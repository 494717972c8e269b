//! Where a packet leaves that the kernel is not to route: one to a backend elsewhere, or back
//! from there to its client. Its source is an address of this node, and the kernel takes no
//! such packet in from a device (`fib_validate_source`).

use svclb_common::{Addr16, Counter, DeviceFlags, Tuple};

use super::answer::{self, Error};
use super::frame::{ETHERNET, Frame, Way};
use super::parse::Packet;
use super::rewrite::{hop, rewrite};
use super::scratch::Scratch;
use crate::counters::count;
use crate::maps;

/// `struct bpf_fib_lookup` (include/uapi/linux/bpf.h): 64 bytes. What is cleared together is one
/// number, for many small ones would be cleared by a call of `memset` (see
/// [`OverflowKey::reserved`](svclb_common::OverflowKey::reserved)).
#[repr(C)]
pub(crate) struct Question {
    /// The family is the first byte. Zero are the protocol, the ports, and the length of the packet:
    /// at that we look ourselves.
    family: u64,
    /// Where it came in; the answer is where it goes out.
    device: u32,
    flow: u32,
    src: [u32; 4],
    dst: [u32; 4],
    /// The VLAN, four bytes, and then the link addresses of source and destination.
    link: [u64; 2],
}

const _: () = assert!(size_of::<Question>() == 64);

/// The kernel's answer to where an address is.
#[inline(always)]
pub(super) fn way<F: Frame>(
    frame: &F,
    question: &mut Question,
    is_v4: bool,
    src: Addr16,
    dst: Addr16,
) -> Option<Way> {
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    const SUCCESS: i64 = 0;
    const NO_NEIGHBOUR: i64 = 7;
    /// The frame is too long for the device; what its packets are, we look at ourselves.
    const TOO_LONG: i64 = 8;
    let words = |addr: Addr16| {
        if is_v4 {
            [addr.v4_word(), 0, 0, 0]
        } else {
            addr.words()
        }
    };
    let family = if is_v4 { AF_INET } else { AF_INET6 };
    question.family = u64::from_ne_bytes([family, 0, 0, 0, 0, 0, 0, 0]);
    question.device = frame.device();
    question.flow = 0;
    question.src = words(src);
    question.dst = words(dst);
    // The half with the destination, which shows whether there was an answer.
    question.link[1] = 0;
    let answer = frame.ask(question);
    let [_, _, _, _, g, h, i, j] = question.link[0].to_ne_bytes();
    let [k, l, a, b, c, d, e, f] = question.link[1].to_ne_bytes();
    let link = match answer {
        // tc lets the kernel look at the neighbour, who keeps him fresh; but `bpf_redirect_neigh`
        // leaves the old link header in the sum of the whole packet, and a datagram out of a
        // tunnel, whose sum the kernel made itself, is lost at a pod for that (seen on 5.10).
        // Before Linux 6.3 the answer may be one who was never heard of.
        SUCCESS | TOO_LONG if [a, b, c, d, e, f] != [0; 6] && (F::IS_XDP || frame.has_sum()) => {
            Some([a, b, c, d, e, f, g, h, i, j, k, l])
        }
        SUCCESS | TOO_LONG | NO_NEIGHBOUR => None,
        _ => return None,
    };
    Some(Way {
        device: question.device,
        link,
        by_redirect: false,
    })
}

/// Gives a packet the addresses of its flow, and forwards it.
#[inline(always)]
pub(super) fn forward<F: Frame>(frame: &F, scratch: &mut Scratch, to: &Tuple) -> i32 {
    let Scratch {
        packet, question, ..
    } = scratch;
    if packet.hops <= 1 {
        return answer::error(frame, packet, Error::NoHops);
    }
    let Some(mut way) = way(frame, question, packet.is_v4, to.src, to.dst) else {
        // XDP is not told of every kind of route.
        if F::IS_XDP {
            return F::PASS;
        }
        count(Counter::DropNoRoute);
        return F::DROP;
    };
    let device = maps::device(way.device);
    if F::IS_XDP {
        let takes = device.is_some_and(|device| device.flags.contains(DeviceFlags::XDP_TARGET));
        if way.link.is_none() || !takes && way.device != frame.device() {
            return F::PASS;
        }
        way.by_redirect = takes;
    }
    if let Some(device) = device
        && device.mtu != 0
        && longest(frame, packet) > device.mtu
    {
        return answer::error(frame, packet, Error::TooBig(device.mtu));
    }
    let sent = hop(frame, packet.is_v4, packet.hops)
        .and_then(|()| rewrite(frame, packet, to))
        .map(|()| frame.send(&way));
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
