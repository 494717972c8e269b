//! ICMP errors about packets that were translated: whoever reports one knows the translated
//! addresses, and whoever is told knows his own. So both the message's addresses and those of
//! the packet that it carries are put back.
//!
//! A message about a packet is found as the answer to it would be: by the carried packet's
//! tuple, turned round.

use svclb_common::{Addr16, Counter, FlowFlags, FlowKey, FlowValue, Hook, checksum};

use super::fib;
use super::flows;
use super::frame::{ETHERNET, Frame};
use super::parse::{self, Packet, Part};
use super::rewrite::{addresses, hop, ports};
use super::scratch::Scratch;
use crate::counters::count;

/// Puts the addresses of an ICMP error back, if it is about a flow of ours.
#[inline(always)]
pub(super) fn translate<F: Frame>(frame: &F, scratch: &mut Scratch, hook: Hook) -> i32 {
    let Scratch {
        packet,
        carried,
        key,
        fib_params,
        ..
    } = scratch;
    let Some(at) = read_carried(frame, packet, carried) else {
        return F::PASS;
    };
    *key = FlowKey::new(carried.tuple.reversed(), carried.proto(), hook);
    let Some(flow) = flows::peek(key) else {
        return F::PASS;
    };
    let next_hop = if flow.flags.contains(FlowFlags::FORWARDED) {
        let next_hop = fib::next_hop(
            frame,
            fib_params,
            packet.is_v4,
            flow.tuple.src,
            flow.tuple.dst,
        );
        match next_hop {
            Some(next_hop) if packet.hops > 1 => Some(next_hop),
            _ => return F::DROP,
        }
    } else {
        None
    };
    if put_back(frame, packet, carried, at, flow).is_none() {
        return F::DROP;
    }
    count(Counter::Translated);
    let Some(next_hop) = next_hop else {
        return F::PASS;
    };
    match hop(frame, packet.is_v4, packet.hops) {
        Some(()) => frame.send(&next_hop),
        None => F::DROP,
    }
}

/// Reads the packet that an error carries, and returns where it begins; `None` for any other
/// message.
#[inline(always)]
fn read_carried<F: Frame>(frame: &F, message: &Packet, carried: &mut Packet) -> Option<u32> {
    const HEADER: u32 = 8;
    if message.part != Part::Whole {
        return None;
    }
    let kind = frame.load::<u8>(message.transport)?;
    // Unreachable, time exceeded, parameter problem (RFC 792); unreachable, too big, time
    // exceeded, parameter problem (RFC 4443).
    let is_error = if message.is_v4 {
        matches!(kind, 3 | 11 | 12)
    } else {
        matches!(kind, 1..=4)
    };
    if !is_error {
        return None;
    }
    let at = message.transport + HEADER;
    if message.is_v4 {
        parse::v4(frame, at, carried)?;
    } else {
        parse::v6(frame, at, carried)?;
    }
    parse::carried_ports(frame, carried)?;
    Some(at)
}

/// Writes what the packet's sender knows: `flow` leads to him, so its tuple turned round is the
/// packet as he sent it.
#[inline(always)]
fn put_back<F: Frame>(
    frame: &F,
    message: &Packet,
    carried: &Packet,
    at: u32,
    flow: &FlowValue,
) -> Option<()> {
    let (is_v4, old, new) = (message.is_v4, &carried.tuple, flow.tuple.reversed());
    // The carried packet. The checksum of its transport stays as it is: it may be cut off, or
    // be of what is, and who is told does not look at it. What the message's own checksum
    // covers is what counts.
    let moved = addresses(frame, at, is_v4, [old.src, old.dst], [new.src, new.dst])?;
    let (old_ports, new_ports) = (
        ports(old.src_port, old.dst_port),
        ports(new.src_port, new.dst_port),
    );
    frame.store(carried.transport, new_ports)?;
    let renumbered = checksum::change([old_ports], [new_ports]);
    // An IPv4 header's checksum was corrected with its addresses: together they sum up to what
    // they did before.
    let inner = if is_v4 {
        renumbered
    } else {
        checksum::add(moved, renumbered)
    };
    let outer = addresses(
        frame,
        ETHERNET,
        is_v4,
        [message.tuple.src, message.tuple.dst],
        [source(message, carried, flow), flow.tuple.dst],
    )?;
    // ICMP has no pseudo header (RFC 792); ICMPv6 has (RFC 4443 section 2.3).
    const CHECKSUM: u32 = 2;
    let field = message.transport + CHECKSUM;
    let known = frame.load::<u16>(field)?;
    let change = if is_v4 {
        inner
    } else {
        checksum::add(inner, outer)
    };
    frame.store(field, checksum::apply(known, change))
}

/// Who the message is shown to be from. One that is forwarded has to come from an address of
/// the node, as all that its receiver hears of the flow does; one that the kernel routes stays
/// from the router that reports.
#[inline(always)]
fn source(message: &Packet, carried: &Packet, flow: &FlowValue) -> Addr16 {
    let is_of_the_peer = message.tuple.src == carried.tuple.dst;
    if is_of_the_peer || flow.flags.contains(FlowFlags::FORWARDED) {
        return flow.tuple.src;
    }
    message.tuple.src
}
