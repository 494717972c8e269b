//! From bytes to addresses, ports and protocol.

use svclb_common::{Addr16, FragmentKey, PortBe, Proto, Tuple};

use super::fragments;
use super::frame::{ETHERNET, Frame};

pub(super) const IPV4: u16 = u16::to_be(0x0800);
pub(super) const IPV6: u16 = u16::to_be(0x86dd);
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// An IPv4 header without options (RFC 791 section 3.1), all fields in network order.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Ipv4 {
    pub(super) version_and_length: u8,
    pub(super) service: u8,
    pub(super) length: u16,
    pub(super) id: u16,
    pub(super) fragment: u16,
    pub(super) hops: u8,
    pub(super) proto: u8,
    pub(super) checksum: u16,
    pub(super) src: u32,
    pub(super) dst: u32,
}

/// An IPv6 header (RFC 8200 section 3), all fields in network order.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Ipv6 {
    pub(super) version_and_flow: u32,
    pub(super) length: u16,
    pub(super) next: u8,
    pub(super) hops: u8,
    pub(super) src: [u32; 4],
    pub(super) dst: [u32; 4],
}

/// An IPv6 fragment header (RFC 8200 section 4.5).
#[repr(C)]
#[derive(Clone, Copy)]
struct Fragment {
    next: u8,
    reserved: u8,
    offset_and_more: u16,
    id: u32,
}

/// Where in its datagram a fragment is.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    First,
    Later,
}

/// What the headers of a packet say.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    /// The addresses; and the ports, if it is of a protocol that Services have.
    pub(super) tuple: Tuple,
    /// Where the transport's header begins.
    pub(super) transport: u32,
    /// The length of the packet, without the link header.
    pub(super) length: u32,
    /// The datagram that a fragment is of, in network order.
    id: u32,
    pub(super) is_v4: bool,
    /// The protocol, by its number.
    next: u8,
    pub(super) hops: u8,
    pub(super) part: Part,
    /// The flags of a TCP header; none otherwise.
    pub(super) tcp: TcpFlags,
}

impl Packet {
    /// Its protocol, if it is one that Services have.
    #[inline(always)]
    pub(super) const fn proto(&self) -> Proto {
        if self.next == Proto::TCP.number() {
            Proto::TCP
        } else {
            Proto::UDP
        }
    }

    #[inline(always)]
    pub(super) const fn is_udp(&self) -> bool {
        self.next == Proto::UDP.number()
    }

    #[inline(always)]
    pub(super) const fn is_tcp(&self) -> bool {
        self.next == Proto::TCP.number()
    }

    /// The key of the fragments of one datagram.
    #[inline(always)]
    pub(super) const fn datagram(&self) -> FragmentKey {
        FragmentKey {
            src: by_word(self.tuple.src.words()),
            dst: by_word(self.tuple.dst.words()),
            id: self.id,
            proto: self.proto(),
            reserved: 0,
            reserved_half: 0,
        }
    }
}

/// An address, copied word by word: as a whole it would be copied by a call of `memmove` (see
/// [`OverflowKey::reserved`](svclb_common::OverflowKey::reserved)).
#[inline(always)]
const fn by_word([a, b, c, d]: [u32; 4]) -> Addr16 {
    Addr16::from_words([a, b, c, d])
}

/// The flags of a TCP header (RFC 9293 section 3.1).
#[derive(Clone, Copy)]
pub(super) struct TcpFlags(u8);

impl TcpFlags {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 16;

    #[inline(always)]
    pub(super) const fn fin(self) -> bool {
        self.0 & Self::FIN != 0
    }

    #[inline(always)]
    pub(super) const fn rst(self) -> bool {
        self.0 & Self::RST != 0
    }

    #[inline(always)]
    pub(super) const fn ack(self) -> bool {
        self.0 & Self::ACK != 0
    }

    /// Whether it opens a connection.
    #[inline(always)]
    pub(super) const fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST) == Self::SYN
    }
}

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A packet that may be a Service's.
    Packet,
    /// An ICMP message: maybe an error about a packet of a Service.
    Message,
    /// Nothing that could be a Service's, or not for this hook.
    Other,
}

/// Reads the headers of a frame.
#[inline(always)]
pub(super) fn parse<F: Frame>(frame: &F, packet: &mut Packet) -> Kind {
    if network(frame, packet).is_none() {
        return Kind::Other;
    }
    if packet.next == ICMP || packet.next == ICMPV6 {
        return Kind::Message;
    }
    match transport(frame, packet) {
        Some(()) => Kind::Packet,
        None => Kind::Other,
    }
}

/// Reads ports and flags.
#[inline(always)]
fn transport<F: Frame>(frame: &F, packet: &mut Packet) -> Option<()> {
    if !packet.is_tcp() && !packet.is_udp() {
        return None;
    }
    let [src_port, dst_port] = if packet.part == Part::Later {
        fragments::ports(packet)?
    } else {
        frame.load::<[u16; 2]>(packet.transport)?
    };
    // Port zero is nobody's (RFC 768, RFC 9293).
    if src_port == 0 || dst_port == 0 {
        return None;
    }
    packet.tuple.src_port = PortBe::from_bits(src_port);
    packet.tuple.dst_port = PortBe::from_bits(dst_port);
    packet.tcp = TcpFlags(0);
    if packet.is_tcp() && packet.part != Part::Later {
        const FLAGS: u32 = 13;
        packet.tcp = TcpFlags(frame.load::<u8>(packet.transport + FLAGS)?);
    }
    if packet.part == Part::First {
        fragments::remember(packet);
    }
    Some(())
}

/// Reads the ports of a packet that an ICMP error carries, of which there may be no more than
/// eight bytes (RFC 792).
#[inline(always)]
pub(super) fn carried_ports<F: Frame>(frame: &F, packet: &mut Packet) -> Option<()> {
    if packet.part == Part::Later || !packet.is_tcp() && !packet.is_udp() {
        return None;
    }
    let [src_port, dst_port] = frame.load::<[u16; 2]>(packet.transport)?;
    packet.tuple.src_port = PortBe::from_bits(src_port);
    packet.tuple.dst_port = PortBe::from_bits(dst_port);
    Some(())
}

#[inline(always)]
fn network<F: Frame>(frame: &F, packet: &mut Packet) -> Option<()> {
    const TYPE: u32 = 12;
    if !frame.is_ours() {
        return None;
    }
    match frame.load::<u16>(TYPE)? {
        IPV4 => v4(frame, ETHERNET, packet)?,
        IPV6 => v6(frame, ETHERNET, packet)?,
        _ => return None,
    }
    // What is cut short, and what no unicast client sends, is the kernel's to drop.
    let src = packet.tuple.src;
    let is_whole = ETHERNET + packet.length <= frame.len();
    (is_whole && !src.is_loopback() && !src.is_unspecified()).then_some(())
}

/// An IPv4 header.
#[inline(always)]
pub(super) fn v4<F: Frame>(frame: &F, at: u32, packet: &mut Packet) -> Option<()> {
    const MORE_OR_OFFSET: u16 = u16::to_be(0x3fff);
    const OFFSET: u16 = u16::to_be(0x1fff);
    let header = frame.load::<Ipv4>(at)?;
    let length = u32::from(header.version_and_length & 0xf) * 4;
    let is_plain = header.version_and_length == 0x45 && header.fragment & MORE_OR_OFFSET == 0;
    if F::IS_XDP && !is_plain || header.version_and_length >> 4 != 4 || length < 20 {
        return None;
    }
    // Zero is more than it can say: several segments at once (BIG TCP, Linux 6.3).
    let total = match u32::from(u16::from_be(header.length)) {
        0 => frame.len().wrapping_sub(at),
        total => total,
    };
    if total < length {
        return None;
    }
    packet.tuple.src = Addr16::from_v4_word(header.src);
    packet.tuple.dst = Addr16::from_v4_word(header.dst);
    packet.is_v4 = true;
    packet.next = header.proto;
    packet.hops = header.hops;
    packet.transport = at + if F::IS_XDP { 20 } else { length };
    packet.length = total;
    packet.part = if header.fragment & MORE_OR_OFFSET == 0 {
        Part::Whole
    } else if header.fragment & OFFSET == 0 {
        Part::First
    } else {
        Part::Later
    };
    packet.id = u32::from(header.id);
    Some(())
}

/// An IPv6 header, and those that may stand between it and the transport's.
#[inline(always)]
pub(super) fn v6<F: Frame>(frame: &F, at: u32, packet: &mut Packet) -> Option<()> {
    const HEADER: u32 = 40;
    let header = frame.load::<Ipv6>(at)?;
    packet.tuple.src = by_word(header.src);
    packet.tuple.dst = by_word(header.dst);
    // A mapped address on the wire would be taken for IPv4 (RFC 4291 section 2.5.5.2 has no
    // use for one).
    if packet.tuple.src.is_v4()
        || packet.tuple.dst.is_v4()
        || u32::from_be(header.version_and_flow) >> 28 != 6
    {
        return None;
    }
    packet.is_v4 = false;
    packet.next = header.next;
    packet.hops = header.hops;
    packet.transport = at + HEADER;
    packet.length = HEADER + u32::from(u16::from_be(header.length));
    packet.part = Part::Whole;
    packet.id = 0;
    if F::IS_XDP {
        return Some(());
    }
    // More of them than any real sender has are no Service's.
    for _ in 0..4 {
        if !extension(frame, packet)? {
            break;
        }
    }
    Some(())
}

/// Passes over an extension header (RFC 8200 section 4.1); whether there was one.
#[inline(always)]
fn extension<F: Frame>(frame: &F, packet: &mut Packet) -> Option<bool> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    match packet.next {
        _ if packet.part == Part::Later => return Some(false),
        FRAGMENT => {
            const OFFSET: u16 = u16::to_be(0xfff8);
            let fragment = frame.load::<Fragment>(packet.transport)?;
            packet.part = if fragment.offset_and_more & OFFSET != 0 {
                Part::Later
            } else {
                Part::First
            };
            packet.id = fragment.id;
            packet.next = fragment.next;
            packet.transport += size_of::<Fragment>() as u32;
        }
        HOP_BY_HOP | ROUTING | DESTINATION => {
            let [next, length] = frame.load::<[u8; 2]>(packet.transport)?;
            packet.next = next;
            packet.transport += (u32::from(length) + 1) * 8;
        }
        _ => return Some(false),
    }
    Some(true)
}
