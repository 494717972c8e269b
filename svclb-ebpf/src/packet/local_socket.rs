//! Whether a socket of this node has an address and port.

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release};
use svclb_common::{Proto, Tuple};
use svclb_packet::rewrite::ports_word;

/// Whether the kernel would give a packet of these addresses to a socket of this node. `ctx` is the
/// context of an XDP or tc program.
#[inline(always)]
pub(super) fn exists(ctx: *mut c_void, proto: Proto, tuple: &Tuple, is_v4: bool) -> bool {
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
            return false;
        }
        bpf_sk_release(socket.cast());
    }
    true
}
