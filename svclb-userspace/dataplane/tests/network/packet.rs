//! Packets, as those who send and get them see them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use etherparse::{
    IpHeaders, Ipv4Header, Ipv6Header, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
};
use svclb_common::Proto;

/// A packet of TCP or UDP.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) proto: Proto,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) tcp: Tcp,
    /// What it carries: who sent it. Zero in one that nobody sent but a program.
    pub(crate) label: Label,
}

/// What matters of a header of TCP; all zeros in UDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tcp {
    pub(crate) syn: bool,
    pub(crate) ack: bool,
    pub(crate) fin: bool,
    pub(crate) rst: bool,
    pub(crate) sequence: u32,
    pub(crate) acknowledged: u32,
}

/// Which connection a packet is of, and of which direction: its data, which no program reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Label {
    pub(crate) connection: u32,
    pub(crate) is_reply: bool,
}

/// How many bytes of data every packet has.
pub(crate) const DATA: u32 = 8;

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Label {
            connection,
            is_reply,
        } = self.label;
        let sender = if is_reply { "server" } else { "client" };
        let (proto, from, to) = (self.proto, self.from, self.to);
        write!(f, "{from} -> {to} {proto:?} of {connection}'s {sender}")?;
        let Tcp {
            syn, ack, fin, rst, ..
        } = self.tcp;
        let flags = [("syn", syn), ("ack", ack), ("fin", fin), ("rst", rst)];
        for (name, _) in flags.iter().filter(|(_, is_set)| *is_set) {
            write!(f, " {name}")?;
        }
        Ok(())
    }
}

impl Packet {
    /// As it is on a wire, with all checksums. Link addresses are zeros.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([0; 6], [0; 6]).ip(self.network_header());
        let [a, b, c, d] = self.label.connection.to_be_bytes();
        let data = [a, b, c, d, 0, 0, 0, self.label.is_reply.into()];
        let mut bytes = Vec::with_capacity(96);
        let (from, to) = (self.from.port(), self.to.port());
        if self.proto == Proto::UDP {
            builder.udp(from, to).write(&mut bytes, &data).unwrap();
            return bytes;
        }
        let mut tcp = builder.tcp(from, to, self.tcp.sequence, 64_000);
        if self.tcp.syn {
            tcp = tcp.syn();
        }
        if self.tcp.ack {
            tcp = tcp.ack(self.tcp.acknowledged);
        }
        if self.tcp.fin {
            tcp = tcp.fin();
        }
        if self.tcp.rst {
            tcp = tcp.rst();
        }
        tcp.write(&mut bytes, &data).unwrap();
        bytes
    }

    fn network_header(&self) -> IpHeaders {
        const HOPS: u8 = 64;
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let header = Ipv4Header::new(0, HOPS, 0.into(), from.octets(), to.octets());
                IpHeaders::Ipv4(header.unwrap(), Default::default())
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => IpHeaders::Ipv6(
                Ipv6Header {
                    source: from.octets(),
                    destination: to.octets(),
                    hop_limit: HOPS,
                    ..Default::default()
                },
                Default::default(),
            ),
            families => panic!("{families:?}"),
        }
    }

    /// Reads a frame, whose checksums have to be right. `None` for one that is neither TCP nor UDP: an ICMP
    /// error.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let sliced = SlicedPacket::from_ethernet(bytes).unwrap();
        let (from, to): (IpAddr, IpAddr) = match sliced.net.as_ref().unwrap() {
            NetSlice::Ipv4(ip) => {
                let header = ip.header();
                let sum = header.to_header().calc_header_checksum();
                assert_eq!(sum, header.header_checksum(), "{bytes:02x?}");
                (
                    header.source_addr().into(),
                    header.destination_addr().into(),
                )
            }
            NetSlice::Ipv6(ip) => {
                let header = ip.header();
                (
                    header.source_addr().into(),
                    header.destination_addr().into(),
                )
            }
            NetSlice::Arp(_) => return None,
        };
        let (proto, ports, tcp, data) = match sliced.transport.as_ref()? {
            TransportSlice::Udp(udp) => {
                let header = udp.to_header();
                let sum = match (from, to) {
                    (IpAddr::V4(from), IpAddr::V4(to)) => {
                        header.calc_checksum_ipv4_raw(from.octets(), to.octets(), udp.payload())
                    }
                    (IpAddr::V6(from), IpAddr::V6(to)) => {
                        header.calc_checksum_ipv6_raw(from.octets(), to.octets(), udp.payload())
                    }
                    families => panic!("{families:?}"),
                };
                assert_eq!(sum.unwrap(), header.checksum, "{bytes:02x?}");
                let ports = (header.source_port, header.destination_port);
                (Proto::UDP, ports, Tcp::default(), udp.payload())
            }
            TransportSlice::Tcp(tcp) => {
                let sum = match (from, to) {
                    (IpAddr::V4(from), IpAddr::V4(to)) => {
                        tcp.calc_checksum_ipv4(from.octets(), to.octets())
                    }
                    (IpAddr::V6(from), IpAddr::V6(to)) => {
                        tcp.calc_checksum_ipv6(from.octets(), to.octets())
                    }
                    families => panic!("{families:?}"),
                };
                assert_eq!(sum.unwrap(), tcp.checksum(), "{bytes:02x?}");
                let header = Tcp {
                    syn: tcp.syn(),
                    ack: tcp.ack(),
                    fin: tcp.fin(),
                    rst: tcp.rst(),
                    sequence: tcp.sequence_number(),
                    acknowledged: tcp.acknowledgment_number(),
                };
                let ports = (tcp.source_port(), tcp.destination_port());
                (Proto::TCP, ports, header, tcp.payload())
            }
            _ => return None,
        };
        let label = match *data {
            [a, b, c, d, _, _, _, is_reply] => Label {
                connection: u32::from_be_bytes([a, b, c, d]),
                is_reply: is_reply == 1,
            },
            _ => Label::default(),
        };
        Some(Self {
            proto,
            from: (from, ports.0).into(),
            to: (to, ports.1).into(),
            tcp,
            label,
        })
    }
}
