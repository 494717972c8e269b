//! The packet programs' own parser, run as an ordinary program.

mod frame;
#[expect(dead_code, reason = "what translation needs, parsing only fills in")]
#[path = "../../svclb-ebpf/src/packet/parse.rs"]
mod parse;

use std::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use self::frame::Bytes;
use self::parse::{Kind, Part, parse};

/// The ports of later fragments, which stand in the first one alone: here they have none.
mod fragments {
    use super::parse::Packet;

    pub(super) fn remember(_packet: &Packet) {}

    pub(super) fn ports(_packet: &Packet) -> Option<[u16; 2]> {
        None
    }
}

/// What a flow is found by.
type Seen = (IpAddr, u16, IpAddr, u16, bool);

/// A frame. What XDP finishes, tc would read the same in; and what they take for a packet of TCP or
/// UDP, an independent parser reads the same in, if it takes it for sound.
pub fn frames(bytes: &[u8]) {
    let by_xdp = seen(&Bytes::<true>(bytes));
    let by_tc = seen(&Bytes::<false>(bytes));
    if by_xdp.is_some() {
        assert_eq!(by_xdp, by_tc, "XDP and tc do not agree");
    }
    if let (Some(ours), Some(theirs)) = (by_tc, by_etherparse(bytes)) {
        assert_eq!(ours, theirs, "an independent parser does not agree");
    }
}

/// The addresses and ports of a whole packet of TCP or UDP, and whether it is of TCP.
fn seen<const XDP: bool>(frame: &Bytes<'_, XDP>) -> Option<Seen> {
    let mut packet = frame::nothing();
    let is_packet = parse(frame, &mut packet) == Kind::Packet;
    let tuple = packet.tuple;
    (is_packet && packet.part == Part::Whole).then(|| {
        (
            tuple.src.to_ip(),
            tuple.src_port.get(),
            tuple.dst.to_ip(),
            tuple.dst_port.get(),
            packet.is_tcp(),
        )
    })
}

fn by_etherparse(bytes: &[u8]) -> Option<Seen> {
    let sliced = SlicedPacket::from_ethernet(bytes).ok()?;
    let (src, dst): (IpAddr, IpAddr) = match sliced.net? {
        NetSlice::Ipv4(ip) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        ),
        NetSlice::Ipv6(ip) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        ),
        NetSlice::Arp(_) => return None,
    };
    match sliced.transport? {
        TransportSlice::Tcp(tcp) => {
            Some((src, tcp.source_port(), dst, tcp.destination_port(), true))
        }
        TransportSlice::Udp(udp) => {
            Some((src, udp.source_port(), dst, udp.destination_port(), false))
        }
        _ => None,
    }
}
