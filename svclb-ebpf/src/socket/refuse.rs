//! A Service without usable endpoints: ECONNREFUSED, at once.

use aya_ebpf::programs::SockAddrContext;
use svclb_common::{Addr16, BackendId, Counter, PortBe, Proto, Translation};

use super::call::Call;
use super::family::{Endpoint, Family, set_peer};
use super::{log, udp_translations};
use crate::counters::count;
use crate::kernel::{ALLOW, DENY, set_retval};
use crate::maps::HAS_SET_RETVAL;

const ECONNREFUSED: i32 = 111;

const LOOPBACK_V4: Addr16 = v4([127, 0, 0, 1]);
const FAR_LOOPBACK_V4: Addr16 = v4([127, 255, 255, 254]);
const LOOPBACK_V6: Addr16 = Addr16::from_words([0, 0, 0, u32::from_ne_bytes([0, 0, 0, 1])]);

const fn v4(octets: [u8; 4]) -> Addr16 {
    Addr16::from_v4_word(u32::from_ne_bytes(octets))
}

/// Makes the call fail with ECONNREFUSED.
///
/// From Linux 5.18 the hook says so itself. Before, a hook that denies means EPERM, so the
/// call is sent where it is refused: to a loopback port of the client's own namespace.
/// No socket can listen on port 0; TCP is refused within the call, a connected UDP socket
/// learns it at its second send. A datagram with an address may not go to port 0
/// (EINVAL), so it goes to port 1 of an address that no socket uses, and its sender learns
/// nothing unless it set IP_RECVERR: the same as with an ICMP reject. So do the datagrams
/// of an IPv6 socket that is connected to an IPv4-mapped address: the kernel sends them
/// as if each had an address (`udpv6_sendmsg`).
///
/// A UDP socket that is connected there stays there: it is remembered, so that the agent
/// finds it when the Service gets an endpoint.
#[inline(always)]
pub(crate) fn refuse<F: Family, C: Call>(
    ctx: &SockAddrContext,
    proto: Proto,
    wanted: Endpoint,
) -> i32 {
    count(Counter::Refused);
    log::refused(ctx, wanted);
    if HAS_SET_RETVAL.load() != 0 {
        set_retval(-ECONNREFUSED);
        return DENY;
    }
    let refuser = refuser::<F, C>(proto, wanted);
    if C::CONNECTS && matches!(proto, Proto::UDP) {
        udp_translations::remember(
            ctx,
            &Translation {
                frontend_addr: wanted.addr,
                backend_addr: refuser.addr,
                frontend_port: wanted.port,
                backend_port: refuser.port,
                backend: BackendId::new(0),
            },
        );
    }
    set_peer::<F>(ctx, refuser);
    ALLOW
}

/// Whether a UDP socket that connects again still has the source address of its refusal:
/// the kernel chose a loopback address and keeps it until the socket is disconnected
/// (`ip4_datagram_connect`), so nothing outside its namespace can be reached from it. It is
/// refused until the agent has destroyed it, which takes the address away.
#[inline(always)]
pub(crate) fn holds<F: Family, C: Call>(
    ctx: &SockAddrContext,
    proto: Proto,
    wanted: Endpoint,
) -> bool {
    if HAS_SET_RETVAL.load() != 0 || !C::CONNECTS || !matches!(proto, Proto::UDP) {
        return false;
    }
    F::source(ctx).is_loopback() && udp_translations::leads_to(ctx, refuser::<F, C>(proto, wanted))
}

/// Where a call is refused that may not fail in the hook.
#[inline(always)]
fn refuser<F: Family, C: Call>(proto: Proto, wanted: Endpoint) -> Endpoint {
    let mapped_udp = F::SENDS_MAPPED_AS_V4 && wanted.addr.is_v4() && matches!(proto, Proto::UDP);
    let to_zero = C::CONNECTS && !mapped_udp;
    let addr = match (wanted.addr.is_v4(), to_zero) {
        (true, true) => LOOPBACK_V4,
        (true, false) => FAR_LOOPBACK_V4,
        (false, _) => LOOPBACK_V6,
    };
    let port = if to_zero { 0 } else { 1 };
    Endpoint {
        addr,
        port: PortBe::new(port),
    }
}
