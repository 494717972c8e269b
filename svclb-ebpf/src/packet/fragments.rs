//! The ports of the fragments that carry none: they stand in the first fragment of a datagram.
//!
//! Only datagrams of a flow are remembered, or the fragments of others would push them out of the
//! map. A fragment that comes before the first one passes, and its datagram is lost, as a dropped
//! fragment's is.

use svclb_common::FragmentValue;
use svclb_packet::parse::Packet;

use crate::maps::{self, FRAGMENTS};

/// Remembers the ports of a first fragment.
#[inline(always)]
pub(super) fn remember(packet: &Packet) {
    let value = FragmentValue {
        src_port: packet.tuple.src_port,
        dst_port: packet.tuple.dst_port,
    };
    // An LRU map has room; if not, the datagram is lost.
    let _stored = FRAGMENTS.insert(packet.datagram(), value, 0);
}

/// Gives a later fragment the ports of the first one. `None` if that is not known.
#[inline(always)]
pub(super) fn set_ports(packet: &mut Packet) -> Option<()> {
    let value = maps::fragment(&packet.datagram())?;
    packet.set_ports([value.src_port.bits(), value.dst_port.bits()])
}
