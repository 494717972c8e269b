//! What this kernel offers: tried, never guessed from its version.

use crate::sys;

/// What the socket programs can use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// `bpf_set_retval` in a cgroup hook (Linux 5.18): a refused call returns ECONNREFUSED
    /// of itself. Without it a refused call is sent to a closed loopback port.
    pub set_retval: bool,
    /// `bpf_skc_to_mptcp_sock` (Linux 5.19, where MPTCP is built in): `getpeername` on an
    /// MPTCP socket shows the Service address.
    pub skc_to_mptcp_sock: bool,
    /// The cookie of the caller's network namespace (`SO_NETNS_COOKIE`, Linux 5.14), by which
    /// sockets of the node are distinguished from those of pods. Zero before: then the initial
    /// network namespace is taken for the node's.
    pub host_netns_cookie: u64,
}

/// Finds out by trying.
pub fn features() -> Features {
    Features {
        set_retval: sys::accepts(&SET_RETVAL, CONNECT4).is_ok(),
        skc_to_mptcp_sock: sys::accepts(&SKC_TO_MPTCP_SOCK, CONNECT4).is_ok(),
        host_netns_cookie: sys::netns_cookie().unwrap_or_default(),
    }
}

/// `BPF_CGROUP_INET4_CONNECT`.
const CONNECT4: u32 = 10;

/// `r1 = -111; call bpf_set_retval; r0 = 0; exit`
const SET_RETVAL: [u64; 4] = [
    instruction(0xb7, 1, -111),
    instruction(0x85, 0, 187),
    instruction(0xb7, 0, 0),
    instruction(0x95, 0, 0),
];

/// `r1 = ctx->sk; if r1 == 0 goto +1; call bpf_skc_to_mptcp_sock; r0 = 1; exit`
const SKC_TO_MPTCP_SOCK: [u64; 5] = [
    // The socket is at offset 64 of `struct bpf_sock_addr`.
    0x79 | 1 << 8 | 1 << 12 | 64 << 16,
    0x15 | 1 << 8 | 1 << 16,
    instruction(0x85, 0, 196),
    instruction(0xb7, 0, 1),
    instruction(0x95, 0, 0),
];

/// An eBPF instruction (RFC 9669 section 3) without source register and offset.
const fn instruction(opcode: u8, destination: u8, immediate: i32) -> u64 {
    opcode as u64 | (destination as u64) << 8 | (immediate.cast_unsigned() as u64) << 32
}
