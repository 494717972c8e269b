//! What differs between IPv4 and IPv6: where the address stands in `struct bpf_sock_addr`.

use aya_ebpf::programs::SockAddrContext;
use svclb_common::{Addr16, PortBe};

use crate::kernel::socket;

/// An address and a port as the kernel knows them.
#[derive(Clone, Copy)]
pub(crate) struct Endpoint {
    pub(crate) addr: Addr16,
    pub(crate) port: PortBe,
}

/// An address family of the hooks (not of the address: an IPv6 socket that talks to an
/// IPv4-mapped address runs the IPv6 hooks at connect, and the IPv4 ones at sendmsg).
pub(crate) trait Family {
    /// Whether a socket of the family that is connected to an IPv4-mapped address sends as
    /// an IPv4 socket with the address in each call.
    const SENDS_MAPPED_AS_V4: bool;
    /// The address in the call.
    fn addr(ctx: &SockAddrContext) -> Addr16;
    /// Replaces the address in the call.
    fn set_addr(ctx: &SockAddrContext, addr: Addr16);
    /// The address that the socket has itself; zero if the kernel is still to choose one.
    fn source(ctx: &SockAddrContext) -> Addr16;
}

pub(crate) struct V4;
pub(crate) struct V6;

// Volatile, because the verifier allows only whole words at constant offsets of the
// context, and the compiler would join or split plain accesses.
impl Family for V4 {
    const SENDS_MAPPED_AS_V4: bool = false;

    #[inline(always)]
    fn addr(ctx: &SockAddrContext) -> Addr16 {
        // SAFETY: the context is valid for the run of the program.
        Addr16::from_v4_word(unsafe { (&raw const (*ctx.sock_addr).user_ip4).read_volatile() })
    }

    #[inline(always)]
    fn set_addr(ctx: &SockAddrContext, addr: Addr16) {
        // SAFETY: as above; the hooks may write this field.
        unsafe { (&raw mut (*ctx.sock_addr).user_ip4).write_volatile(addr.v4_word()) }
    }

    #[inline(always)]
    fn source(ctx: &SockAddrContext) -> Addr16 {
        // SAFETY: the call's socket lives as long as the call.
        Addr16::from_v4_word(unsafe { (&raw const (*socket(ctx)).src_ip4).read_volatile() })
    }
}

impl Family for V6 {
    const SENDS_MAPPED_AS_V4: bool = true;

    #[inline(always)]
    fn addr(ctx: &SockAddrContext) -> Addr16 {
        // SAFETY: the context is valid for the run of the program.
        unsafe {
            Addr16::from_words([
                (&raw const (*ctx.sock_addr).user_ip6[0]).read_volatile(),
                (&raw const (*ctx.sock_addr).user_ip6[1]).read_volatile(),
                (&raw const (*ctx.sock_addr).user_ip6[2]).read_volatile(),
                (&raw const (*ctx.sock_addr).user_ip6[3]).read_volatile(),
            ])
        }
    }

    #[inline(always)]
    fn set_addr(ctx: &SockAddrContext, addr: Addr16) {
        let [a, b, c, d] = addr.words();
        // SAFETY: as above; the hooks may write this field.
        unsafe {
            (&raw mut (*ctx.sock_addr).user_ip6[0]).write_volatile(a);
            (&raw mut (*ctx.sock_addr).user_ip6[1]).write_volatile(b);
            (&raw mut (*ctx.sock_addr).user_ip6[2]).write_volatile(c);
            (&raw mut (*ctx.sock_addr).user_ip6[3]).write_volatile(d);
        }
    }

    #[inline(always)]
    fn source(ctx: &SockAddrContext) -> Addr16 {
        let sk = socket(ctx);
        // SAFETY: as above.
        unsafe {
            Addr16::from_words([
                (&raw const (*sk).src_ip6[0]).read_volatile(),
                (&raw const (*sk).src_ip6[1]).read_volatile(),
                (&raw const (*sk).src_ip6[2]).read_volatile(),
                (&raw const (*sk).src_ip6[3]).read_volatile(),
            ])
        }
    }
}

/// The peer in the call.
#[inline(always)]
pub(crate) fn peer<F: Family>(ctx: &SockAddrContext) -> Endpoint {
    // SAFETY: the context is valid for the run of the program. The port's sixteen bits
    // stand in the low half of the word.
    let port = unsafe { (&raw const (*ctx.sock_addr).user_port).read_volatile() };
    Endpoint {
        addr: F::addr(ctx),
        port: PortBe::from_bits(port as u16),
    }
}

/// Replaces the peer in the call.
#[inline(always)]
pub(crate) fn set_peer<F: Family>(ctx: &SockAddrContext, peer: Endpoint) {
    F::set_addr(ctx, peer.addr);
    // SAFETY: as above; the hooks may write this field.
    unsafe { (&raw mut (*ctx.sock_addr).user_port).write_volatile(u32::from(peer.port.bits())) }
}

/// `sk_protocol` of the socket.
#[inline(always)]
pub(crate) fn protocol(ctx: &SockAddrContext) -> u32 {
    // SAFETY: the context is valid for the run of the program.
    unsafe { (&raw const (*ctx.sock_addr).protocol).read_volatile() }
}
