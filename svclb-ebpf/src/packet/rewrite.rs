//! New addresses and ports into the bytes, with the checksums.

use svclb_common::{Addr16, PortBe, Tuple, checksum};

use super::frame::{ETHERNET, Frame};
use super::parse::{Packet, Part};

/// Where the addresses stand in the headers, and the IPv4 header's checksum.
const V4_ADDRESSES: u32 = 12;
const V6_ADDRESSES: u32 = 8;
const V4_CHECKSUM: u32 = 10;

/// Where the checksum stands in a transport's header.
#[inline(always)]
const fn checksum_at(packet: &Packet) -> u32 {
    if packet.is_udp() { 6 } else { 16 }
}

/// The ports of a tuple as they stand side by side in a header.
#[inline(always)]
pub(super) const fn ports(src: PortBe, dst: PortBe) -> u32 {
    let [a, b] = src.bits().to_ne_bytes();
    let [c, d] = dst.bits().to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

/// Writes source and destination into the header at `at`, and corrects its own checksum.
/// Returns the change, for the checksum of the transport.
#[inline(always)]
pub(super) fn addresses<F: Frame>(
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
/// did, which parsing has excluded.
#[inline(always)]
pub(super) fn rewrite<F: Frame>(frame: &F, packet: &Packet, to: &Tuple) -> Option<()> {
    let from = &packet.tuple;
    let moved = addresses(
        frame,
        ETHERNET,
        packet.is_v4,
        [from.src, from.dst],
        [to.src, to.dst],
    )?;
    if packet.part == Part::Later {
        return Some(());
    }
    let old = ports(from.src_port, from.dst_port);
    let new = ports(to.src_port, to.dst_port);
    frame.store(packet.transport, new)?;
    frame.correct_transport(
        packet,
        packet.transport + checksum_at(packet),
        moved,
        checksum::change([old], [new]),
    )
}

/// Takes a hop off.
#[inline(always)]
pub(super) fn hop<F: Frame>(frame: &F, is_v4: bool, hops: u8) -> Option<()> {
    const V4_HOPS: u32 = 8;
    const V6_HOPS: u32 = 7;
    let fewer = hops.wrapping_sub(1);
    if !is_v4 {
        let word = |hops: u8| u32::from_ne_bytes([0, hops, 0, 0]);
        frame.correct_sum(checksum::change([word(hops)], [word(fewer)]));
        return frame.store(ETHERNET + V6_HOPS, fewer);
    }
    frame.store(ETHERNET + V4_HOPS, fewer)?;
    let word = |hops: u8| u32::from_ne_bytes([hops, 0, 0, 0]);
    frame.correct_header(
        ETHERNET + V4_CHECKSUM,
        checksum::change([word(hops)], [word(fewer)]),
    )
}
