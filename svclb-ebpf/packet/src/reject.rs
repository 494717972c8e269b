//! What is written in the place of a packet that is rejected: a TCP reset, or an ICMP error. tc
//! alone can: XDP has no way to make a frame longer.

use svclb_common::Proto;

use crate::checksum::{self, sum};
use crate::frame::Frame;
use crate::headers::{FRAGMENT_LEN, ICMP, ICMPV6, IPV4_LEN, IPV6_LEN, Ipv4, Ipv6, TCP_LEN, Tcp};
use crate::parse::{Packet, Part, TcpFlags};
use crate::rewrite::ports_word;

/// Why a packet is rejected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reject {
    /// Nothing serves its destination: a reset for TCP, port unreachable for UDP, which a socket
    /// turns into ECONNREFUSED.
    Unserved,
    /// Its hop limit is used up.
    HopLimit,
    /// It is longer than the next link takes, in bytes.
    TooBig(u32),
}

/// An ICMP error: type, code and the word that follows the checksum (RFC 792, RFC 4443).
#[derive(Clone, Copy)]
struct Message {
    kind: u8,
    code: u8,
    word: u32,
}

/// The hop limit of what the node itself sends.
const HOP_LIMIT: u8 = 64;

/// Writes the reject of a packet in its place, and returns the link header by which it goes back:
/// destination and source address. `None` if there is none to be sent: for a reset, for a fragment
/// without ports, and for a packet whose headers an error could not carry. What is in the frame
/// then is not to be sent.
#[inline(always)]
pub fn write<F: Frame>(frame: &F, packet: &Packet, reject: Reject) -> Option<[u8; 12]> {
    if let Reject::Unserved = reject {
        if packet.tcp.rst() || packet.part == Part::Later {
            return None;
        }
        if packet.is_tcp() {
            return reset(frame, packet);
        }
    }
    icmp_error(frame, packet, message(reject, packet.is_v4))
}

#[inline(always)]
const fn message(reject: Reject, is_v4: bool) -> Message {
    let (kind, code, word) = match (reject, is_v4) {
        (Reject::Unserved, true) => (3, 3, 0),
        (Reject::Unserved, false) => (1, 4, 0),
        (Reject::HopLimit, true) => (11, 0, 0),
        (Reject::HopLimit, false) => (3, 0, 0),
        (Reject::TooBig(mtu), true) => (3, 4, (mtu & 0xffff).to_be()),
        (Reject::TooBig(mtu), false) => (2, 0, mtu.to_be()),
    };
    Message { kind, code, word }
}

/// The link header turned round, as a frame goes back where it came from; zeros without one.
#[inline(always)]
fn link_back<F: Frame>(frame: &F) -> Option<[u8; 12]> {
    if F::NETWORK == 0 {
        return Some([0; 12]);
    }
    let [a, b, c, d, e, f, g, h, i, j, k, l] = frame.load::<[u8; 12]>(0)?;
    Some([g, h, i, j, k, l, a, b, c, d, e, f])
}

/// A reset in the place of a TCP packet (RFC 9293 section 3.10.7.1).
#[inline(always)]
fn reset<F: Frame>(frame: &F, packet: &Packet) -> Option<[u8; 12]> {
    let tcp = frame.load::<Tcp>(packet.transport)?;
    let headers = packet.transport - F::NETWORK + u32::from(tcp.length >> 4) * 4;
    let data = packet.length.checked_sub(headers)?;
    let (sequence, acknowledged, flags) = if packet.tcp.ack() {
        (tcp.acknowledged, 0, TcpFlags::RST)
    } else {
        // The SYN and the FIN count as a byte each.
        let length = data + u32::from(packet.tcp.opens()) + u32::from(packet.tcp.fin());
        let next = u32::from_be(tcp.sequence).wrapping_add(length);
        (0, next.to_be(), TcpFlags::RST | TcpFlags::ACK)
    };
    let link = link_back(frame)?;
    let length = if packet.is_v4 { IPV4_LEN } else { IPV6_LEN };
    frame.cut(F::NETWORK + length + TCP_LEN)?;
    let mut reply = Tcp {
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
    let pseudo = network(frame, packet, Proto::TCP.number(), TCP_LEN)?;
    let ports = ports_word(packet.tuple.dst_port, packet.tuple.src_port);
    let control = u32::from_ne_bytes([reply.length, reply.flags, 0, 0]);
    reply.checksum = checksum::of([ports, sequence, acknowledged, control], pseudo);
    frame.store(F::NETWORK + length, reply)?;
    Some(link)
}

/// Writes the network header of a reply to a packet, and returns the sum of the pseudo
/// header for the checksum of what follows, which is `length` bytes of protocol `next`.
#[inline(always)]
fn network<F: Frame>(frame: &F, packet: &Packet, next: u8, length: u32) -> Option<u32> {
    let (from, to) = (packet.tuple.dst, packet.tuple.src);
    // Protocol and length as the words of the pseudo header (RFC 9293, RFC 8200 section 8.1).
    let rest = [
        u32::from_ne_bytes([0, next, 0, 0]),
        (length & 0xffff).to_be(),
    ];
    if packet.is_v4 {
        /// Don't fragment.
        const WHOLE: u16 = u16::to_be(0x4000);
        let mut header = Ipv4 {
            version_and_length: 0x45,
            service: 0,
            length: ((IPV4_LEN + length) as u16).to_be(),
            id: 0,
            fragment: WHOLE,
            hop_limit: HOP_LIMIT,
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
                u32::from_ne_bytes([HOP_LIMIT, next, 0, 0]),
                header.src,
                header.dst,
            ],
            0,
        );
        frame.store(F::NETWORK, header)?;
        return Some(sum([header.src, header.dst, rest[0], rest[1]]));
    }
    frame.store(
        F::NETWORK,
        Ipv6 {
            version_and_flow: 0x6000_0000_u32.to_be(),
            length: (length as u16).to_be(),
            next,
            hop_limit: HOP_LIMIT,
            src: from.words(),
            dst: to.words(),
        },
    )?;
    let [a, b, c, d] = from.words();
    let [e, f, g, h] = to.words();
    Some(sum([a, b, c, d, e, f, g, h, rest[0], rest[1]]))
}

/// An ICMP error about a packet, which carries the packet's network header (in IPv6 with that of
/// a fragment) and the eight bytes after it: all that a sender needs to find its socket.
#[inline(always)]
fn icmp_error<F: Frame>(frame: &F, packet: &Packet, message: Message) -> Option<[u8; 12]> {
    const HEADER: u32 = 8;
    const CARRIED: u32 = 8;
    // With options or other extension headers the ports would be too far away.
    let plain = if packet.is_v4 { IPV4_LEN } else { IPV6_LEN };
    let headers = packet.transport - F::NETWORK;
    let has_fragment = !packet.is_v4 && headers == plain + FRAGMENT_LEN;
    if headers != plain && !has_fragment {
        return None;
    }
    let link = link_back(frame)?;
    frame.cut(F::NETWORK + headers + CARRIED)?;
    frame.grow(plain + HEADER)?;
    let next = if packet.is_v4 { ICMP } else { ICMPV6 };
    let pseudo = network(frame, packet, next, HEADER + headers + CARRIED)?;
    let first = u32::from_ne_bytes([message.kind, message.code, 0, 0]);
    // ICMP has no pseudo header (RFC 792); ICMPv6 has (RFC 4443 section 2.3).
    let seed = if packet.is_v4 { 0 } else { pseudo };
    let at = F::NETWORK + plain + HEADER;
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
        F::NETWORK + plain,
        [
            u32::from_ne_bytes([message.kind, message.code, a, b]),
            message.word,
        ],
    )?;
    Some(link)
}
