//! The layouts of headers, all fields in network order.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The length of an Ethernet header, in bytes.
pub const ETHERNET: u32 = 14;
/// Where in the link header the type of what follows stands.
pub const ETHERNET_TYPE: u32 = 12;

/// The type of IPv4 in the link header, in network order.
pub const IPV4: u16 = u16::to_be(0x0800);
/// The type of IPv6 in the link header, in network order.
pub const IPV6: u16 = u16::to_be(0x86dd);

/// The protocol number of ICMP (RFC 792).
pub const ICMP: u8 = 1;
/// The protocol number of ICMPv6 (RFC 4443).
pub const ICMPV6: u8 = 58;

/// The length of an IPv4 header without options, in bytes.
pub const IPV4_LEN: u32 = 20;
/// The length of an IPv6 header, in bytes.
pub const IPV6_LEN: u32 = 40;
/// The length of an IPv6 fragment header, in bytes.
pub const FRAGMENT_LEN: u32 = 8;
/// The length of a TCP header without options, in bytes.
pub const TCP_LEN: u32 = 20;
/// The length of a UDP header, in bytes.
pub const UDP_LEN: u32 = 8;

/// In the fragment field of an IPv4 header, in network order: more fragments follow, or this one
/// is not the first. "Don't fragment" is not among these bits.
pub const V4_MORE_OR_OFFSET: u16 = u16::to_be(0x3fff);
/// In the same field: where in the datagram the fragment begins.
pub const V4_OFFSET: u16 = u16::to_be(0x1fff);

/// An IPv4 header without options (RFC 791 section 3.1): 20 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Ipv4 {
    /// Four bits each: 4, and the length in words.
    pub version_and_length: u8,
    /// Differentiated services.
    pub service: u8,
    /// Of the whole packet, in bytes.
    pub length: u16,
    /// The identification of the datagram that a fragment is of.
    pub id: u16,
    /// Three flags, and the offset of a fragment.
    pub fragment: u16,
    /// Time to live.
    pub hop_limit: u8,
    /// The protocol of what follows.
    pub proto: u8,
    /// Of this header.
    pub checksum: u16,
    /// Source address.
    pub src: u32,
    /// Destination address.
    pub dst: u32,
}

/// An IPv6 header (RFC 8200 section 3): 40 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Ipv6 {
    /// Four bits of version: 6; traffic class and flow label.
    pub version_and_flow: u32,
    /// Of what follows this header, in bytes.
    pub length: u16,
    /// The kind of the header that follows.
    pub next: u8,
    /// How many routers may still forward it.
    pub hop_limit: u8,
    /// Source address.
    pub src: [u32; 4],
    /// Destination address.
    pub dst: [u32; 4],
}

/// An IPv6 fragment header (RFC 8200 section 4.5): 8 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Fragment {
    /// The kind of the header that follows.
    pub next: u8,
    /// Zero.
    pub reserved: u8,
    /// The offset in units of eight bytes, two reserved bits, and whether more follow.
    pub offset_and_more: u16,
    /// The identification of the datagram.
    pub id: u32,
}

/// A TCP header without options (RFC 9293 section 3.1): 20 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Tcp {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// The number of the first byte.
    pub sequence: u32,
    /// The number of the byte that is expected next.
    pub acknowledged: u32,
    /// Four bits: the length of the header in words.
    pub length: u8,
    /// See [`TcpFlags`](crate::parse::TcpFlags).
    pub flags: u8,
    /// The receive window.
    pub window: u16,
    /// Of header, data and pseudo header.
    pub checksum: u16,
    /// The urgent pointer.
    pub urgent: u16,
}

/// The first 16 bytes of a TCP header, without its checksum.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TcpStart {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// The number of the first byte.
    pub sequence: u32,
    /// The number of the byte that is expected next.
    pub acknowledged: u32,
    /// Four bits: the length of the header in words.
    pub length: u8,
    /// See [`TcpFlags`](crate::parse::TcpFlags).
    pub flags: u8,
    /// The receive window.
    pub window: u16,
}
