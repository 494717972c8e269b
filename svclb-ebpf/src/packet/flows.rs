//! Conntrack: the only module of the kernel half that writes `FLOWS`.
//!
//! A flow never moves while it lives: its backend and source are looked up, and chosen again only
//! where its client opens it anew. The agent removes entries that are over. Where it did not, and the
//! map is full, a new flow takes the place of one that is over; one that goes on is never replaced.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use svclb_common::{
    Counter, FlowFlags, FlowKey, FlowState, FlowValue, FrontendKey, Hook, LinkAddr, Proto, Reading,
    Scope, SlotIndex,
};
use svclb_packet::parse::Packet;

use crate::counters::count;
use crate::kernel::now_ns;
use crate::maps::{self, FLOW_CURSOR, FLOW_RING, FLOW_RING_MASK, FLOWS, flow_timeout_ns};
use crate::slots::slot_at;

/// How precisely is known when a flow was last seen: writing it for each packet would move the
/// entry from CPU to CPU.
const PRECISION_NS: u64 = 1_000_000_000;

/// `BPF_NOEXIST`.
const NO_EXIST: u64 = 1;
const EEXIST: i32 = -17;

/// The flows that CPUs are about to remove, by the key that they found them by: one CPU for each. Their clients
/// open them anew, or another flow needs their port. Programs that take turns at an upgrade share none of it.
#[map]
static REOPENED: HashMap<FlowKey, u8> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);

/// Why a direction could not be entered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Its key is another flow's.
    Taken,
    /// Another CPU just entered it, for another packet of the flow.
    Opened,
    /// There is no room.
    Full,
}

/// How a direction was entered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Entered {
    /// Nothing had its key.
    New,
    /// In the place of an entry that leads to the same, or is over.
    Replaced,
}

/// The flow of a packet, whose entry is marked as seen. A flow that is over is removed for a packet that
/// opens it anew.
#[inline(always)]
pub(super) fn find(key: &FlowKey, packet: &Packet) -> Option<&'static FlowValue> {
    let known = FLOWS.get_ptr_mut(key)?;
    // SAFETY: map memory, valid for the run, and always an entry of this map. No program writes the
    // addresses of an entry again, but the memory of a deleted one may become another entry at once
    // (Linux 6.1 on; see "Reading an element that is replaced" in docs/map-contract.md). Any bytes are
    // an entry. What is written are aligned words, and a lost update of one is of no harm.
    unsafe {
        let flags = (&raw const (*known).flags).read_volatile();
        let last = (&raw const (*known).last_seen_ns).read_volatile();
        let mut seen = flags.union(seen(packet));
        if packet.tcp.opens()
            && flags.contains(FlowFlags::FROM_CLIENT)
            && (is_over(key, &*known) || is_silent(key, &*known) && is_backend_gone(key, &*known))
        {
            return remove_over(key, &*known, last);
        }
        // The backend took the SYN of a client whose connection one side alone had ended.
        if packet.tcp.answers() && flags.contains(FlowFlags::SEEN) {
            seen = seen.without(FlowFlags::FIN);
            open_again(&(*known).other(key.proto));
        }
        if packet.tcp.ends() && is_accepted(key, &*known, packet) {
            seen = seen.union(end(packet));
        }
        let goes_on = packet.tcp.ack() && !packet.tcp.rst();
        if goes_on && (*known).acknowledged != packet.acknowledged {
            (&raw mut (*known).acknowledged).write_volatile(packet.acknowledged);
        }
        let now = now_ns();
        // One that is left to the kernel is known for no longer than the kernel knows it: replies show that it
        // does.
        let is_kernels = flags.contains(FlowFlags::OWN) && (*known).backend.get() != 0;
        let shows_none = is_kernels && packet.is_udp() && flags.contains(FlowFlags::FROM_CLIENT);
        if now.saturating_sub(last) > PRECISION_NS && !shows_none {
            (&raw mut (*known).last_seen_ns).write_volatile(now);
            if !is_kernels {
                seen = seen.union(FlowFlags::STREAM);
            }
            // The receiver did not take its reset, which was a stranger's (RFC 5961 section 3.2).
            if goes_on {
                seen = seen.without(FlowFlags::RST);
            }
        }
        if seen != flags {
            (&raw mut (*known).flags).write_volatile(seen);
        }
        Some(&*known)
    }
}

/// The flow of a tuple, without marking it as seen.
#[inline(always)]
pub(super) fn peek(key: &FlowKey) -> Option<&'static FlowValue> {
    // SAFETY: as above.
    unsafe { FLOWS.get(key) }
}

/// Writes into both directions of a flow by which device its client's packets come in now.
#[inline(always)]
pub(super) fn set_device(key: &FlowKey, flow: &FlowValue, device: u32, router: LinkAddr) {
    for key in [key, &flow.other(key.proto)] {
        if let Some(entry) = FLOWS.get_ptr_mut(key) {
            // SAFETY: as in `find`; aligned words. Two CPUs may leave parts of both, until the next
            // packet.
            unsafe {
                (&raw mut (*entry).device).write_volatile(device);
                (&raw mut (*entry).router).write_volatile(router);
            }
        }
    }
}

/// What a packet shows of its direction. An opening one shows nothing yet: its source may be forged,
/// and what it opens must not be remembered for long.
#[inline(always)]
const fn seen(packet: &Packet) -> FlowFlags {
    // A reset shows no sender: it may be forged, and it is judged by itself.
    if packet.is_udp() || packet.tcp.ack() && !packet.tcp.rst() {
        FlowFlags::SEEN
    } else {
        FlowFlags::NONE
    }
}

/// What a packet with FIN or RST ends.
#[inline(always)]
const fn end(packet: &Packet) -> FlowFlags {
    if packet.tcp.rst() {
        FlowFlags::RST
    } else {
        FlowFlags::FIN
    }
}

/// More than is on its way where a connection is fast and long: 100 ms at 300 Mbit/s.
const AHEAD: u32 = 1 << 22;

/// Whether the receiver of a segment would accept its FIN or RST: it begins where the receiver expects
/// the next byte, or after that in data that is on its way (RFC 9293 section 3.10.7.4; of resets RFC
/// 5961 section 3.2 takes fewer).
#[inline(always)]
fn is_accepted(key: &FlowKey, flow: &FlowValue, packet: &Packet) -> bool {
    /// A FIN may be in a segment that begins with data which was sent before.
    const BEFORE: u32 = 1 << 16;
    ahead(key, flow, packet).is_none_or(|ahead| {
        ahead < AHEAD || packet.tcp.fin() && ahead.wrapping_add(BEFORE) < BEFORE
    })
}

/// Whether a packet can be of a flow's client, and not of a stranger who knows no more than its addresses: a
/// segment of TCP begins near what its receiver expects. It may have been sent before.
#[inline(always)]
pub(super) fn is_likely(key: &FlowKey, flow: &FlowValue, packet: &Packet) -> bool {
    packet.is_udp()
        || ahead(key, flow, packet).is_none_or(|ahead| ahead.wrapping_add(AHEAD) < 2 * AHEAD)
}

/// By how much a segment is ahead of what its receiver expects, which is what that last acknowledged. None
/// if it is not known: before the first reply, or of an entry of before an upgrade.
#[inline(always)]
fn ahead(key: &FlowKey, flow: &FlowValue, packet: &Packet) -> Option<u32> {
    let other = peek(&flow.other(key.proto))?;
    let is_known = other.flags.contains(FlowFlags::SEEN) && other.acknowledged != 0;
    let expected = u32::from_be(other.acknowledged);
    is_known.then(|| u32::from_be(packet.sequence).wrapping_sub(expected))
}

/// Whether nothing came from a flow's backend for so long that a SYN of its client is sent again: one that
/// answers keeps its flow, whatever a stranger sends.
#[inline(always)]
fn is_silent(key: &FlowKey, flow: &FlowValue) -> bool {
    const SILENT_NS: u64 = 3_000_000_000;
    let Some(other) = peek(&flow.other(key.proto)) else {
        return true;
    };
    !other.flags.contains(FlowFlags::SEEN)
        || now_ns().saturating_sub(other.last_seen_ns) > SILENT_NS
}

/// Whether the backend that a flow was given is none of its frontend's any more: for a SYN that opens the
/// flow again, which is rare.
#[inline(always)]
fn is_backend_gone(key: &FlowKey, flow: &FlowValue) -> bool {
    /// Of more backends than these one is gone when its id is: that has a quarantine of a minute
    /// (`svclb_core::image`).
    const LOOKED_AT: u32 = 32;
    if key.hook != Hook::INGRESS || flow.backend.get() == 0 {
        return false;
    }
    let is_given = maps::backend(flow.backend).is_some_and(|backend| {
        backend.addr == flow.tuple.dst && backend.port == flow.tuple.dst_port
    });
    if !is_given {
        return true;
    }
    let frontend = maps::frontend(&FrontendKey {
        addr: key.tuple.dst,
        port: key.tuple.dst_port,
        proto: key.proto,
        scope: Scope::ANY,
    });
    let Reading::Confirmed(frontend) = frontend else {
        return false;
    };
    let range = if flow.flags.contains(FlowFlags::INSIDE) {
        frontend.internal
    } else {
        frontend.external
    };
    if range.count > LOOKED_AT {
        return false;
    }
    for offset in 0..LOOKED_AT {
        let position = SlotIndex::position(range.first.wrapping_add(offset));
        if offset < range.count
            && slot_at(&frontend, position).is_some_and(|slot| slot.backend == flow.backend)
        {
            return false;
        }
    }
    true
}

/// Whether a TCP flow came to its end, so that its addresses may be used again: a reset, or a FIN of
/// both sides; or its other direction is gone.
#[inline(always)]
fn is_over(key: &FlowKey, flow: &FlowValue) -> bool {
    if flow.flags.contains(FlowFlags::RST) {
        return true;
    }
    let other = peek(&flow.other(key.proto));
    let Some(other) = other.filter(|other| other.other(key.proto) == *key) else {
        return true;
    };
    let is_done = flow.flags.contains(FlowFlags::FIN) && other.flags.contains(FlowFlags::FIN);
    is_done || other.flags.contains(FlowFlags::RST)
}

/// Removes a flow that is over, by the key of its client's direction, for a packet that opens it anew.
/// Returns what another CPU entered for that packet's flow meanwhile.
///
/// It is not overwritten: of two CPUs that find it over, one enters the new flow, and the other one finds
/// that. No helper removes an element on a condition, so one CPU at a time looks again and removes: the
/// one that was over was last seen at `last_seen_ns`, which is read before it is judged.
#[inline(always)]
fn remove_over(key: &FlowKey, over: &FlowValue, last_seen_ns: u64) -> Option<&'static FlowValue> {
    let other_key = &over.other(key.proto);
    // Where another CPU is at it, this one finds what that one enters; or no more than the flow that is
    // over (`opened`).
    REOPENED.insert(key, 0, NO_EXIST).ok()?;
    // Only what is still there is removed: where nothing is, the other CPU is about to enter its flow.
    if peek(key).is_some_and(|known| known.last_seen_ns == last_seen_ns) {
        let _gone = FLOWS.remove(key);
        // A direction that was since given to another flow is not this one's.
        if peek(other_key).is_some_and(|other| other.other(key.proto) == *key) {
            let _gone = FLOWS.remove(other_key);
        }
    }
    let _removed = REOPENED.remove(key);
    opened(key)
}

/// Takes back that the sender of a direction ended its connection.
#[inline(always)]
fn open_again(key: &FlowKey) {
    if let Some(known) = FLOWS.get_ptr_mut(key) {
        // SAFETY: as in `find`.
        unsafe {
            let flags = (&raw const (*known).flags).read_volatile();
            if flags.contains(FlowFlags::FIN) {
                (&raw mut (*known).flags).write_volatile(flags.without(FlowFlags::FIN));
            }
        }
    }
}

/// The flow that another CPU just opened for the packet at hand. `None` if there is none but one that is
/// over, which that CPU is about to remove.
#[inline(always)]
pub(super) fn opened(key: &FlowKey) -> Option<&'static FlowValue> {
    peek(key).filter(|known| !is_over(key, known))
}

/// Enters the reverse direction of a new flow.
#[inline(always)]
pub(super) fn enter_reverse(key: &FlowKey, value: &FlowValue) -> Result<Entered, Refused> {
    match FLOWS.insert(key, value, NO_EXIST) {
        Ok(()) => Ok(Entered::New),
        Err(EEXIST) => replace(key, value),
        Err(_) => Err(Refused::Full),
    }
}

/// Takes the place of an entry that leads to the same, or has been over for a while: packets of the
/// old flow that are still on their way must not reach the new one's client.
#[inline(always)]
fn replace(key: &FlowKey, value: &FlowValue) -> Result<Entered, Refused> {
    const WHILE_NS: u64 = 10_000_000_000;
    let is_free = match peek(key) {
        Some(known) => {
            // Another CPU may have entered it after this run took the time.
            let is_quiet = value.last_seen_ns.saturating_sub(known.last_seen_ns) > WHILE_NS;
            known.tuple == value.tuple || is_quiet && is_over(key, known)
        }
        None => true,
    };
    if !is_free {
        return Err(Refused::Taken);
    }
    renew(key, value)?;
    Ok(Entered::Replaced)
}

/// Removes a flow, by the key of its replies and their entry, for another one that needs its port: some time
/// ago both sides ended the connection, or it was not opened any further, or a UDP flow was no more than a
/// question and maybe its answer. Returns whether the key is free.
#[inline(always)]
pub(super) fn free_port(key: &FlowKey, reply: &FlowValue, now_ns: u64) -> bool {
    /// After both have sent a FIN, nothing follows but what is sent again.
    const ENDED_NS: u64 = 1_000_000_000;
    /// Datagrams of a program that goes on follow each other sooner. When one was seen last is known to a
    /// second.
    const ANSWERED_NS: u64 = 2_000_000_000;
    /// For as long a client waits for an answer (resolv.conf(5)). A SYN that is sent again opens its flow anew.
    const UNANSWERED_NS: u64 = 5_000_000_000;
    // Before the rest: the memory may be another entry's by then.
    let (last_seen_ns, client) = (reply.last_seen_ns, reply.tuple);
    let is_others = FlowFlags::FROM_CLIENT.union(FlowFlags::OWN);
    if reply.flags.intersection(is_others) != FlowFlags::NONE {
        return false;
    }
    let is_udp = matches!(key.proto, Proto::UDP);
    let ends = FlowFlags::FIN.union(FlowFlags::RST);
    let forward_key = &reply.other(key.proto);
    let forward = peek(forward_key).filter(|forward| forward.other(key.proto) == *key);
    let (from_client, client_seen_ns) = match forward {
        Some(forward) => (forward.flags, forward.last_seen_ns),
        None => (FlowFlags::FIN, 0),
    };
    let (goes_on, wait) = if is_udp {
        let wait = if reply.flags.contains(FlowFlags::SEEN) {
            ANSWERED_NS
        } else {
            UNANSWERED_NS
        };
        let either = reply.flags.union(from_client);
        (either.contains(FlowFlags::STREAM), wait)
    } else if !from_client.contains(FlowFlags::SEEN) {
        // Its client never got, or never took, the backend's SYN.
        (false, UNANSWERED_NS)
    } else {
        let is_ended = reply.flags.contains(FlowFlags::RST)
            || reply.flags.contains(FlowFlags::FIN)
                && from_client.intersection(ends) != FlowFlags::NONE;
        (!is_ended, ENDED_NS)
    };
    let seen = if client_seen_ns > last_seen_ns {
        client_seen_ns
    } else {
        last_seen_ns
    };
    if goes_on || now_ns.saturating_sub(seen) <= wait {
        return false;
    }
    // Of two CPUs that find it over one removes it, and looks again: the other one may have given the port to
    // its flow meanwhile.
    if REOPENED.insert(key, 0, NO_EXIST).is_err() {
        return false;
    }
    let is_same =
        peek(key).is_some_and(|known| known.last_seen_ns == last_seen_ns && known.tuple == client);
    if is_same {
        // One that was opened again since has another reply.
        if forward.is_some() {
            let _gone = FLOWS.remove(forward_key);
        }
        let _gone = FLOWS.remove(key);
    }
    let _removed = REOPENED.remove(key);
    is_same
}

/// Enters the client's direction of a new flow, where there is none.
#[inline(always)]
pub(super) fn enter_forward(key: &FlowKey, value: &FlowValue) -> Result<(), Refused> {
    FLOWS
        .insert(key, value, NO_EXIST)
        .map_err(|errno| match errno {
            EEXIST => Refused::Opened,
            _ => Refused::Full,
        })
}

/// Writes an entry, in the place of one that is over or leads to the same.
#[inline(always)]
fn renew(key: &FlowKey, value: &FlowValue) -> Result<(), Refused> {
    FLOWS.insert(key, value, 0).map_err(|_errno| Refused::Full)
}

/// Removes the reverse direction that this run entered for a flow whose other direction it could not
/// enter. It stays if it is the flow's own: another CPU that opened the flow may have come to the same
/// backend and source.
#[inline(always)]
pub(super) fn take_back(key: &FlowKey, reverse_key: &FlowKey) {
    let is_used = peek(key).is_some_and(|opened| opened.other(key.proto) == *reverse_key);
    if !is_used {
        let _gone = FLOWS.remove(reverse_key);
    }
}

/// The entry of `FLOW_RING` at a position.
#[inline(always)]
fn ring_at(position: u64) -> Option<*mut FlowKey> {
    FLOW_RING.get_ptr_mut(position as u32 & FLOW_RING_MASK.load())
}

/// Copies a key word by word: as a whole it would be copied by a call of `memmove` (see
/// [`OverflowKey::reserved`](svclb_common::OverflowKey::reserved)).
///
/// # Safety
/// Both are map memory, valid for the run.
#[inline(always)]
unsafe fn copy_key(from: *const FlowKey, to: *mut FlowKey) {
    const WORDS: usize = size_of::<FlowKey>() / size_of::<u32>();
    for word in 0..WORDS {
        // SAFETY: within both keys, which are aligned as their words are.
        unsafe {
            let value = from.cast::<u32>().add(word).read_volatile();
            to.cast::<u32>().add(word).write_volatile(value);
        }
    }
}

/// Enters a flow into the ring, by the key of its client's direction: where [`make_room`] removed another
/// one for it, or at the cursor.
#[inline(always)]
pub(super) fn note_opened(key: &FlowKey, room: Option<u64>) {
    let Some(cursor) = FLOW_CURSOR.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: map memory, valid for the run. Two CPUs that read the same cursor share an entry, and
    // one of two flows is missing in the ring.
    let next = unsafe { cursor.read_volatile() };
    let position = room.unwrap_or(next);
    if let Some(entry) = ring_at(position) {
        // SAFETY: map memory, valid for the run. A reader on another CPU may find parts of two keys,
        // which is the key of no flow.
        unsafe { copy_key(key, entry) };
    }
    if position == next {
        // SAFETY: as for the cursor above.
        unsafe { cursor.write_volatile(next.wrapping_add(1)) };
    }
}

/// Makes room in a full map: looks at the next few flows of the ring, those opened longest ago, and
/// removes the first one that is over. Returns its position in the ring, for [`note_opened`].
///
/// `one` and `other` are room for two keys. The cursor stays at the entry of the removed flow, and passes
/// those that go on: so in a map that stays full no flow is lost from the ring.
#[inline(always)]
pub(super) fn make_room(now_ns: u64, one: &mut FlowKey, other: &mut FlowKey) -> Option<u64> {
    /// How many flows are looked at for each new one.
    const CANDIDATES: u32 = 8;
    let cursor = FLOW_CURSOR.get_ptr_mut(0)?;
    for _ in 0..CANDIDATES {
        // SAFETY: as in `note_opened`.
        let position = unsafe { cursor.read_volatile() };
        let entry = ring_at(position)?;
        // SAFETY: map memory, valid for the run; any bytes are a key.
        unsafe { copy_key(entry, one) };
        if is_removed(now_ns, one, other) {
            count(Counter::FlowsReplaced);
            return Some(position);
        }
        // SAFETY: as above.
        unsafe { cursor.write_volatile(position.wrapping_add(1)) };
    }
    None
}

/// Removes both directions of a flow if it has been over for as long as a full map remembers it.
#[inline(always)]
fn is_removed(now_ns: u64, key: &FlowKey, other_key: &mut FlowKey) -> bool {
    let Some(one) = peek(key) else {
        return false;
    };
    *other_key = one.other(key.proto);
    // A direction that was since given to another flow is not this one's.
    let other = peek(other_key).filter(|other| other.other(key.proto) == *key);
    let state = FlowState::of(key.proto, one.flags, other.map(|other| other.flags));
    let seen = match other {
        Some(other) if other.last_seen_ns > one.last_seen_ns => other.last_seen_ns,
        _ => one.last_seen_ns,
    };
    if now_ns.saturating_sub(seen) < flow_timeout_ns(state) {
        return false;
    }
    let has_other = other.is_some();
    let _gone = FLOWS.remove(key);
    // Another CPU may have opened the flow again, with the same other direction.
    if has_other && peek(key).is_none() {
        let _gone = FLOWS.remove(other_key);
    }
    true
}
