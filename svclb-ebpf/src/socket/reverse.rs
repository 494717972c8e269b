//! From a backend back to the Service address that the program used.

use aya_ebpf::programs::{SockAddrContext, SockContext};

use super::family::{Endpoint, Family, peer, set_peer};
use super::{peers, udp_translations};
use crate::kernel::{ALLOW, socket_cookie};

/// Shows the Service address in a call that reports a peer or a source.
///
/// Only if the address in the call is the backend that the translation leads to: a socket
/// may since have connected to, or received from, another peer.
#[inline(always)]
pub(crate) fn reverse<F: Family>(ctx: &SockAddrContext) -> i32 {
    let actual = peer::<F>(ctx);
    if let Some(known) = peers::find(ctx)
        && known.leads_to(actual.addr, actual.port)
    {
        set_peer::<F>(
            ctx,
            Endpoint {
                addr: known.frontend_addr,
                port: known.frontend_port,
            },
        );
        return ALLOW;
    }
    if let Some(shown) = udp_translations::frontend_of(ctx, actual) {
        set_peer::<F>(ctx, shown);
    }
    ALLOW
}

/// A socket connects to an address that is no Service's. If it used that very backend
/// behind a Service before, it means the backend itself from now on.
#[inline(always)]
pub(crate) fn direct(ctx: &SockAddrContext, peer: Endpoint) {
    if let Some(known) = peers::find(ctx)
        && known.leads_to(peer.addr, peer.port)
    {
        peers::acquire(ctx, &known.itself());
    }
    udp_translations::direct(ctx, peer);
}

/// Forgets a socket that is released. Its ring goes with it.
#[inline(always)]
pub(crate) fn forget(ctx: &SockContext) -> i32 {
    let cookie = socket_cookie(ctx);
    peers::release(cookie);
    udp_translations::release(ctx, cookie);
    ALLOW
}
