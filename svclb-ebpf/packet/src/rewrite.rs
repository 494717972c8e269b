//! Other addresses, ports and hop limits into the bytes, with the checksums.

use svclb_common::{Addr16, PortBe, Tuple};

use crate::checksum;
use crate::frame::{Frame, TransportChecksum};
use crate::parse::{Packet, Part};

/// Offsets in the network headers.
const V4_ADDRESSES: u32 = 12;
const V4_CHECKSUM: u32 = 10;
const V4_HOP_LIMIT: u32 = 8;
const V6_ADDRESSES: u32 = 8;
const V6_HOP_LIMIT: u32 = 7;

/// The checksum of a packet's transport.
#[inline(always)]
const fn transport_checksum(packet: &Packet) -> TransportChecksum {
    const TCP: u32 = 16;
    const UDP: u32 = 6;
    TransportChecksum {
        at: packet.transport + if packet.is_udp() { UDP } else { TCP },
        is_udp: packet.is_udp(),
        is_v4: packet.is_v4,
    }
}

/// Two ports as the word that they are in a header, the source first.
#[inline(always)]
pub const fn ports_word(src: PortBe, dst: PortBe) -> u32 {
    let [a, b] = src.bits().to_ne_bytes();
    let [c, d] = dst.bits().to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

/// Writes source and destination into the network header at an offset, and corrects that header's
/// own checksum. Returns the change, for the checksum of the transport.
#[inline(always)]
pub fn addresses<F: Frame>(
    frame: &F,
    at: u32,
    is_v4: bool,
    old: [Addr16; 2],
    new: [Addr16; 2],
) -> Option<u32> {
    if is_v4 {
        let words = |[src, dst]: [Addr16; 2]| [src.v4_word(), dst.v4_word()];
        let change = checksum::change(words(old), words(new));
        frame.store(at + V4_ADDRESSES, words(new))?;
        frame.correct_header(at + V4_CHECKSUM, change)?;
        return Some(change);
    }
    let change = checksum::add(
        checksum::change(old[0].words(), new[0].words()),
        checksum::change(old[1].words(), new[1].words()),
    );
    frame.store(at + V6_ADDRESSES, [new[0].words(), new[1].words()])?;
    Some(change)
}

/// Gives a packet other addresses and ports. `None` if the frame ended before its headers
/// did, which parsing has excluded, or where the kernel has no memory to make them writable.
#[inline(always)]
pub fn rewrite<F: Frame>(frame: &F, packet: &Packet, to: &Tuple) -> Option<()> {
    let from = &packet.tuple;
    let change = addresses(
        frame,
        F::NETWORK,
        packet.is_v4,
        [from.src, from.dst],
        [to.src, to.dst],
    )?;
    if packet.part == Part::Later {
        if !packet.is_v4 {
            // The first fragment's checksum makes up for that one's addresses alone.
            frame.correct_sum(change);
        }
        return Some(());
    }
    let old = ports_word(from.src_port, from.dst_port);
    let new = ports_word(to.src_port, to.dst_port);
    frame.store(packet.transport, new)?;
    frame.correct_transport(
        transport_checksum(packet),
        change,
        checksum::change([old], [new]),
    )
}

/// Lowers the hop limit by one, as a router does.
#[inline(always)]
pub fn decrement_hop_limit<F: Frame>(frame: &F, is_v4: bool, hop_limit: u8) -> Option<()> {
    let lower = hop_limit.wrapping_sub(1);
    if !is_v4 {
        let word = |limit: u8| u32::from_ne_bytes([0, limit, 0, 0]);
        frame.correct_sum(checksum::change([word(hop_limit)], [word(lower)]));
        return frame.store(F::NETWORK + V6_HOP_LIMIT, lower);
    }
    frame.store(F::NETWORK + V4_HOP_LIMIT, lower)?;
    let word = |limit: u8| u32::from_ne_bytes([limit, 0, 0, 0]);
    frame.correct_header(
        F::NETWORK + V4_CHECKSUM,
        checksum::change([word(hop_limit)], [word(lower)]),
    )
}
