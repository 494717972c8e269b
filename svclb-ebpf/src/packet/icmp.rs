//! ICMP errors about packets that were translated: the router that reports one knows the translated
//! addresses, and the sender of the packet its own. So both the message's addresses and those of
//! the packet that it carries are put back.
//!
//! The flow of a message is that of the reply to the packet that it carries: the carried tuple, turned
//! round.

use svclb_common::{Addr16, FlowFlags, FlowKey, FlowValue, Hook};
use svclb_packet::checksum;
use svclb_packet::parse::{self, Packet, Part};
use svclb_packet::rewrite::{addresses, decrement_hop_limit, ports_word};

use super::frame::HookFrame;
use super::scratch::Scratch;
use super::verdict::{DropReason, Verdict};
use super::{fib, flows};

/// Puts the addresses of an ICMP error back, if it is about a flow of ours.
#[inline(always)]
pub(super) fn translate<F: HookFrame, const DIRECT: bool>(
    frame: &F,
    scratch: &mut Scratch,
    hook: Hook,
) -> Verdict {
    let Scratch {
        packet,
        carried,
        key,
        route,
        ..
    } = scratch;
    let Some((at, is_redirect)) = read_carried(frame, packet, carried, hook) else {
        return Verdict::Pass;
    };
    *key = FlowKey::new(carried.tuple.reversed(), carried.proto(), hook);
    let Some(flow) = flows::peek(key) else {
        return Verdict::Pass;
    };
    if flow.flags.contains(FlowFlags::OWN) {
        return Verdict::Pass;
    }
    if is_redirect {
        return Verdict::Drop(DropReason::IcmpRedirect);
    }
    let next_hop = if DIRECT && flow.flags.contains(FlowFlags::FORWARDED) {
        if packet.hop_limit <= 1 {
            // No error is sent about an error (RFC 1122 section 3.2.2).
            return Verdict::Drop(DropReason::HopLimit);
        }
        let (src, dst) = (flow.tuple.src, flow.tuple.dst);
        match fib::next_hop(frame, route, packet.is_v4, src, dst) {
            Some(next_hop) => Some(next_hop),
            None => return Verdict::Drop(DropReason::NoRoute),
        }
    } else {
        None
    };
    let written = put_back(frame, packet, carried, at, flow);
    match (written, next_hop) {
        (None, _) => Verdict::Drop(DropReason::NotWritable),
        (Some(()), None) => Verdict::Translated,
        (Some(()), Some(next_hop)) => {
            match decrement_hop_limit(frame, packet.is_v4, packet.hop_limit) {
                Some(()) => {
                    route.next_hop = next_hop;
                    Verdict::Redirect
                }
                None => Verdict::Drop(DropReason::NotWritable),
            }
        }
    }
}

/// Reads the packet that an error carries, or a redirect that leaves the node. Returns where it begins,
/// and whether it is a redirect; `None` for any other message.
#[inline(always)]
fn read_carried<F: HookFrame>(
    frame: &F,
    message: &Packet,
    carried: &mut Packet,
    hook: Hook,
) -> Option<(u32, bool)> {
    const HEADER: u32 = 8;
    /// Redirects (RFC 792, RFC 4861 section 4.5).
    const REDIRECT: [u8; 2] = [5, 137];
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
    let is_redirect = hook == Hook::EGRESS
        && kind
            == if message.is_v4 {
                REDIRECT[0]
            } else {
                REDIRECT[1]
            };
    if !is_error && !is_redirect {
        return None;
    }
    let at = if is_redirect && !message.is_v4 {
        redirected(frame, message.transport)?
    } else {
        message.transport + HEADER
    };
    parse::carried(frame, at, message.is_v4, carried)?;
    Some((at, is_redirect))
}

/// Where the packet begins that a redirect of IPv6 at an offset carries: in an option, maybe after that
/// with the link address of the target (RFC 4861 section 4.6).
#[inline(always)]
fn redirected<F: HookFrame>(frame: &F, at: u32) -> Option<u32> {
    const HEADER: u32 = 40;
    const OPTION_HEADER: u32 = 8;
    const REDIRECTED: u8 = 4;
    let mut at = at + HEADER;
    for _ in 0..2 {
        let [kind, length] = frame.load::<[u8; 2]>(at)?;
        if kind == REDIRECTED {
            return Some(at + OPTION_HEADER);
        }
        at += u32::from(length) * 8;
    }
    None
}

/// Writes the addresses that the packet's sender knows: `flow` leads there, so its tuple turned round
/// is the packet as it was sent.
#[inline(always)]
fn put_back<F: HookFrame>(
    frame: &F,
    message: &Packet,
    carried: &Packet,
    at: u32,
    flow: &FlowValue,
) -> Option<()> {
    let (is_v4, old, new) = (message.is_v4, &carried.tuple, flow.tuple.reversed());
    // The carried packet. The checksum of its transport stays as it is: it may be cut off, and no
    // receiver of the message looks at it. The message's own checksum has to be right.
    let moved = addresses(frame, at, is_v4, [old.src, old.dst], [new.src, new.dst])?;
    let (old_ports, new_ports) = (
        ports_word(old.src_port, old.dst_port),
        ports_word(new.src_port, new.dst_port),
    );
    frame.store(carried.transport, new_ports)?;
    let renumbered = checksum::change([old_ports], [new_ports]);
    // An IPv4 header's checksum was corrected with its addresses, so the sum over both is the same
    // as before.
    let inner = if is_v4 {
        renumbered
    } else {
        checksum::add(moved, renumbered)
    };
    let outer = addresses(
        frame,
        F::NETWORK,
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

/// The source address that the message gets. A forwarded one has to come from an address of the node,
/// as all packets of the flow do that its receiver gets; one that the kernel routes keeps the
/// address of the router.
#[inline(always)]
fn source(message: &Packet, carried: &Packet, flow: &FlowValue) -> Addr16 {
    let is_of_the_peer = message.tuple.src == carried.tuple.dst;
    let flags = flow.flags;
    // What leaves with the client's direction of a flow that was masqueraded is from the node.
    let is_masqueraded = flags.contains(FlowFlags::MASQUERADED.union(FlowFlags::FROM_CLIENT));
    if is_of_the_peer || is_masqueraded || flags.contains(FlowFlags::FORWARDED) {
        return flow.tuple.src;
    }
    message.tuple.src
}
