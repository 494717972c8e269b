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

/// `struct bpf_fib_lookup` (include/uapi/linux/bpf.h): 64 bytes.
#[repr(C)]
pub(crate) struct Question {
    family: u8,
    proto: u8,
    src_port: u16,
    dst_port: u16,
    /// Zero: how long the packet is, we look at ourselves.
    length: u16,
    /// Where it came in; the answer is where it goes out.
    device: u32,
    flow: u32,
    src: [u32; 4],
    dst: [u32; 4],
    vlan: u32,
    link_src: [u8; 6],
    link_dst: [u8; 6],
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
    *question = Question {
        family: if is_v4 { AF_INET } else { AF_INET6 },
        proto: 0,
        src_port: 0,
        dst_port: 0,
        length: 0,
        device: frame.device(),
        flow: 0,
        src: words(src),
        dst: words(dst),
        vlan: 0,
        link_src: [0; 6],
        link_dst: [0; 6],
    };
    let link = match frame.ask(question) {
        // tc lets the kernel look at the neighbour, who keeps him fresh; but `bpf_redirect_neigh`
        // leaves the old link header in the sum of the whole packet, and a datagram out of a
        // tunnel, whose sum the kernel made itself, is lost at a pod for that (seen on 5.10).
        // Before Linux 6.3 the answer may be one who was never heard of.
        SUCCESS | TOO_LONG if question.link_dst != [0; 6] && (F::IS_XDP || frame.has_sum()) => {
            let [a, b, c, d, e, f] = question.link_dst;
            let [g, h, i, j, k, l] = question.link_src;
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
