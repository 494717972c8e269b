//! The kernel's helpers, made safe to call.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::bpf_skc_to_mptcp_sock;
use aya_ebpf::helpers::{
    bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_get_socket_cookie, bpf_ktime_get_ns,
    bpf_set_retval,
};
use aya_ebpf::programs::SockAddrContext;

use crate::maps::{HAS_SKC_TO_MPTCP_SOCK, HOST_NETNS_COOKIE};

/// Allow the call to go on, with the address as it now is.
pub(crate) const ALLOW: i32 = 1;
/// Refuse the call: EPERM, or what [`set_retval`] said.
pub(crate) const DENY: i32 = 0;

/// The socket's cookie: unique on this machine since it started (Linux 5.4), never zero.
#[inline(always)]
pub(crate) fn socket_cookie(ctx: &impl EbpfContext) -> u64 {
    // SAFETY: the context is the one that this program was given.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// The socket of a call.
#[inline(always)]
pub(crate) fn socket(ctx: &SockAddrContext) -> *mut bpf_sock {
    // SAFETY: the context is valid for the run of the program.
    unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk }
}

/// The MPTCP socket that the socket of a call is a subflow of (Linux 5.19).
#[inline(always)]
pub(crate) fn mptcp_socket(ctx: &SockAddrContext) -> Option<*mut c_void> {
    if HAS_SKC_TO_MPTCP_SOCK.load() == 0 {
        return None;
    }
    // SAFETY: the socket lives as long as the call.
    let mptcp = unsafe { bpf_skc_to_mptcp_sock(socket(ctx).cast()) };
    (!mptcp.is_null()).then_some(mptcp.cast())
}

/// The cookie of the socket's network namespace (Linux 5.7).
#[inline(always)]
pub(crate) fn netns_cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is the one that this program was given.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// Whether the socket is in the network namespace of the node itself.
#[inline(always)]
pub(crate) fn is_of_the_host(ctx: &SockAddrContext) -> bool {
    let host = match HOST_NETNS_COOKIE.load() {
        // SAFETY: null stands for the initial namespace.
        0 => unsafe { bpf_get_netns_cookie(core::ptr::null_mut()) },
        cookie => cookie,
    };
    netns_cookie(ctx) == host
}

/// Nanoseconds of CLOCK_MONOTONIC.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: takes nothing.
    unsafe { bpf_ktime_get_ns() }
}

/// A random word, good enough for choosing and no secret.
#[inline(always)]
pub(crate) fn random() -> u32 {
    // SAFETY: takes nothing.
    unsafe { bpf_get_prandom_u32() }
}

/// The error that the system call returns (Linux 5.18), as a negative errno.
#[inline(always)]
pub(crate) fn set_retval(errno: i32) {
    // SAFETY: takes a number.
    let _unchanged = unsafe { bpf_set_retval(errno) };
}
