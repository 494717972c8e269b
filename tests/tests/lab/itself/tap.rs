//! Looking at what arrives in a namespace, as tcpdump does.

use std::io::Read as _;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};

/// Its number as a protocol of IP.
const UDP: u8 = 17;

/// A packet socket (`packet(7)`): every device, one family.
pub(super) struct Tap {
    socket: Socket,
}

/// A UDP datagram over IP, without the header of Ethernet.
pub(super) struct Datagram {
    packet: Vec<u8>,
    /// Where the UDP header begins.
    header: usize,
}

impl Tap {
    /// In the namespace of the calling thread, for the family of an address.
    pub(super) fn new(like: IpAddr) -> Result<Self> {
        let kind: u16 = if like.is_ipv4() { 0x0800 } else { 0x86dd };
        let protocol = Protocol::from(i32::from(kind.to_be()));
        // Without the header of Ethernet, with which the sockets would be of type RAW.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        Ok(Self { socket })
    }

    /// The next datagram that comes from a port.
    pub(super) fn next_from(&mut self, port: u16) -> Result<Datagram> {
        self.next(|datagram| datagram.word(0) == port)
    }

    /// The next datagram for a port.
    pub(super) fn next_to(&mut self, port: u16) -> Result<Datagram> {
        self.next(|datagram| datagram.word(2) == port)
    }

    fn next(&mut self, wanted: impl Fn(&Datagram) -> bool) -> Result<Datagram> {
        loop {
            let mut packet = vec![0; 2048];
            let length = self.socket.read(&mut packet).context("nothing arrives")?;
            packet.truncate(length);
            if let Some(datagram) = Datagram::of(packet).filter(&wanted) {
                return Ok(datagram);
            }
        }
    }
}

impl Datagram {
    fn of(packet: Vec<u8>) -> Option<Self> {
        let (protocol, header) = match packet.first()? >> 4 {
            4 => (packet[9], usize::from(packet[0] & 0xf) * 4),
            _ => (packet[6], 40),
        };
        (protocol == UDP).then_some(Self { packet, header })
    }

    fn word(&self, at: usize) -> u16 {
        let at = self.header + at;
        u16::from_be_bytes([self.packet[at], self.packet[at + 1]])
    }

    /// Whether its checksum is what RFC 768 (RFC 8200 section 8.1) wants it to be.
    pub(super) fn has_whole_checksum(&self) -> bool {
        let addresses = if self.header == 40 { 8..40 } else { 12..20 };
        let length = self.word(4);
        // Of the addresses, the protocol, the length; and then of all of the datagram.
        let end = self.header + usize::from(length);
        let sum = sum(&self.packet[addresses])
            + u32::from(UDP)
            + u32::from(length)
            + sum(&self.packet[self.header..end]);
        let folded = (sum & 0xffff) + (sum >> 16);
        (folded & 0xffff) + (folded >> 16) == 0xffff
    }
}

fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum()
}
