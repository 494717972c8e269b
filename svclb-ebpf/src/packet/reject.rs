//! What is sent back instead of a packet: a refusal, or an error of the way. tc alone does
//! it; XDP passes such packets up.

use svclb_common::{Counter, Proto, checksum};

use super::frame::{ETHERNET, Frame, NextHop};
use super::parse::{Ipv4, Ipv6, Packet, Part};
use crate::counters::count;

/// Why a packet cannot be forwarded.
#[derive(Clone, Copy)]
pub(super) enum Error {
    /// It has been through too many hops.
    NoHops,
    /// It is longer than what the way ahead takes, in bytes.
    TooBig(u32),
}

/// An ICMP error: type, code and the word that follows the checksum (RFC 792, RFC 4443).
#[derive(Clone, Copy)]
struct Message {
    kind: u8,
    code: u8,
    word: u32,
}

/// The hops of what the node itself sends.
const HOPS: u8 = 64;
const NEXT_ICMP: u8 = 1;
const NEXT_ICMPV6: u8 = 58;

/// Tells a client that nobody serves what it asked for: a reset for TCP, port unreachable for
/// UDP, which its socket turns into ECONNREFUSED.
#[inline(always)]
pub(super) fn refuse<F: Frame>(frame: &F, packet: &Packet) -> i32 {
    if F::IS_XDP {
        return F::PASS;
    }
    // Nobody answers a reset, nor a fragment that has no ports to answer to.
    if packet.tcp.rst() || packet.part == Part::Later {
        return F::DROP;
    }
    count(Counter::OutsideRefused);
    let sent = if packet.is_tcp() {
        reset(frame, packet)
    } else {
        let message = if packet.is_v4 {
            Message {
                kind: 3,
                code: 3,
                word: 0,
            }
        } else {
            Message {
                kind: 1,
                code: 4,
                word: 0,
            }
        };
        message_back(frame, packet, message)
    };
    sent.unwrap_or(F::DROP)
}

/// Tells a sender why its packet does not get through.
#[inline(always)]
pub(super) fn error<F: Frame>(frame: &F, packet: &Packet, error: Error) -> i32 {
    if F::IS_XDP {
        return F::PASS;
    }
    count(Counter::DropTooBig);
    let message = match (error, packet.is_v4) {
        (Error::NoHops, true) => Message {
            kind: 11,
            code: 0,
            word: 0,
        },
        (Error::NoHops, false) => Message {
            kind: 3,
            code: 0,
            word: 0,
        },
        (Error::TooBig(mtu), true) => Message {
            kind: 3,
            code: 4,
            word: (mtu & 0xffff).to_be(),
        },
        (Error::TooBig(mtu), false) => Message {
            kind: 2,
            code: 0,
            word: mtu.to_be(),
        },
    };
    message_back(frame, packet, message).unwrap_or(F::DROP)
}

/// Turns the link header round, as a frame goes back where it came from.
#[inline(always)]
fn link_back<F: Frame>(frame: &F) -> Option<[u8; 12]> {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = frame.load::<[u8; 12]>(0)?;
    Some([g, h, i, j, k, l, a, b, c, d, e, f])
}

#[inline(always)]
fn send_back<F: Frame>(frame: &F, link: [u8; 12]) -> i32 {
    frame.send(&NextHop {
        device: frame.device(),
        link: Some(link),
        by_redirect: true,
    })
}

/// A TCP header without options (RFC 9293 section 3.1), all fields in network order.
#[repr(C)]
#[derive(Clone, Copy)]
struct Tcp {
    src_port: u16,
    dst_port: u16,
    sequence: u32,
    acknowledged: u32,
    length: u8,
    flags: u8,
    window: u16,
    checksum: u16,
    urgent: u16,
}

/// A reset in the place of a TCP packet (RFC 9293 section 3.10.7.1).
#[inline(always)]
fn reset<F: Frame>(frame: &F, packet: &Packet) -> Option<i32> {
    const HEADER: u32 = 20;
    const RST: u8 = 4;
    const ACK: u8 = 16;
    let tcp = frame.load::<Tcp>(packet.transport)?;
    let headers = packet.transport - ETHERNET + u32::from(tcp.length >> 4) * 4;
    let data = packet.length.checked_sub(headers)?;
    let (sequence, acknowledged, flags) = if packet.tcp.ack() {
        (tcp.acknowledged, 0, RST)
    } else {
        // The SYN and the FIN count as a byte each.
        let length = data + u32::from(packet.tcp.opens()) + u32::from(packet.tcp.fin());
        let next = u32::from_be(tcp.sequence).wrapping_add(length);
        (0, next.to_be(), RST | ACK)
    };
    let link = link_back(frame)?;
    let length = if packet.is_v4 { 20 } else { 40 };
    frame.cut(ETHERNET + length + HEADER)?;
    let mut answer = Tcp {
        src_port: tcp.dst_port,
        dst_port: tcp.src_port,
        sequence,
        acknowledged,
        length: 5 << 4,
        flags,
        window: 0,
        checksum: 0,
        urgent: 0,
    };
    let pseudo = write_network(frame, ETHERNET, packet, Proto::TCP.number(), HEADER)?;
    let [ports, control] = [
        super::rewrite::ports(packet.tuple.dst_port, packet.tuple.src_port),
        u32::from_ne_bytes([answer.length, answer.flags, 0, 0]),
    ];
    answer.checksum = checksum::of([ports, sequence, acknowledged, control], pseudo);
    frame.store(ETHERNET + length, answer)?;
    Some(send_back(frame, link))
}

/// Writes the network header of an answer to a packet, and returns the sum of the pseudo
/// header for the checksum of what follows.
#[inline(always)]
fn write_network<F: Frame>(
    frame: &F,
    at: u32,
    packet: &Packet,
    next: u8,
    length: u32,
) -> Option<u32> {
    let (from, to) = (packet.tuple.dst, packet.tuple.src);
    // Protocol and length as the words of the pseudo header (RFC 9293, RFC 8200 section 8.1).
    let rest = [
        u32::from_ne_bytes([0, next, 0, 0]),
        (length & 0xffff).to_be(),
    ];
    if packet.is_v4 {
        const HEADER: u32 = 20;
        let mut header = Ipv4 {
            version_and_length: 0x45,
            service: 0,
            length: ((HEADER + length) as u16).to_be(),
            id: 0,
            fragment: u16::to_be(0x4000),
            hops: HOPS,
            proto: next,
            checksum: 0,
            src: from.v4_word(),
            dst: to.v4_word(),
        };
        let [a, b] = header.length.to_ne_bytes();
        let [c, d] = header.fragment.to_ne_bytes();
        header.checksum = checksum::of(
            [
                u32::from_ne_bytes([header.version_and_length, 0, a, b]),
                u32::from_ne_bytes([0, 0, c, d]),
                u32::from_ne_bytes([HOPS, next, 0, 0]),
                header.src,
                header.dst,
            ],
            0,
        );
        frame.store(at, header)?;
        return Some(sum([header.src, header.dst, rest[0], rest[1]]));
    }
    frame.store(
        at,
        Ipv6 {
            version_and_flow: 0x6000_0000_u32.to_be(),
            length: (length as u16).to_be(),
            next,
            hops: HOPS,
            src: from.words(),
            dst: to.words(),
        },
    )?;
    let [a, b, c, d] = from.words();
    let [e, f, g, h] = to.words();
    Some(sum([a, b, c, d, e, f, g, h, rest[0], rest[1]]))
}

#[inline(always)]
fn sum<const N: usize>(words: [u32; N]) -> u32 {
    // From nothing to the words: their sum, and that of as many "minus zero"s, which is none.
    checksum::change([0; N], words)
}

/// An ICMP error about a packet, which carries the packet's network header (in IPv6 with that of
/// a fragment) and the eight bytes after it: all that a sender needs to find its socket.
#[inline(always)]
fn message_back<F: Frame>(frame: &F, packet: &Packet, message: Message) -> Option<i32> {
    const HEADER: u32 = 8;
    const CARRIED: u32 = 8;
    const FRAGMENT: u32 = 8;
    // With options or other extension headers the ports would be too far away.
    let plain = if packet.is_v4 { 20 } else { 40 };
    let headers = packet.transport - ETHERNET;
    let has_fragment = !packet.is_v4 && headers == plain + FRAGMENT;
    if headers != plain && !has_fragment {
        return None;
    }
    let link = link_back(frame)?;
    let kind = frame.load::<u16>(12)?;
    frame.cut(ETHERNET + headers + CARRIED)?;
    frame.grow(plain + HEADER)?;
    frame.store(12, kind)?;
    let next = if packet.is_v4 { NEXT_ICMP } else { NEXT_ICMPV6 };
    let length = HEADER + headers + CARRIED;
    let pseudo = write_network(frame, ETHERNET, packet, next, length)?;
    let first = u32::from_ne_bytes([message.kind, message.code, 0, 0]);
    // ICMP has no pseudo header (RFC 792); ICMPv6 has (RFC 4443 section 2.3).
    let seed = if packet.is_v4 { 0 } else { pseudo };
    let at = ETHERNET + plain + HEADER;
    let seed = checksum::add(seed, sum([first, message.word]));
    let field = if packet.is_v4 {
        checksum::of(frame.load::<[u32; 7]>(at)?, seed)
    } else if has_fragment {
        checksum::of(frame.load::<[u32; 14]>(at)?, seed)
    } else {
        checksum::of(frame.load::<[u32; 12]>(at)?, seed)
    };
    let [a, b] = field.to_ne_bytes();
    frame.store(
        ETHERNET + plain,
        [
            u32::from_ne_bytes([message.kind, message.code, a, b]),
            message.word,
        ],
    )?;
    Some(send_back(frame, link))
}
