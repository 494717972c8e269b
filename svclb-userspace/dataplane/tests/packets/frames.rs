//! Frames, by what matters in them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    Icmpv4Type, Icmpv6Type, IpHeaders, PacketBuilder, SlicedPacket, TransportSlice, icmpv4, icmpv6,
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const fn client(self) -> IpAddr {
        self.of([198, 51, 100, 9], 0x9)
    }

    pub(crate) const fn node(self) -> IpAddr {
        self.of([192, 0, 2, 7], 0x7)
    }

    pub(crate) const fn balancer(self) -> IpAddr {
        self.of([203, 0, 113, 10], 0x113)
    }

    pub(crate) const fn backend(self) -> IpAddr {
        self.of([10, 244, 1, 10], 0x10)
    }

    pub(crate) const fn second_backend(self) -> IpAddr {
        self.of([10, 244, 1, 11], 0x11)
    }

    /// A router between the node and others.
    pub(crate) const fn router(self) -> IpAddr {
        self.of([192, 0, 2, 1], 0x1)
    }

    const fn of(self, v4: [u8; 4], v6: u16) -> IpAddr {
        let [a, b, c, d] = v4;
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, v6)),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

/// Does something for each family and transport.
pub(crate) fn family_and_transport(mut work: impl FnMut(Family, Transport)) {
    for family in [Family::V4, Family::V6] {
        for transport in [Transport::Tcp, Transport::Udp] {
            work(family, transport);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Frame {
    transport: Transport,
    from: (IpAddr, u16),
    to: (IpAddr, u16),
    opens: bool,
    /// Whether it opens the other side of a connection.
    accepts: bool,
    ends: bool,
    resets: bool,
    hops: u8,
    sequence: u32,
    /// How many bytes of data.
    data: usize,
}

/// The number of the first byte of every frame of TCP, and what it acknowledges: both sides are where
/// they began.
const SEQUENCE: u32 = 1000;

/// How many hops every frame has left, unless a test says otherwise.
pub(crate) const HOPS: u8 = 64;

/// Where clients send from unless a test says otherwise.
pub(crate) const CLIENT_PORT: u16 = 40_000;

impl Frame {
    /// The first packet of a client.
    pub(crate) const fn new(family: Family, transport: Transport) -> Self {
        Self {
            transport,
            from: (family.client(), CLIENT_PORT),
            to: (family.node(), 0),
            opens: true,
            accepts: false,
            ends: false,
            resets: false,
            hops: HOPS,
            sequence: SEQUENCE,
            data: 18,
        }
    }

    pub(crate) const fn to(self, ip: IpAddr, port: u16) -> Self {
        Self {
            to: (ip, port),
            ..self
        }
    }

    pub(crate) const fn of_client(self, ip: IpAddr) -> Self {
        Self {
            from: (ip, self.from.1),
            ..self
        }
    }

    /// From another port of the client.
    pub(crate) const fn by_port(self, port: u16) -> Self {
        Self {
            from: (self.from.0, port),
            ..self
        }
    }

    /// From the port that a frame of the same family came from.
    pub(crate) fn by_port_of(self, bytes: &[u8]) -> Self {
        let at = if self.from.0.is_ipv4() { 34 } else { 54 };
        self.by_port(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
    }

    /// The same within a connection.
    pub(crate) const fn established(self) -> Self {
        Self {
            opens: false,
            ..self
        }
    }

    /// A server's first in a connection.
    pub(crate) const fn accepting(self) -> Self {
        Self {
            opens: false,
            accepts: true,
            ..self
        }
    }

    /// The last of its sender in a connection.
    pub(crate) const fn ending(self) -> Self {
        Self {
            opens: false,
            ends: true,
            ..self
        }
    }

    /// A reset by its sender.
    pub(crate) const fn reset(self) -> Self {
        Self {
            opens: false,
            resets: true,
            ..self
        }
    }

    /// With a sequence number that is so much ahead of what its receiver expects.
    pub(crate) const fn ahead(self, by: u32) -> Self {
        Self {
            sequence: SEQUENCE.wrapping_add(by),
            ..self
        }
    }

    /// With so many hops left.
    pub(crate) const fn hops(self, hops: u8) -> Self {
        Self { hops, ..self }
    }

    /// With so many bytes of data.
    pub(crate) const fn data(self, data: usize) -> Self {
        Self { data, ..self }
    }

    /// What its receiver sends back.
    pub(crate) const fn reply(self) -> Self {
        Self {
            from: self.to,
            to: self.from,
            opens: false,
            hops: HOPS,
            ..self
        }
    }

    /// An ICMP error about it, to its sender: as much of it as fits, after `header`.
    pub(crate) fn error(self, reporter: IpAddr, problem: Problem, carried: usize) -> Vec<u8> {
        let ip = ip(reporter, self.from.0, HOPS);
        let builder = PacketBuilder::ethernet2([0; 6], [0; 6]).ip(ip);
        let about = &self.bytes()[14..];
        let about = &about[..carried.min(about.len())];
        let mut bytes = Vec::new();
        let v4 = reporter.is_ipv4();
        match problem {
            Problem::NoHops if v4 => {
                let kind = Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit);
                builder.icmpv4(kind).write(&mut bytes, about).unwrap();
            }
            Problem::NoHops => {
                let kind = Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded);
                builder.icmpv6(kind).write(&mut bytes, about).unwrap();
            }
            Problem::TooBig(mtu) if v4 => {
                let next_hop_mtu = mtu.try_into().unwrap();
                let header = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu };
                let kind = Icmpv4Type::DestinationUnreachable(header);
                builder.icmpv4(kind).write(&mut bytes, about).unwrap();
            }
            Problem::TooBig(mtu) => {
                let kind = Icmpv6Type::PacketTooBig { mtu };
                builder.icmpv6(kind).write(&mut bytes, about).unwrap();
            }
        }
        bytes
    }

    /// As it is on a wire, with all checksums. (Link addresses are zeros: the loopback device's.)
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let data = vec![b'x'; self.data];
        let ip = ip(self.from.0, self.to.0, self.hops);
        let builder = PacketBuilder::ethernet2([0; 6], [0; 6]).ip(ip);
        let mut bytes = Vec::new();
        match self.transport {
            Transport::Tcp => {
                let tcp = builder.tcp(self.from.1, self.to.1, self.sequence, 64_000);
                let tcp = if self.opens {
                    tcp.syn()
                } else {
                    tcp.ack(SEQUENCE)
                };
                let tcp = if self.accepts { tcp.syn() } else { tcp };
                let tcp = if self.ends { tcp.fin() } else { tcp };
                let tcp = if self.resets { tcp.rst() } else { tcp };
                tcp.write(&mut bytes, &data).unwrap();
            }
            Transport::Udp => {
                let udp = builder.udp(self.from.1, self.to.1);
                udp.write(&mut bytes, &data).unwrap();
            }
        }
        bytes
    }
}

/// Why a packet did not get through.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Problem {
    NoHops,
    /// It is longer than so many bytes.
    TooBig(u32),
}

fn ip(from: IpAddr, to: IpAddr, hops: u8) -> IpHeaders {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let header = etherparse::Ipv4Header::new(0, hops, 0.into(), from.octets(), to.octets());
            IpHeaders::Ipv4(header.unwrap(), Default::default())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => IpHeaders::Ipv6(
            etherparse::Ipv6Header {
                source: from.octets(),
                destination: to.octets(),
                hop_limit: hops,
                ..Default::default()
            },
            Default::default(),
        ),
        families => panic!("{families:?}"),
    }
}

/// Whether the checksums of a frame are those of what it holds; true for what has none.
pub(crate) fn is_sound(bytes: &[u8]) -> bool {
    let Ok(sliced) = SlicedPacket::from_ethernet(bytes) else {
        return true;
    };
    match (&sliced.net, &sliced.transport) {
        (Some(etherparse::NetSlice::Ipv4(ip)), transport) => {
            let header = ip.header();
            let (from, to) = (header.source(), header.destination());
            let own = header.to_header().calc_header_checksum() == header.header_checksum();
            own && match transport {
                Some(TransportSlice::Tcp(tcp)) => tcp
                    .calc_checksum_ipv4(from, to)
                    .is_ok_and(|sum| sum == tcp.checksum()),
                Some(TransportSlice::Udp(udp)) => {
                    let header = udp.to_header();
                    header.checksum == 0
                        || header
                            .calc_checksum_ipv4_raw(from, to, udp.payload())
                            .is_ok_and(|sum| sum == header.checksum)
                }
                _ => true,
            }
        }
        (Some(etherparse::NetSlice::Ipv6(ip)), transport) => {
            let (from, to) = (ip.header().source(), ip.header().destination());
            match transport {
                Some(TransportSlice::Tcp(tcp)) => tcp
                    .calc_checksum_ipv6(from, to)
                    .is_ok_and(|sum| sum == tcp.checksum()),
                Some(TransportSlice::Udp(udp)) => {
                    let header = udp.to_header();
                    header
                        .calc_checksum_ipv6_raw(from, to, udp.payload())
                        .is_ok_and(|sum| sum == header.checksum)
                }
                _ => true,
            }
        }
        _ => true,
    }
}
