//! A packet that comes in and is of no flow: which frontend, and which backend.

use svclb_common::{
    Addr16, AffinityKey, Counter, DeviceFlags, DeviceValue, FlowFlags, FrontendFlags, FrontendKey,
    FrontendValue, Hook, PortBe, Reading, Scope, SlotRange, SlotValue, Tuple,
};
use svclb_packet::parse::{Packet, Part};

use super::frame::HookFrame;
use super::pair::{self, Pair, Ports};
use super::scratch::Scratch;
use super::verdict::{DropReason, Verdict};
use super::{fib, forward, local_socket, reject, return_path};
use crate::affinity;
use crate::counters::count;
use crate::kernel::now_ns;
use crate::maps::{self, CLUSTER_IPS_OUTSIDE, SOURCE_PORT_FIRST, SOURCE_PORTS};
use crate::slots::random_slot;
use crate::sources;

/// The ports that a client is given in place of its own: below those that clients choose of
/// themselves, and those that other nodes choose for their flows. The client may be one of these
/// nodes, and a backend's replies differ by the port alone.
const FIRST_PORT: u32 = 1024;
const END_OF_PORTS: u32 = 30_000;

/// The same for a client that sends from a port below 1024, which some protocols take for a proof of
/// who it is. Clients choose from 512 on (rresvport(3)).
const FIRST_PRIVILEGED: u32 = 128;
const END_OF_PRIVILEGED: u32 = 512;

/// A packet without a flow: maybe it opens one.
#[inline(always)]
pub(super) fn open<F: HookFrame, const DIRECT: bool>(frame: &F, scratch: &mut Scratch) -> Verdict {
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
    let device = maps::device(frame.device());
    let is_inside = device.is_some_and(|device| device.flags.contains(DeviceFlags::PODS));
    let is_cluster_ip = frontend.flags.contains(FrontendFlags::CLUSTER_IP);
    if is_cluster_ip && !is_inside && CLUSTER_IPS_OUTSIDE.load() == 0 {
        return Verdict::Pass;
    }
    if packet.part == Part::Later {
        return Verdict::Pass;
    }
    if F::IS_XDP && !is_our_mac(frame, device.as_ref()) {
        return Verdict::Pass;
    }
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
    let is_of_the_node = frontend.flags.contains(FrontendFlags::NODE_ADDRESS);
    if packet.is_tcp() && !packet.tcp.opens() {
        // Of a connection without a flow: its client gets a reset. At an address of the node it may
        // be the reply to a connection of the node's own, or the kernel's to refuse.
        if is_of_the_node {
            return Verdict::Pass;
        }
        return reject::unserved(frame, &scratch.packet, &mut scratch.route);
    }
    // A datagram at an address of the node may be for a socket that is connected to its sender.
    if is_of_the_node
        && packet.is_udp()
        && local_socket::is_connected(frame.ctx(), &packet.tuple, packet.is_v4)
    {
        return Verdict::Pass;
    }
    if range.count == 0 {
        return reject::unserved(frame, &scratch.packet, &mut scratch.route);
    }
    let Some(slot) = choose(&frontend, range, packet.tuple.src) else {
        count(Counter::SlotMissing);
        return reject::unserved(frame, &scratch.packet, &mut scratch.route);
    };
    establish::<F, DIRECT>(frame, scratch, &frontend, &slot, is_inside)
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
fn establish<F: HookFrame, const DIRECT: bool>(
    frame: &F,
    scratch: &mut Scratch,
    frontend: &FrontendValue,
    slot: &SlotValue,
    is_inside: bool,
) -> Verdict {
    let Packet { tuple, .. } = scratch.packet;
    let value = &mut scratch.forward;
    value.service = frontend.service;
    value.backend = slot.backend;
    value.last_seen_ns = now_ns();
    value.tuple = Tuple {
        dst: slot.addr,
        dst_port: slot.port,
        ..tuple
    };
    let own = if DIRECT {
        match source(frame, scratch, slot, is_inside) {
            Ok(own) => own,
            Err(verdict) => return verdict,
        }
    } else {
        None
    };
    return_path::remember(frame, scratch);
    let pair = match own {
        // The replies are given the Service's address as they leave.
        None => Pair {
            reverse_hook: Hook::EGRESS,
            flags: kept(frontend, is_inside),
            ports: client_ports(tuple.src_port, is_inside),
        },
        Some(own) => {
            scratch.forward.tuple.src = own;
            Pair {
                reverse_hook: Hook::INGRESS,
                flags: FlowFlags::FORWARDED,
                ports: snat_ports(),
            }
        }
    };
    let opened = match pair::enter(frame, scratch, pair) {
        Ok(opened) => opened,
        Err(reason) => return Verdict::Drop(reason),
    };
    if opened.is_none() {
        count(Counter::FlowsOpened);
    }
    let Scratch {
        packet,
        route,
        forward,
        ..
    } = scratch;
    forward::translate::<F, DIRECT>(frame, packet, route, opened.unwrap_or(forward))
}

/// What is to be known of a flow as it leaves.
#[inline(always)]
fn kept(frontend: &FrontendValue, is_inside: bool) -> FlowFlags {
    let inside = if is_inside {
        FlowFlags::INSIDE
    } else {
        FlowFlags::NONE
    };
    if frontend.flags.contains(FrontendFlags::MASQUERADE) {
        inside.union(FlowFlags::MASQUERADE)
    } else {
        inside
    }
}

/// The source ports of a client that keeps its address. Its own port, chosen by itself, may be that of
/// a connection that it has to the same backend directly, or opens later: the backend's replies to both
/// would be the same (ADR 7). So it is the last that is tried, and after more others if nodes send from it:
/// the client may be one. Of the others a pod's own node chooses from the lower half, and the node where its
/// packets come in from outside from the upper one: either may be to the same backend.
#[inline(always)]
fn client_ports(own: PortBe, is_inside: bool) -> Ports {
    // A node's source ports may lie below.
    let source_ports = SOURCE_PORT_FIRST.load();
    let unprivileged = if source_ports > 2 * FIRST_PORT && source_ports < END_OF_PORTS {
        source_ports
    } else {
        END_OF_PORTS
    };
    let (first, end) = if u32::from(own.get()) < FIRST_PORT {
        (FIRST_PRIVILEGED, END_OF_PRIVILEGED)
    } else {
        (FIRST_PORT, unprivileged)
    };
    let half = (end - first) / 2;
    Ports {
        first: if is_inside { first } else { first + half },
        count: half,
        looks: if in_snat_range(own) {
            pair::CANDIDATES
        } else {
            pair::BEFORE_OWN
        },
        may_keep: true,
        of_this_node: false,
    }
}

/// The source ports that the node gives to flows.
#[inline(always)]
pub(super) fn snat_ports() -> Ports {
    Ports {
        first: SOURCE_PORT_FIRST.load(),
        count: SOURCE_PORTS.load(),
        looks: pair::CANDIDATES,
        may_keep: false,
        of_this_node: true,
    }
}

/// The address of this node that a backend on another node is to reply to, or what becomes of the
/// packet if no route leads to the backend. None for a flow that the kernel forwards: its backend is on
/// this node, or behind a device without an Ethernet header.
#[inline(always)]
fn source<F: HookFrame>(
    frame: &F,
    scratch: &mut Scratch,
    slot: &SlotValue,
    is_inside: bool,
) -> Result<Option<Addr16>, Verdict> {
    if slot.locality.is_local() && !is_inside {
        return Ok(None);
    }
    let Packet { tuple, is_v4, .. } = scratch.packet;
    // A process of this node, whose endpoint names no node.
    let is_own = |device: DeviceValue| {
        let own = if is_v4 { device.v4 } else { device.v6 };
        own == slot.addr
    };
    if maps::device(DeviceValue::NODE).is_some_and(is_own)
        || maps::device(frame.device()).is_some_and(is_own)
    {
        return Ok(None);
    }
    let next_hop = fib::next_hop(frame, &mut scratch.route, is_v4, tuple.src, slot.addr);
    if let Some(next_hop) = next_hop
        && let Some(device) = maps::device(next_hop.device)
    {
        // A backend behind a pods' device, or one without programs, is on this node, and the objects do
        // not show it: its replies would not be translated otherwise.
        let flags = device.flags;
        let is_attached = flags.contains(DeviceFlags::ATTACHED);
        let is_a_pod = flags.contains(DeviceFlags::PODS) || !is_attached;
        if flags.contains(DeviceFlags::NO_ETHERNET) || !is_inside && is_a_pod {
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
pub(super) fn in_snat_range(port: PortBe) -> bool {
    u32::from(port.get()).wrapping_sub(SOURCE_PORT_FIRST.load()) < SOURCE_PORTS.load()
}
