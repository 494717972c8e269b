//! A new flow: which frontend, which backend, which source address.

use svclb_common::{
    Addr16, AffinityKey, Counter, DeviceFlags, DeviceValue, FlowFlags, FlowKey, FrontendFlags,
    FrontendKey, FrontendValue, Hook, PortBe, Scope, SlotRange, SlotValue, Tuple,
};

use super::fib;
use super::flows::{self, Refused};
use super::frame::{Frame, has_socket};
use super::parse::{Packet, Part};
use super::reject;
use super::scratch::Scratch;
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

/// The ports that a client is given beside its own: below those that clients take of
/// themselves, and those that other nodes take for their flows. The client may be one of these
/// nodes, and a backend's answers tell its flows apart by the port alone.
const ALT_PORT_FIRST: u32 = 1024;
const ALT_PORTS: u32 = 30_000 - ALT_PORT_FIRST;

/// A packet that is of no flow: maybe it opens one.
#[inline(always)]
pub(super) fn open<F: Frame>(frame: &F, scratch: &mut Scratch) -> i32 {
    let packet = &scratch.packet;
    let key = FrontendKey {
        addr: packet.tuple.dst,
        port: packet.tuple.dst_port,
        proto: packet.proto(),
        scope: Scope::ANY,
    };
    let Some(frontend) = maps::frontend(&key) else {
        return F::PASS;
    };
    if frontend.flags.contains(FrontendFlags::CLUSTER_IP) && CLUSTER_IPS_OUTSIDE.load() == 0 {
        return F::PASS;
    }
    if packet.part == Part::Later {
        return F::PASS;
    }
    let device = maps::device(frame.device());
    if F::IS_XDP && !is_our_mac(frame, device.as_ref()) {
        return F::PASS;
    }
    let is_inside = device.is_some_and(|device| device.flags.contains(DeviceFlags::PODS));
    let range = if is_inside {
        frontend.internal
    } else {
        frontend.external
    };
    let drops = !is_inside && frontend.flags.contains(FrontendFlags::DROPS_OUTSIDE);
    if range.count == 0 && drops {
        count(Counter::DropNoLocalEndpoint);
        return F::DROP;
    }
    if !sources::allow(&frontend, packet.tuple.src) {
        count(Counter::DropSourceRange);
        return F::DROP;
    }
    if packet.is_tcp() && !packet.tcp.opens() {
        // Of a connection that nobody knows any more: its client is told so. At an address of
        // the node it may be an answer to a connection of the node's own, or the kernel's to
        // refuse.
        if frontend.flags.contains(FrontendFlags::NODE_PORT) {
            return F::PASS;
        }
        return reject::refuse(frame, packet);
    }
    if range.count == 0 {
        return reject::refuse(frame, packet);
    }
    let Some(slot) = choose(&frontend, range, packet.tuple.src) else {
        count(Counter::SlotMissing);
        return reject::refuse(frame, packet);
    };
    establish(frame, scratch, &frontend, &slot, is_inside)
}

/// Whether a frame is for this machine: in promiscuous mode XDP sees others' too.
#[inline(always)]
fn is_our_mac<F: Frame>(frame: &F, device: Option<&DeviceValue>) -> bool {
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
fn establish<F: Frame>(
    frame: &F,
    scratch: &mut Scratch,
    frontend: &FrontendValue,
    slot: &SlotValue,
    is_inside: bool,
) -> i32 {
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
    // A client inside the cluster would be answered by the backend itself, past this node.
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
    let mut entered = Err(Refused::Taken);
    for attempt in 0..ATTEMPTS {
        // A client keeps its port too, unless it reached the same backend by another address
        // from it, or may be a node that sends from it (what a node masquerades has any port):
        // the answers could not be told apart.
        if !keeps_source || attempt > 0 || in_snat_range(tuple.src_port) {
            let (first, count) = if keeps_source {
                (ALT_PORT_FIRST, ALT_PORTS)
            } else {
                (SOURCE_PORT_FIRST.load(), SOURCE_PORTS.load())
            };
            take_port(scratch, reverse_hook, first, count);
        }
        let answer = scratch.forward.tuple.reversed();
        if !keeps_source && has_socket(frame.ctx(), scratch.packet.proto(), &answer, is_v4) {
            continue;
        }
        entered = enter(scratch, reverse_hook, flags);
        if !matches!(entered, Err(Refused::Taken)) {
            break;
        }
    }
    let flow = match entered {
        Ok(()) => scratch.forward,
        Err(Refused::Opened) => match flows::peek(&scratch.key) {
            Some(flow) => *flow,
            None => return F::DROP,
        },
        Err(Refused::Full) => {
            count(Counter::DropFlowsFull);
            return F::DROP;
        }
        Err(Refused::Taken) => {
            count(Counter::DropNoPort);
            return F::DROP;
        }
    };
    super::translate(frame, scratch, &flow)
}

/// Gives the new flow a source port of a range, one that no other flow to its backend has if
/// there is any among those that are looked at.
#[inline(always)]
fn take_port(scratch: &mut Scratch, reverse_hook: Hook, first: u32, count: u32) {
    scratch.reverse_key = FlowKey::new(
        scratch.forward.tuple.reversed(),
        scratch.packet.proto(),
        reverse_hook,
    );
    for _ in 0..CANDIDATES {
        // By chance: to step from one to the next would make those that are taken stand in
        // rows.
        let offset = (u64::from(random()) * u64::from(count)) >> 32;
        scratch.reverse_key.tuple.dst_port = PortBe::new(first.wrapping_add(offset as u32) as u16);
        if flows::peek(&scratch.reverse_key).is_none() {
            break;
        }
    }
    scratch.forward.tuple.src_port = scratch.reverse_key.tuple.dst_port;
}

/// The address of this node that a backend elsewhere is to answer to, or what becomes of the
/// packet if there is no way to the backend. None for a backend behind a device whose answers
/// nobody would meet: it is on this node after all, where the objects do not say it.
#[inline(always)]
fn source<F: Frame>(
    frame: &F,
    scratch: &mut Scratch,
    backend: Addr16,
    is_inside: bool,
) -> Result<Option<Addr16>, i32> {
    let Packet { tuple, is_v4, .. } = scratch.packet;
    let next_hop = fib::next_hop(frame, &mut scratch.fib_params, is_v4, tuple.src, backend);
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
    if F::IS_XDP {
        return Err(F::PASS);
    }
    count(Counter::DropNoRoute);
    Err(F::DROP)
}

/// Whether nodes send flows of ours from this port.
#[inline(always)]
fn in_snat_range(port: PortBe) -> bool {
    u32::from(port.get()).wrapping_sub(SOURCE_PORT_FIRST.load()) < SOURCE_PORTS.load()
}

/// Enters both directions, the answers' first: no packet is sent whose answer is unknown.
#[inline(always)]
fn enter(scratch: &mut Scratch, reverse_hook: Hook, flags: FlowFlags) -> Result<(), Refused> {
    let proto = scratch.packet.proto();
    scratch.reverse_key = FlowKey::new(scratch.forward.tuple.reversed(), proto, reverse_hook);
    scratch.reverse = scratch.forward;
    scratch.reverse.tuple = scratch.packet.tuple.reversed();
    scratch.reverse.flags = flags;
    // Whatever is there is over: nobody would be here otherwise.
    let is_known = flows::peek(&scratch.key).is_some();
    flows::enter(&scratch.reverse_key, &scratch.reverse)?;
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
    let entered = if is_known {
        flows::renew(&scratch.key, &scratch.forward)
    } else {
        flows::open(&scratch.key, &scratch.forward)
    };
    if let Err(refused) = entered {
        flows::take_back(&scratch.reverse_key);
        return Err(refused);
    }
    count(Counter::FlowsOpened);
    Ok(())
}
