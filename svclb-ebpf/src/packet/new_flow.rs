//! A new flow: which frontend, which backend, which source address.

use svclb_common::{
    Addr16, AffinityKey, Counter, DeviceFlags, DeviceValue, FlowFlags, FlowKey, FlowValue,
    FrontendFlags, FrontendKey, FrontendValue, Hook, PortBe, Reading, Scope, SlotRange, SlotValue,
    Tuple,
};
use svclb_packet::parse::{Packet, Part};

use super::flows::{self, Entered, Refused};
use super::frame::HookFrame;
use super::scratch::Scratch;
use super::verdict::{DropReason, Verdict};
use super::{fib, forward, fragments, local_socket, reject};
use crate::affinity;
use crate::counters::count;
use crate::kernel::{now_ns, random};
use crate::maps::{self, CLUSTER_IPS_OUTSIDE, SOURCE_PORT_FIRST, SOURCE_PORTS};
use crate::slots::random_slot;
use crate::sources;

/// How many source ports are tried, and how many are looked at for each of them. Of a range that
/// is taken to nine tenths, all miss once in a thousand flows; to a half, never.
const ATTEMPTS: u32 = 4;
const CANDIDATES: u32 = 16;

/// How often a flow makes room for itself: another CPU may take what it made.
const ROOMS: u32 = 2;

/// The ports that a client is given in place of its own: below those that clients choose of
/// themselves, and those that other nodes choose for their flows. The client may be one of these
/// nodes, and a backend's replies differ by the port alone.
const ALT_PORT_FIRST: u32 = 1024;
const ALT_PORTS: u32 = 30_000 - ALT_PORT_FIRST;

/// A packet without a flow: maybe it opens one.
#[inline(always)]
pub(super) fn open<F: HookFrame>(frame: &F, scratch: &mut Scratch) -> Verdict {
    let packet = &scratch.packet;
    let key = FrontendKey {
        addr: packet.tuple.dst,
        port: packet.tuple.dst_port,
        proto: packet.proto(),
        scope: Scope::ANY,
    };
    let frontend = match maps::frontend(&key) {
        Reading::Confirmed(frontend) => frontend,
        Reading::Absent => return Verdict::Pass,
        // The kernel would refuse it; a dropped packet is sent again.
        Reading::Unsettled => return Verdict::Drop(DropReason::FrontendUnsettled),
    };
    if frontend.flags.contains(FrontendFlags::CLUSTER_IP) && CLUSTER_IPS_OUTSIDE.load() == 0 {
        return Verdict::Pass;
    }
    if packet.part == Part::Later {
        return Verdict::Pass;
    }
    let device = maps::device(frame.device());
    if F::IS_XDP && !is_our_mac(frame, device.as_ref()) {
        return Verdict::Pass;
    }
    let is_inside = device.is_some_and(|device| device.flags.contains(DeviceFlags::PODS));
    let range = if is_inside {
        frontend.internal
    } else {
        frontend.external
    };
    let drops = !is_inside && frontend.flags.contains(FrontendFlags::DROPS_OUTSIDE);
    if range.count == 0 && drops {
        return Verdict::Drop(DropReason::NoLocalEndpoint);
    }
    if !sources::allow(&frontend, packet.tuple.src) {
        return Verdict::Drop(DropReason::SourceRange);
    }
    if packet.is_tcp() && !packet.tcp.opens() {
        // Of a connection without a flow: its client gets a reset. At an address of the node it may
        // be the reply to a connection of the node's own, or the kernel's to refuse.
        if frontend.flags.contains(FrontendFlags::NODE_PORT) {
            return Verdict::Pass;
        }
        return reject::unserved(frame, &scratch.packet, &mut scratch.route);
    }
    if range.count == 0 {
        return reject::unserved(frame, &scratch.packet, &mut scratch.route);
    }
    let Some(slot) = choose(&frontend, range, packet.tuple.src) else {
        count(Counter::SlotMissing);
        return reject::unserved(frame, &scratch.packet, &mut scratch.route);
    };
    establish(frame, scratch, &frontend, &slot, is_inside)
}

/// Whether a frame has the link address of the device: in promiscuous mode XDP sees frames to other
/// machines, too.
#[inline(always)]
fn is_our_mac<F: HookFrame>(frame: &F, device: Option<&DeviceValue>) -> bool {
    let to = frame.load::<[u8; 6]>(0);
    device.is_some_and(|device| to == Some(device.link))
}

/// Where session affinity sends a client, or anywhere.
#[inline(always)]
fn choose(frontend: &FrontendValue, range: SlotRange, client: Addr16) -> Option<SlotValue> {
    if frontend.affinity_seconds > 0 {
        return affinity::slot(
            &AffinityKey::address(frontend.service, client),
            frontend,
            range,
        );
    }
    random_slot(frontend, range)
}

/// Gives a flow its backend, and sends its first packet there.
#[inline(always)]
fn establish<F: HookFrame>(
    frame: &F,
    scratch: &mut Scratch,
    frontend: &FrontendValue,
    slot: &SlotValue,
    is_inside: bool,
) -> Verdict {
    let Packet { tuple, is_v4, .. } = scratch.packet;
    let value = &mut scratch.forward;
    value.flags = FlowFlags::NONE;
    value.reserved = 0;
    value.service = frontend.service;
    value.backend = slot.backend;
    value.last_seen_ns = now_ns();
    value.tuple = Tuple {
        dst: slot.addr,
        dst_port: slot.port,
        ..tuple
    };
    // The replies to a client inside the cluster would go there past this node.
    let own = if slot.locality.is_local() && !is_inside {
        None
    } else {
        match source(frame, scratch, slot.addr, is_inside) {
            Ok(own) => own,
            Err(verdict) => return verdict,
        }
    };
    let keeps_source = own.is_none();
    let (reverse_hook, flags) = match own {
        None => (Hook::EGRESS, FlowFlags::NONE),
        Some(own) => {
            scratch.forward.tuple.src = own;
            (Hook::INGRESS, FlowFlags::FORWARDED)
        }
    };
    // One way out of the loop: the verifier walks what comes after it once, and not for each.
    let mut reverse = Err(Refused::Taken);
    for attempt in 0..ATTEMPTS {
        // A client keeps its port too, unless it reached the same backend by another address
        // from it, or may be a node that sends from it (masquerading may use any port of a node):
        // replies to different flows would be the same.
        if !keeps_source || attempt > 0 || in_snat_range(tuple.src_port) {
            let (first, count) = if keeps_source {
                (ALT_PORT_FIRST, ALT_PORTS)
            } else {
                (SOURCE_PORT_FIRST.load(), SOURCE_PORTS.load())
            };
            choose_port(scratch, reverse_hook, first, count);
        }
        let reply = scratch.forward.tuple.reversed();
        let proto = scratch.packet.proto();
        if !keeps_source && local_socket::exists(frame.ctx(), proto, &reply, is_v4) {
            continue;
        }
        reverse = enter_reverse(scratch, reverse_hook, flags);
        if !matches!(reverse, Err(Refused::Taken)) {
            break;
        }
    }
    let opened = match enter_forward(scratch, reverse, reverse_hook, flags) {
        Ok(opened) => opened,
        Err(Refused::Opened) => return Verdict::Drop(DropReason::FlowGone),
        Err(Refused::Full) => return Verdict::Drop(DropReason::FlowsFull),
        Err(Refused::Taken) => return Verdict::Drop(DropReason::NoPort),
    };
    if scratch.packet.part == Part::First {
        fragments::remember(&scratch.packet);
    }
    let Scratch {
        packet,
        route,
        forward,
        ..
    } = scratch;
    forward::translate(frame, packet, route, opened.unwrap_or(forward))
}

/// Gives the new flow a source port of a range, one that no other flow to its backend has if
/// there is any among those that are looked at.
#[inline(always)]
fn choose_port(scratch: &mut Scratch, reverse_hook: Hook, first: u32, count: u32) {
    scratch.reverse_key = FlowKey::new(
        scratch.forward.tuple.reversed(),
        scratch.packet.proto(),
        reverse_hook,
    );
    for _ in 0..CANDIDATES {
        // At random: stepping from one to the next would make taken ports stand in rows.
        let offset = (u64::from(random()) * u64::from(count)) >> 32;
        scratch.reverse_key.tuple.dst_port = PortBe::new(first.wrapping_add(offset as u32) as u16);
        if flows::peek(&scratch.reverse_key).is_none() {
            break;
        }
    }
    scratch.forward.tuple.src_port = scratch.reverse_key.tuple.dst_port;
}

/// The address of this node that a backend on another node is to reply to, or what becomes of the
/// packet if no route leads to the backend. None for a backend behind a device without programs, where
/// its replies would not be translated: it is on this node, and the objects do not show it.
#[inline(always)]
fn source<F: HookFrame>(
    frame: &F,
    scratch: &mut Scratch,
    backend: Addr16,
    is_inside: bool,
) -> Result<Option<Addr16>, Verdict> {
    let Packet { tuple, is_v4, .. } = scratch.packet;
    let next_hop = fib::next_hop(frame, &mut scratch.route, is_v4, tuple.src, backend);
    if let Some(next_hop) = next_hop
        && let Some(device) = maps::device(next_hop.device)
    {
        if !is_inside && !device.flags.contains(DeviceFlags::ATTACHED) {
            return Ok(None);
        }
        if let Some(own) = device.address(is_v4) {
            return Ok(Some(own));
        }
    }
    Err(if F::IS_XDP {
        Verdict::Pass
    } else {
        Verdict::Drop(DropReason::NoRoute)
    })
}

/// Whether nodes send flows of ours from this port.
#[inline(always)]
fn in_snat_range(port: PortBe) -> bool {
    u32::from(port.get()).wrapping_sub(SOURCE_PORT_FIRST.load()) < SOURCE_PORTS.load()
}

/// Enters the reverse direction. It comes first: no packet is sent whose reply would be unknown.
#[inline(always)]
fn enter_reverse(
    scratch: &mut Scratch,
    reverse_hook: Hook,
    flags: FlowFlags,
) -> Result<Entered, Refused> {
    let proto = scratch.packet.proto();
    scratch.reverse_key = FlowKey::new(scratch.forward.tuple.reversed(), proto, reverse_hook);
    scratch.reverse = scratch.forward;
    scratch.reverse.tuple = scratch.packet.tuple.reversed();
    scratch.reverse.flags = flags;
    flows::enter_reverse(&scratch.reverse_key, &scratch.reverse)
}

/// Enters the client's direction after the reverse one, and makes room for either where there is none.
/// If another CPU opened the flow meanwhile, what that one entered is returned.
#[inline(always)]
fn enter_forward(
    scratch: &mut Scratch,
    mut reverse: Result<Entered, Refused>,
    reverse_hook: Hook,
    flags: FlowFlags,
) -> Result<Option<&'static FlowValue>, Refused> {
    let other_at = match reverse_hook {
        Hook::EGRESS => FlowFlags::OTHER_AT_EGRESS,
        _ => FlowFlags::NONE,
    };
    scratch.forward.flags = flags
        .union(FlowFlags::FROM_CLIENT)
        .union(if scratch.packet.is_udp() {
            FlowFlags::SEEN
        } else {
            FlowFlags::NONE
        })
        .union(other_at);
    let mut room = None;
    let mut forward = Err(Refused::Full);
    for attempt in 0..=ROOMS {
        if attempt > 0 {
            let now = scratch.forward.last_seen_ns;
            room = flows::make_room(now, &mut scratch.candidate, &mut scratch.other);
            if room.is_none() {
                break;
            }
        }
        if matches!(reverse, Err(Refused::Full)) && attempt > 0 {
            reverse = flows::enter_reverse(&scratch.reverse_key, &scratch.reverse);
        }
        forward = match reverse {
            Ok(_) => flows::enter_forward(&scratch.key, &scratch.forward),
            Err(refused) => Err(refused),
        };
        if !matches!(forward, Err(Refused::Full)) {
            break;
        }
    }
    let refused = match forward {
        Ok(()) => {
            count(Counter::FlowsOpened);
            flows::note_opened(&scratch.key, room);
            return Ok(None);
        }
        Err(refused) => refused,
    };
    if reverse == Ok(Entered::New) {
        flows::take_back(&scratch.key, &scratch.reverse_key);
    }
    match refused {
        Refused::Opened => flows::peek(&scratch.key).map(Some).ok_or(refused),
        _ => Err(refused),
    }
}
