//! The sockets of this node.

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release};
use svclb_common::{Proto, Tuple};
use svclb_packet::rewrite::ports_word;

/// Whether the kernel would give a packet of these addresses to a socket of this node. `ctx` is the
/// context of an XDP or tc program.
#[inline(always)]
pub(super) fn exists(ctx: *mut c_void, proto: Proto, tuple: &Tuple, is_v4: bool) -> bool {
    state(ctx, proto, tuple, is_v4).is_some()
}

/// Whether a UDP socket of this node is connected to the sender of a datagram of these addresses.
#[inline(always)]
pub(super) fn is_connected(ctx: *mut c_void, tuple: &Tuple, is_v4: bool) -> bool {
    /// `TCP_ESTABLISHED`, which is the state of a connected UDP socket too.
    const CONNECTED: u32 = 1;
    state(ctx, Proto::UDP, tuple, is_v4) == Some(CONNECTED)
}

/// The state of the socket that the kernel would give a packet of these addresses to.
#[inline(always)]
fn state(ctx: *mut c_void, proto: Proto, tuple: &Tuple, is_v4: bool) -> Option<u32> {
    /// `BPF_F_CURRENT_NETNS`.
    const CURRENT_NETNS: u64 = u64::MAX;
    // `struct bpf_sock_tuple`: addresses, then ports, of one family or the other.
    let ports = ports_word(tuple.src_port, tuple.dst_port);
    let [a, b, c, d] = tuple.src.words();
    let [e, f, g, h] = tuple.dst.words();
    // One array for both, so that the verifier finds either length in it.
    let (mut wanted, length) = if is_v4 {
        ([d, h, ports, 0, 0, 0, 0, 0, 0], 12)
    } else {
        ([a, b, c, d, e, f, g, h, ports], 36)
    };
    let wanted = wanted.as_mut_ptr();
    // SAFETY: the array holds one of the two forms of the structure, told apart by their length;
    // a socket that is found is given back.
    unsafe {
        let socket = if matches!(proto, Proto::TCP) {
            bpf_sk_lookup_tcp(ctx, wanted.cast(), length, CURRENT_NETNS, 0)
        } else {
            bpf_sk_lookup_udp(ctx, wanted.cast(), length, CURRENT_NETNS, 0)
        };
        if socket.is_null() {
            return None;
        }
        let state = (&raw const (*socket).state).read_volatile();
        bpf_sk_release(socket.cast());
        Some(state)
    }
}
