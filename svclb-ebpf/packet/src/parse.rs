//! From bytes to addresses, ports and protocol.

use svclb_common::{Addr16, FragmentKey, PortBe, Proto, Tuple};

use crate::frame::Frame;
use crate::headers::{
    Fragment, ICMP, ICMPV6, IPV4, IPV4_LEN, IPV6, IPV6_LEN, Ipv4, Ipv6, TcpStart,
    V4_MORE_OR_OFFSET, V4_OFFSET,
};

/// Where in its datagram a fragment is.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Not a fragment.
    Whole,
    /// The first one, which carries the header of the transport.
    First,
    /// Any other one.
    Later,
}

/// What the headers of a packet say.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// The addresses; and the ports, if it is of a protocol that Services have.
    pub tuple: Tuple,
    /// The offset of the transport's header in the frame.
    pub transport: u32,
    /// The length of the packet without the link header, in bytes.
    pub length: u32,
    /// The identification of the datagram that a fragment is of, in network order.
    id: u32,
    /// Whether it is of IPv4.
    pub is_v4: bool,
    /// The protocol number of the transport.
    next: u8,
    /// How many routers may still forward it.
    pub hop_limit: u8,
    /// Where in its datagram it is.
    pub part: Part,
    /// The flags of a TCP header; none otherwise.
    pub tcp: TcpFlags,
    /// The number of the first byte of a TCP segment, in network order.
    pub sequence: u32,
    /// The number of the byte that its sender expects next, in network order.
    pub acknowledged: u32,
}

impl Packet {
    /// Nothing read yet: all zeroes.
    pub const EMPTY: Self = Self {
        tuple: Tuple {
            src: Addr16::UNSPECIFIED,
            dst: Addr16::UNSPECIFIED,
            src_port: PortBe::new(0),
            dst_port: PortBe::new(0),
        },
        transport: 0,
        length: 0,
        id: 0,
        is_v4: false,
        next: 0,
        hop_limit: 0,
        part: Part::Whole,
        tcp: TcpFlags::NONE,
        sequence: 0,
        acknowledged: 0,
    };

    /// Its protocol, of the two that Services have.
    #[inline(always)]
    pub const fn proto(&self) -> Proto {
        if self.next == Proto::TCP.number() {
            Proto::TCP
        } else {
            Proto::UDP
        }
    }

    /// Whether it is of UDP.
    #[inline(always)]
    pub const fn is_udp(&self) -> bool {
        self.next == Proto::UDP.number()
    }

    /// Whether it is of TCP.
    #[inline(always)]
    pub const fn is_tcp(&self) -> bool {
        self.next == Proto::TCP.number()
    }

    /// The key of the fragments of its datagram.
    #[inline(always)]
    pub const fn datagram(&self) -> FragmentKey {
        FragmentKey {
            src: by_word(self.tuple.src.words()),
            dst: by_word(self.tuple.dst.words()),
            id: self.id,
            proto: self.proto(),
            reserved: 0,
            reserved_half: 0,
        }
    }

    /// Takes ports as they stand in a header. `None` if one is zero: no socket has that port
    /// (RFC 768, RFC 9293).
    #[inline(always)]
    pub fn set_ports(&mut self, [src, dst]: [u16; 2]) -> Option<()> {
        if src == 0 || dst == 0 {
            return None;
        }
        self.tuple.src_port = PortBe::from_bits(src);
        self.tuple.dst_port = PortBe::from_bits(dst);
        Some(())
    }
}

/// An address, copied word by word: as a whole it would be copied by a call of `memmove` (see
/// [`OverflowKey::reserved`](svclb_common::OverflowKey::reserved)).
#[inline(always)]
const fn by_word([a, b, c, d]: [u32; 4]) -> Addr16 {
    Addr16::from_words([a, b, c, d])
}

/// The flags of a TCP header (RFC 9293 section 3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpFlags(u8);

impl TcpFlags {
    /// No flag.
    pub const NONE: Self = Self(0);
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    pub(crate) const RST: u8 = 4;
    pub(crate) const ACK: u8 = 16;

    /// Whether its sender has no more data.
    #[inline(always)]
    pub const fn fin(self) -> bool {
        self.0 & Self::FIN != 0
    }

    /// Whether it resets the connection.
    #[inline(always)]
    pub const fn rst(self) -> bool {
        self.0 & Self::RST != 0
    }

    /// Whether it acknowledges something.
    #[inline(always)]
    pub const fn ack(self) -> bool {
        self.0 & Self::ACK != 0
    }

    /// Whether its sender ends the connection, or its half of it.
    #[inline(always)]
    pub const fn ends(self) -> bool {
        self.0 & (Self::FIN | Self::RST) != 0
    }

    /// Whether it answers one that opens a connection.
    #[must_use]
    pub const fn answers(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST) == Self::SYN | Self::ACK
    }

    /// Whether it opens a connection.
    #[inline(always)]
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST) == Self::SYN
    }
}

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A packet with ports.
    Packet,
    /// A fragment whose ports are in the first one of its datagram.
    LaterFragment,
    /// An ICMP message: maybe an error about a packet of a Service.
    Icmp,
    /// Nothing that a Service could have sent or received, or not for this hook.
    Other,
}

/// Reads the headers of a frame.
#[inline(always)]
pub fn parse<F: Frame>(frame: &F, packet: &mut Packet) -> Kind {
    if network(frame, packet).is_none() {
        return Kind::Other;
    }
    if packet.next == ICMP || packet.next == ICMPV6 {
        return Kind::Icmp;
    }
    if !packet.is_tcp() && !packet.is_udp() {
        return Kind::Other;
    }
    if packet.part == Part::Later {
        packet.tcp = TcpFlags::NONE;
        return Kind::LaterFragment;
    }
    match transport(frame, packet) {
        Some(()) => Kind::Packet,
        None => Kind::Other,
    }
}

/// Reads ports, and what a TCP header says beside them.
#[inline(always)]
fn transport<F: Frame>(frame: &F, packet: &mut Packet) -> Option<()> {
    packet.tcp = TcpFlags::NONE;
    if packet.is_tcp() {
        let header = frame.load::<TcpStart>(packet.transport)?;
        packet.tcp = TcpFlags(header.flags);
        packet.sequence = header.sequence;
        packet.acknowledged = header.acknowledged;
        return packet.set_ports([header.src_port, header.dst_port]);
    }
    let ports = frame.load::<[u16; 2]>(packet.transport)?;
    packet.set_ports(ports)
}

/// Reads the headers of the packet that an ICMP error carries at an offset, of whose transport there
/// may be no more than eight bytes (RFC 792).
#[inline(always)]
pub fn carried<F: Frame>(frame: &F, at: u32, is_v4: bool, packet: &mut Packet) -> Option<()> {
    if is_v4 {
        v4(frame, at, packet)?;
    } else {
        v6(frame, at, packet)?;
    }
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
    if !frame.is_for_this_node() {
        return None;
    }
    match frame.ethertype()? {
        IPV4 => v4(frame, F::NETWORK, packet)?,
        IPV6 => v6(frame, F::NETWORK, packet)?,
        _ => return None,
    }
    // What is cut short, and what no unicast client sends, is the kernel's to drop.
    let src = packet.tuple.src;
    let is_whole = F::NETWORK + packet.length <= frame.len();
    (is_whole && !src.is_loopback() && !src.is_unspecified()).then_some(())
}

/// An IPv4 header.
#[inline(always)]
fn v4<F: Frame>(frame: &F, at: u32, packet: &mut Packet) -> Option<()> {
    let header = frame.load::<Ipv4>(at)?;
    let length = u32::from(header.version_and_length & 0xf) * 4;
    let is_plain = header.version_and_length == 0x45 && header.fragment & V4_MORE_OR_OFFSET == 0;
    if F::IS_XDP && !is_plain || header.version_and_length >> 4 != 4 || length < IPV4_LEN {
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
    packet.hop_limit = header.hop_limit;
    packet.transport = at + if F::IS_XDP { IPV4_LEN } else { length };
    packet.length = total;
    packet.part = if header.fragment & V4_MORE_OR_OFFSET == 0 {
        Part::Whole
    } else if header.fragment & V4_OFFSET == 0 {
        Part::First
    } else {
        Part::Later
    };
    packet.id = u32::from(header.id);
    Some(())
}

/// An IPv6 header, and those that may stand between it and the transport's.
#[inline(always)]
fn v6<F: Frame>(frame: &F, at: u32, packet: &mut Packet) -> Option<()> {
    /// More extension headers than any real sender has are no Service's.
    const EXTENSIONS: u32 = 4;
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
    packet.hop_limit = header.hop_limit;
    packet.transport = at + IPV6_LEN;
    packet.length = IPV6_LEN + u32::from(u16::from_be(header.length));
    packet.part = Part::Whole;
    packet.id = 0;
    if F::IS_XDP {
        return Some(());
    }
    for _ in 0..EXTENSIONS {
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
