//! Packets and frames that no socket of their sender would send.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::{Context as _, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use svclb_tests::{Outside, Pod, TunKind, open_tun};

/// The numbers of protocols of IP.
const TCP: u8 = 6;
const UDP: u8 = 17;
/// A protocol that stands for any: the header is the sender's (raw(7), ipv6(7)).
const RAW: i32 = 255;

/// Bits of TCP.
pub(super) const RST: u8 = 0x04;
pub(super) const FIN: u8 = 0x01;
pub(super) const ACK: u8 = 0x10;

/// A UDP datagram in an IP packet.
pub(super) fn datagram(from: SocketAddr, to: SocketAddr, text: &str) -> Vec<u8> {
    let length = u16::try_from(8 + text.len()).unwrap();
    let mut segment = [from.port(), to.port(), length, 0]
        .map(u16::to_be_bytes)
        .concat();
    segment.extend(text.as_bytes());
    packet(UDP, 6, from.ip(), to.ip(), segment)
}

/// A segment of TCP without data in an IP packet.
pub(super) fn segment(from: SocketAddr, to: SocketAddr, sequence: u32, flags: u8) -> Vec<u8> {
    let mut segment = [from.port(), to.port()].map(u16::to_be_bytes).concat();
    segment.extend(sequence.to_be_bytes());
    segment.extend(0_u32.to_be_bytes());
    // Twenty bytes of header, a window, no checksum yet, nothing urgent.
    segment.extend([5 << 4, flags, 0x10, 0, 0, 0, 0, 0]);
    packet(TCP, 16, from.ip(), to.ip(), segment)
}

fn packet(
    protocol: u8,
    checksum_at: usize,
    from: IpAddr,
    to: IpAddr,
    mut body: Vec<u8>,
) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap();
    let (addresses, mut head) = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let addresses = [from.octets(), to.octets()].concat();
            let mut head = vec![0x45, 0];
            head.extend((length + 20).to_be_bytes());
            head.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            head.extend(&addresses);
            let sum = checksum(&[&head]).to_be_bytes();
            head[10..12].copy_from_slice(&sum);
            (addresses, head)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let addresses = [from.octets(), to.octets()].concat();
            let mut head = vec![0x60, 0, 0, 0];
            head.extend(length.to_be_bytes());
            head.extend([protocol, 64]);
            head.extend(&addresses);
            (addresses, head)
        }
        _ => panic!("{from} and {to} are of two families"),
    };
    let [high, low] = length.to_be_bytes();
    let sum = checksum(&[&addresses, &[0, protocol, high, low], &body]).to_be_bytes();
    body[checksum_at..checksum_at + 2].copy_from_slice(&sum);
    head.extend(body);
    head
}

/// RFC 1071, over parts of even length but for the last.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()
}

/// Sends a packet from where a client is.
pub(super) fn send_from(client: &Pod, to: IpAddr, packet: &[u8]) {
    client
        .run(|| {
            let domain = if to.is_ipv4() {
                Domain::IPV4
            } else {
                Domain::IPV6
            };
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(RAW)))?;
            let to = SocketAddr::new(to, 0).into();
            socket
                .send_to(packet, &to)
                .context("a packet cannot be sent")?;
            Ok(())
        })
        .unwrap();
}

/// A socket that gets a copy of each segment that comes to a client (raw(7)).
pub(super) fn listen_to_segments(client: &Pod, is_ipv6: bool) -> Socket {
    let opened = client.run(|| {
        let domain = if is_ipv6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    });
    opened.unwrap()
}

/// What the last of the segments acknowledges that came between two ports.
pub(super) fn last_acknowledged(listener: &Socket, from: SocketAddr, to: SocketAddr) -> u32 {
    let mut listener = listener;
    let mut last = None;
    let mut buffer = [0; 2048];
    while let Ok(length) = listener.read(&mut buffer) {
        // Of IPv4 the header comes with it.
        let start = if from.is_ipv4() { 20 } else { 0 };
        let Some(segment) = buffer[..length].get(start..start + 20) else {
            continue;
        };
        let ports = [from.port(), to.port()].map(u16::to_be_bytes).concat();
        if segment.starts_with(&ports) {
            last = Some(u32::from_be_bytes(segment[8..12].try_into().unwrap()));
        }
    }
    last.unwrap()
}

/// An Ethernet frame around a packet, with the tag of VLAN 0 and a priority (IEEE 802.1Q).
pub(super) fn tagged(hardware: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let mut frame = hardware.to_vec();
    frame.extend([2, 0, 0, 0, 0, 0xee]);
    frame.extend([0x81, 0, 5 << 5, 0]);
    frame.extend(if packet[0] >> 4 == 4 {
        [8, 0]
    } else {
        [0x86, 0xdd]
    });
    frame.extend(packet);
    frame
}

/// Sends a frame on the segment of the nodes' uplinks.
pub(super) fn send_frame(outside: &Outside, frame: &[u8]) {
    let sent = outside.run(|| {
        let mut tap = open_tun("tap0", TunKind::Tap)?;
        let mut ip = Command::new("ip");
        let status = ip
            .args(["link", "set", "tap0", "master", "nodes", "up"])
            .status()?;
        ensure!(status.success(), "tap0 cannot be joined to the segment");
        tap.write_all(frame).context("a frame cannot be sent")
    });
    sent.unwrap();
}
