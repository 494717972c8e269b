//! Frames, by what matters in them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{IpHeaders, PacketBuilder, SlicedPacket, TransportSlice};

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
}

impl Frame {
    /// The first packet of a client.
    pub(crate) const fn new(family: Family, transport: Transport) -> Self {
        Self {
            transport,
            from: (family.client(), 40_000),
            to: (family.node(), 0),
            opens: true,
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

    /// The same within a connection.
    pub(crate) const fn established(self) -> Self {
        Self {
            opens: false,
            ..self
        }
    }

    /// What its receiver sends back.
    pub(crate) const fn answer(self) -> Self {
        Self {
            from: self.to,
            to: self.from,
            opens: false,
            ..self
        }
    }

    /// As it is on a wire, with all checksums. (Link addresses are zeros: the loopback device's.)
    pub(crate) fn bytes(&self) -> Vec<u8> {
        const HOPS: u8 = 64;
        const DATA: &[u8] = b"what a client asks";
        let ip = match (self.from.0, self.to.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let header =
                    etherparse::Ipv4Header::new(0, HOPS, 0.into(), from.octets(), to.octets());
                IpHeaders::Ipv4(header.unwrap(), Default::default())
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => IpHeaders::Ipv6(
                etherparse::Ipv6Header {
                    source: from.octets(),
                    destination: to.octets(),
                    hop_limit: HOPS,
                    ..Default::default()
                },
                Default::default(),
            ),
            families => panic!("{families:?}"),
        };
        let builder = PacketBuilder::ethernet2([0; 6], [0; 6]).ip(ip);
        let mut bytes = Vec::new();
        match self.transport {
            Transport::Tcp => {
                let tcp = builder.tcp(self.from.1, self.to.1, 1000, 64_000);
                let tcp = if self.opens { tcp.syn() } else { tcp.ack(2000) };
                tcp.write(&mut bytes, DATA).unwrap();
            }
            Transport::Udp => {
                let udp = builder.udp(self.from.1, self.to.1);
                udp.write(&mut bytes, DATA).unwrap();
            }
        }
        bytes
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
