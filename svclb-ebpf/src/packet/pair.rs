//! Entering both directions of a new flow, with a source port that makes its replies its own.

use svclb_common::{FlowFlags, FlowKey, FlowValue, Hook, PortBe};
use svclb_packet::parse::Part;

use super::flows::{self, Entered, Refused};
use super::frame::HookFrame;
use super::scratch::Scratch;
use super::verdict::DropReason;
use super::{fragments, local_socket};
use crate::kernel::random;

/// How many source ports are looked at. Of a range that is taken to a half, all miss once in ten million
/// flows; of one that is taken to nine tenths, one in twelve does.
pub(super) const CANDIDATES: u32 = 24;
/// How many are looked at where the packet's own is left: a client that has thousands of flows to one
/// backend pays for each look.
pub(super) const BEFORE_OWN: u32 = 4;
/// How many are looked at where none was free, to make one free: each costs the verifier.
const TO_BE_FREED: u32 = 16;

/// The attempts of a new flow: ports at random, the packet's own, and ports whose flows are over.
const OWN: u32 = 1;
const MAKES_ROOM: u32 = 2;

/// How often a flow makes room for itself: another CPU may take what it made.
const ROOMS: u32 = 2;

/// The source ports of a new flow.
#[derive(Clone, Copy)]
pub(super) struct Ports {
    /// The first one, and how many there are. None are left but the packet's own if it is zero.
    pub(super) first: u32,
    pub(super) count: u32,
    /// How many of them are looked at.
    pub(super) looks: u32,
    /// Whether the packet's own may be taken, where none of those is free.
    pub(super) may_keep: bool,
    /// Whether the address is one of this node, whose sockets may have the port.
    pub(super) of_this_node: bool,
}

impl Ports {
    /// The packet's own.
    pub(super) const OWN: Self = Self {
        first: 0,
        count: 0,
        looks: 0,
        may_keep: true,
        of_this_node: false,
    };
}

/// How the two directions of a new flow are entered.
#[derive(Clone, Copy)]
pub(super) struct Pair {
    /// Where the replies are translated.
    pub(super) reverse_hook: Hook,
    /// Facts about both directions.
    pub(super) flags: FlowFlags,
    /// The source ports.
    pub(super) ports: Ports,
}

/// Enters the flow of the packet at hand: `scratch.key` is its key, and `scratch.forward` has the addresses
/// that it is given, with its own source port. Returns what another CPU entered for the flow meanwhile, or
/// `None` where the flow is `scratch.forward`.
#[inline(always)]
pub(super) fn enter<F: HookFrame>(
    frame: &F,
    scratch: &mut Scratch,
    pair: Pair,
) -> Result<Option<&'static FlowValue>, DropReason> {
    let ports = pair.ports;
    for value in [&mut scratch.forward, &mut scratch.reverse] {
        value.reserved = 0;
        value.acknowledged = 0;
    }
    // One way out of the loop: the verifier walks what comes after it once, and not for each.
    let mut reverse = Err(Refused::Taken);
    for attempt in 0..=MAKES_ROOM {
        if attempt == OWN {
            if !ports.may_keep {
                continue;
            }
            scratch.forward.tuple.src_port = scratch.packet.tuple.src_port;
        } else if ports.count == 0
            || !choose_port(scratch, pair.reverse_hook, ports, attempt == MAKES_ROOM)
        {
            continue;
        }
        if ports.of_this_node && is_a_sockets(frame, scratch) {
            continue;
        }
        let proto = scratch.packet.proto();
        scratch.reverse_key =
            FlowKey::new(scratch.forward.tuple.reversed(), proto, pair.reverse_hook);
        reverse = enter_reverse(scratch, pair.flags);
        if !matches!(reverse, Err(Refused::Taken)) {
            break;
        }
    }
    match enter_forward(scratch, reverse, pair) {
        Ok(opened) => {
            if scratch.packet.part == Part::First {
                fragments::remember(&scratch.packet);
            }
            Ok(opened)
        }
        Err(Refused::Opened) => Err(DropReason::FlowGone),
        Err(Refused::Full) => Err(DropReason::FlowsFull),
        Err(Refused::Taken) => Err(DropReason::NoPort),
    }
}

/// Whether a socket of this node would get the replies.
#[inline(always)]
fn is_a_sockets<F: HookFrame>(frame: &F, scratch: &Scratch) -> bool {
    let reply = scratch.forward.tuple.reversed();
    let (proto, is_v4) = (scratch.packet.proto(), scratch.packet.is_v4);
    local_socket::exists(frame.ctx(), proto, &reply, is_v4)
}

/// Gives the new flow a source port of a range that no other flow to its backend has, if one is among
/// those that are looked at. Where all were taken, a connection that is over, or a question of UDP that was
/// answered, makes room (`makes_room`).
#[inline(always)]
fn choose_port(scratch: &mut Scratch, reverse_hook: Hook, ports: Ports, makes_room: bool) -> bool {
    scratch.reverse_key = FlowKey::new(
        scratch.forward.tuple.reversed(),
        scratch.packet.proto(),
        reverse_hook,
    );
    let looks = if makes_room { TO_BE_FREED } else { ports.looks };
    let now = scratch.forward.last_seen_ns;
    let mut is_free = false;
    for candidate in 0..CANDIDATES {
        if candidate == looks {
            break;
        }
        let port = random_port(ports);
        // Of a client that is its own backend, requests and replies would be the same.
        if port == scratch.forward.tuple.dst_port {
            continue;
        }
        scratch.reverse_key.tuple.dst_port = port;
        is_free = match flows::peek(&scratch.reverse_key) {
            Some(known) => makes_room && flows::free_port(&scratch.reverse_key, known, now),
            None => true,
        };
        if is_free {
            break;
        }
    }
    scratch.forward.tuple.src_port = scratch.reverse_key.tuple.dst_port;
    is_free
}

/// A port of a range, at random: stepping from one to the next would make taken ports stand in rows.
#[inline(always)]
fn random_port(ports: Ports) -> PortBe {
    let offset = (u64::from(random()) * u64::from(ports.count)) >> 32;
    PortBe::new(ports.first.wrapping_add(offset as u32) as u16)
}

/// Which flag an entry has whose other direction is translated at a hook.
#[inline(always)]
fn other_at(hook: Hook) -> FlowFlags {
    match hook {
        Hook::EGRESS => FlowFlags::OTHER_AT_EGRESS,
        _ => FlowFlags::NONE,
    }
}

/// Enters the reverse direction. It comes first: no packet is sent whose reply would be unknown.
#[inline(always)]
fn enter_reverse(scratch: &mut Scratch, flags: FlowFlags) -> Result<Entered, Refused> {
    scratch.reverse.tuple = scratch.packet.tuple.reversed();
    scratch.reverse.flags = flags.union(other_at(scratch.key.hook));
    scratch.reverse.service = scratch.forward.service;
    scratch.reverse.backend = scratch.forward.backend;
    scratch.reverse.last_seen_ns = scratch.forward.last_seen_ns;
    flows::enter_reverse(&scratch.reverse_key, &scratch.reverse)
}

/// Enters the client's direction after the reverse one, and makes room for either where there is none.
/// If another CPU opened the flow meanwhile, what that one entered is returned.
#[inline(always)]
fn enter_forward(
    scratch: &mut Scratch,
    mut reverse: Result<Entered, Refused>,
    pair: Pair,
) -> Result<Option<&'static FlowValue>, Refused> {
    scratch.forward.flags = pair
        .flags
        .union(FlowFlags::FROM_CLIENT)
        .union(if scratch.packet.is_udp() {
            FlowFlags::SEEN
        } else {
            FlowFlags::NONE
        })
        .union(other_at(pair.reverse_hook));
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
            flows::note_opened(&scratch.key, room);
            return Ok(None);
        }
        Err(refused) => refused,
    };
    if reverse == Ok(Entered::New) {
        flows::take_back(&scratch.key, &scratch.reverse_key);
    }
    match refused {
        Refused::Opened => flows::opened(&scratch.key).map(Some).ok_or(refused),
        _ => Err(refused),
    }
}
