//! The ports of the fragments that have none: they stand in the first one alone.
//!
//! Fragments that come before it are nobody's: they pass, and their datagram is lost, as a
//! dropped fragment's is.

use svclb_common::FragmentValue;

use super::parse::Packet;
use crate::maps::{self, FRAGMENTS};

/// Notes the ports of a first fragment.
#[inline(always)]
pub(super) fn remember(packet: &Packet) {
    let value = FragmentValue {
        src_port: packet.tuple.src_port,
        dst_port: packet.tuple.dst_port,
    };
    // An LRU map has room; if not, the datagram is lost.
    let _stored = FRAGMENTS.insert(packet.datagram(), value, 0);
}

/// The ports of a later fragment.
#[inline(always)]
pub(super) fn ports(packet: &Packet) -> Option<[u16; 2]> {
    let value = maps::fragment(&packet.datagram())?;
    Some([value.src_port.bits(), value.dst_port.bits()])
}
