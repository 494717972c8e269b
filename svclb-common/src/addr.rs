//! Addresses, ports and protocols, with their byte order in the type.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An IPv4 or IPv6 address in 16 bytes, in network order.
///
/// IPv4 is carried as an IPv4-mapped IPv6 address (`::ffff:a.b.c.d`, RFC 4291 section
/// 2.5.5.2), so that one set of maps and one copy of every algorithm serves both
/// families. Four words rather than sixteen bytes, so that eBPF code copies and compares
/// it in four instructions; each word holds its bytes in memory order.
#[repr(transparent)]
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Addr16([u32; 4]);

/// The third word of an IPv4-mapped address: `00 00 ff ff` in memory.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl Addr16 {
    /// The address `::`, which is also how "no address" is written.
    pub const UNSPECIFIED: Self = Self([0; 4]);

    /// An IPv4 address from the word that the kernel uses for it (network order in memory).
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self([0, 0, MAPPED, word])
    }

    /// An IPv6 address (or an IPv4-mapped one) from four words, network order in memory.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// The four words, network order in memory.
    #[inline(always)]
    pub const fn words(self) -> [u32; 4] {
        self.0
    }

    /// The sixteen bytes, network order.
    #[inline(always)]
    pub const fn octets(self) -> [u8; 16] {
        zerocopy::transmute!(self.0)
    }

    /// The last word: the whole address where [`is_v4`](Self::is_v4).
    #[inline(always)]
    pub const fn v4_word(self) -> u32 {
        self.0[3]
    }

    /// Whether this is an IPv4 address (carried as IPv4-mapped).
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED
    }

    /// Whether it is of 127.0.0.0/8, or ::1.
    #[inline(always)]
    pub const fn is_loopback(self) -> bool {
        let [a, b, c, d] = self.0;
        if self.is_v4() {
            d.to_ne_bytes()[0] == 127
        } else {
            a == 0 && b == 0 && c == 0 && u32::from_be(d) == 1
        }
    }

    /// Whether it is 0.0.0.0 or ::.
    #[inline(always)]
    pub const fn is_unspecified(self) -> bool {
        let [a, b, c, d] = self.0;
        a == 0 && b == 0 && (c == 0 || c == MAPPED) && d == 0
    }

    /// 127.0.0.1 for an IPv4 address, ::1 for an IPv6 one.
    #[inline(always)]
    pub const fn canonical_loopback(self) -> Self {
        if self.is_v4() {
            Self::from_v4_word(u32::from_ne_bytes([127, 0, 0, 1]))
        } else {
            Self::from_words([0, 0, 0, u32::from_ne_bytes([0, 0, 0, 1])])
        }
    }

    /// From a standard address. An IPv4-mapped `Ipv6Addr` becomes the IPv4 address.
    pub const fn from_ip(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::from_v4_word(u32::from_ne_bytes(v4.octets())),
            IpAddr::V6(v6) => {
                let o = v6.octets();
                Self([
                    u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
                    u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
                    u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
                    u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
                ])
            }
        }
    }

    /// To a standard address; IPv4-mapped becomes `IpAddr::V4`.
    pub fn to_ip(self) -> IpAddr {
        if self.is_v4() {
            return IpAddr::V4(Ipv4Addr::from(self.0[3].to_ne_bytes()));
        }
        IpAddr::V6(Ipv6Addr::from(self.octets()))
    }
}

impl From<IpAddr> for Addr16 {
    fn from(ip: IpAddr) -> Self {
        Self::from_ip(ip)
    }
}

/// Ordered as addresses are: by their bytes in network order, IPv4 among `::ffff:0:0/96`.
impl Ord for Addr16 {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.0.map(u32::from_be).cmp(&other.0.map(u32::from_be))
    }
}

impl PartialOrd for Addr16 {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Addr16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

impl fmt::Debug for Addr16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

/// A port in network order.
#[repr(transparent)]
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct PortBe(u16);

impl PortBe {
    /// From a port number in host order.
    #[inline(always)]
    pub const fn new(port: u16) -> Self {
        Self(port.to_be())
    }

    /// From the sixteen bits as they stand in a packet or a socket structure.
    #[inline(always)]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The sixteen bits as they stand in a packet or a socket structure.
    #[inline(always)]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The port number in host order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

impl Ord for PortBe {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.get().cmp(&other.get())
    }
}

impl PartialOrd for PortBe {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for PortBe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl fmt::Debug for PortBe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// A transport protocol of a Service port: an IP protocol number (IANA).
#[repr(transparent)]
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct Proto(u8);

impl Proto {
    /// All of them (0): of the frontend that refuses what no other one serves.
    pub const ANY: Self = Self(0);
    /// TCP (6).
    pub const TCP: Self = Self(6);
    /// UDP (17).
    pub const UDP: Self = Self(17);
    /// SCTP (132): held in the model, not served at sockets.
    pub const SCTP: Self = Self(132);

    /// The protocol of Services that a socket talks, from its `sk_protocol`.
    ///
    /// An MPTCP socket (262, Linux 5.6) is a TCP client to a Service, and a UDP-Lite one
    /// (136) counts as UDP. Anything else (raw, ICMP, …) is no client of any Service.
    /// The type of the socket alone would not do: a UDP-Lite socket, a UDP socket and a
    /// ping socket are all `SOCK_DGRAM`.
    #[inline(always)]
    pub const fn of_socket(sk_protocol: u32) -> Option<Self> {
        const IPPROTO_UDPLITE: u32 = 136;
        const IPPROTO_MPTCP: u32 = 262;
        match sk_protocol {
            6 | IPPROTO_MPTCP => Some(Self::TCP),
            17 | IPPROTO_UDPLITE => Some(Self::UDP),
            _ => None,
        }
    }

    /// The IP protocol number.
    #[inline(always)]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The name as Kubernetes writes it (`Service.spec.ports[].protocol`).
    pub const fn name(self) -> &'static str {
        match self {
            Self::ANY => "any",
            Self::TCP => "TCP",
            Self::UDP => "UDP",
            Self::SCTP => "SCTP",
            _ => "unknown",
        }
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Debug for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}

/// An address and a port, as `a.b.c.d:p` or `[v6]:p`.
pub(crate) fn socket_addr(addr: Addr16, port: PortBe) -> SocketAddr {
    SocketAddr::new(addr.to_ip(), port.get())
}
