//! From a Service address to a backend.

use aya_ebpf::programs::SockAddrContext;
use svclb_common::{
    AffinityKey, Counter, FrontendFlags, FrontendKey, FrontendValue, Proto, Reading, Scope,
    SlotIndex, SlotValue, Translation, pick, spread,
};

use super::call::Call;
use super::family::{Endpoint, Family, peer, protocol, set_peer};
use super::{log, peers, refuse, reverse, source_ranges, udp_translations};
use crate::counters::count;
use crate::kernel::{ALLOW, is_of_the_host, netns_cookie, socket_cookie};
use crate::slots::{random_slot, slot_at};
use crate::{affinity, maps};

/// Rewrites the peer of a call if it is a Service address.
#[inline(always)]
pub(crate) fn connect<F: Family, C: Call>(ctx: &SockAddrContext) -> i32 {
    let Some(proto) = Proto::of_socket(protocol(ctx)) else {
        return ALLOW;
    };
    let wanted = peer::<F>(ctx);
    let key = FrontendKey::of_socket(wanted.addr, wanted.port, proto);
    let is_elsewhere = key.scope == Scope::HOST && !is_of_the_host(ctx);
    let served = if is_elsewhere { None } else { served(&key) };
    let Some(frontend) = served.filter(|served| source_ranges::allow::<F>(ctx, served, wanted))
    else {
        // Not for sends: an IPv6 socket that is connected to an IPv4-mapped address comes
        // here with its backend at every send.
        if C::CONNECTS {
            reverse::direct(ctx, wanted);
        }
        return ALLOW;
    };
    if frontend.internal.count == 0 || refuse::holds::<F, C>(ctx, proto, wanted) {
        return refuse::refuse::<F, C>(ctx, proto, wanted);
    }
    let chosen = if C::CONNECTS {
        connect_slot(ctx, &frontend)
    } else {
        send_slot(ctx, &frontend, wanted)
    };
    let Some(slot) = chosen else {
        count(Counter::SlotMissing);
        return refuse::refuse::<F, C>(ctx, proto, wanted);
    };
    let translation = Translation {
        frontend_addr: wanted.addr,
        backend_addr: slot.addr,
        frontend_port: wanted.port,
        backend_port: slot.port,
        backend: slot.backend,
    };
    // A TCP socket has one peer for its life, and there are many of them: the array is cheaper.
    let remembered = C::CONNECTS
        && matches!(proto, Proto::TCP)
        && (udp_translations::remember_mptcp(ctx, &translation)
            || peers::acquire(ctx, &translation));
    if !remembered {
        udp_translations::remember(ctx, &translation);
    }
    set_peer::<F>(
        ctx,
        Endpoint {
            addr: slot.addr,
            port: slot.port,
        },
    );
    count(C::COUNTER);
    log::forwarded(ctx, &translation);
    ALLOW
}

/// The frontend of an address: its own, or the one that refuses the ports that a Service does not have.
#[inline(always)]
fn served(key: &FrontendKey) -> Option<FrontendValue> {
    let reading = match maps::frontend(key) {
        Reading::Absent => maps::frontend(&FrontendKey::other_ports(key.addr, key.scope)),
        reading => reading,
    };
    match reading {
        Reading::Confirmed(frontend) => Some(frontend),
        Reading::Absent => None,
        // Refused, as one without endpoints is: a program tries again after a refusal, and a connect
        // to the Service address itself would wait for nothing.
        Reading::Unsettled => {
            count(Counter::FrontendUnsettled);
            Some(FrontendValue::default())
        }
    }
}

/// A new connection: where session affinity sends it, or anywhere.
#[inline(always)]
fn connect_slot(ctx: &SockAddrContext, frontend: &FrontendValue) -> Option<SlotValue> {
    if frontend.affinity_seconds > 0 {
        return affinity::slot(&client(ctx, frontend), frontend, frontend.internal);
    }
    random_slot(frontend, frontend.internal)
}

/// The client that session affinity sees in a socket: its network namespace.
#[inline(always)]
fn client(ctx: &SockAddrContext, frontend: &FrontendValue) -> AffinityKey {
    AffinityKey::netns(frontend.service, netns_cookie(ctx))
}

/// A datagram with an address: the backend that this socket used for the Service before,
/// while it belongs to it; a new socket is given one by its cookie.
#[inline(always)]
fn send_slot(
    ctx: &SockAddrContext,
    frontend: &FrontendValue,
    wanted: Endpoint,
) -> Option<SlotValue> {
    if frontend.flags.contains(FrontendFlags::MEMBERS)
        && let Some(backend) = udp_translations::backend_of(ctx, wanted)
        && let Some(slot) = slot_at(frontend, SlotIndex::member(backend))
        && frontend.internal.contains(slot.position)
    {
        return Some(slot);
    }
    if frontend.affinity_seconds > 0 {
        return affinity::slot(&client(ctx, frontend), frontend, frontend.internal);
    }
    let position = pick(frontend.internal, spread(socket_cookie(ctx)))?;
    slot_at(frontend, SlotIndex::position(position))
}
