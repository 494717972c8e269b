//! The packet programs' own code over a plain buffer.

use std::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use svclb_packet::buffer::Buffer;
use svclb_packet::parse::{Kind, Packet, Part, parse};
use svclb_packet::reject::{self, Reject};
use svclb_packet::rewrite::rewrite;

/// What a flow is found by.
type Seen = (IpAddr, u16, IpAddr, u16, bool);

/// A frame. What XDP finishes, tc would read the same in; and what they take for a packet of TCP or
/// UDP, an independent parser reads the same in, if it takes it for sound. It can be rewritten back and
/// forth, and rejected, without a write beyond its end.
pub fn frames(bytes: &[u8]) {
    let by_xdp = seen::<true>(bytes);
    let by_tc = seen::<false>(bytes);
    if by_xdp.is_some() {
        assert_eq!(by_xdp, by_tc, "XDP and tc do not agree");
    }
    if let (Some(ours), Some(theirs)) = (by_tc, by_etherparse(bytes)) {
        assert_eq!(ours, theirs, "an independent parser does not agree");
    }
    let packet = parsed::<false>(bytes);
    if let Some(packet) = packet {
        changed(bytes, |frame| {
            let _written = rewrite(frame, &packet, &packet.tuple.reversed());
        });
        for reject in [Reject::Unserved, Reject::HopLimit, Reject::TooBig(1280)] {
            changed(bytes, |frame| {
                let _link = reject::write(frame, &packet, reject);
            });
        }
    }
}

/// Does something with a frame in tc.
fn changed(bytes: &[u8], work: impl FnOnce(&Buffer<'_, false>)) {
    const HEADROOM: usize = 64;
    let mut whole = vec![0; HEADROOM];
    whole.extend_from_slice(bytes);
    work(&Buffer::new(&mut whole, HEADROOM));
}

/// What the headers of a packet with ports say.
fn parsed<const XDP: bool>(bytes: &[u8]) -> Option<Packet> {
    let mut bytes = bytes.to_vec();
    let mut packet = Packet::EMPTY;
    let kind = parse(&Buffer::<XDP>::new(&mut bytes, 0), &mut packet);
    (kind == Kind::Packet).then_some(packet)
}

/// The addresses and ports of a whole packet of TCP or UDP, and whether it is of TCP.
fn seen<const XDP: bool>(bytes: &[u8]) -> Option<Seen> {
    let packet = parsed::<XDP>(bytes)?;
    let tuple = packet.tuple;
    (packet.part == Part::Whole).then(|| {
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
