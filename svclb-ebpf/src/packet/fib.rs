//! The kernel's routing table: where a packet leaves that the kernel is not to route. That is one to
//! a backend on another node, or back from there to its client: its source is an address of this
//! node, and the kernel takes no such packet in from a device (`fib_validate_source`).

use aya_ebpf::helpers::generated::bpf_fib_lookup;
use svclb_common::Addr16;

use super::frame::{HookFrame, NextHop, link_words};

/// `struct bpf_fib_lookup` (include/uapi/linux/bpf.h): 64 bytes. Fields that are cleared together are
/// one number: many small ones would be cleared by a call of `memset` (see
/// [`OverflowKey::reserved`](svclb_common::OverflowKey::reserved)).
#[repr(C)]
struct FibParams {
    /// The family is the first byte. The others are zero: the protocol, the ports, and the length of
    /// the packet, which `forward` compares.
    family: u64,
    /// The interface index of the device that it came in by; afterwards, of the one that it leaves by.
    device: u32,
    flow: u32,
    src: [u32; 4],
    dst: [u32; 4],
    /// The VLAN, four bytes, and then the link addresses of source and destination.
    link: [u64; 2],
}

const _: () = assert!(size_of::<FibParams>() == 64);

/// What the routing table is asked, and where a packet is sent.
#[repr(C)]
pub(super) struct Route {
    params: FibParams,
    /// Where a redirected or rejected packet is sent.
    pub(super) next_hop: NextHop,
}

/// The next hop of a packet with these addresses; `None` if no route leads there.
#[inline(always)]
pub(super) fn next_hop<F: HookFrame>(
    frame: &F,
    route: &mut Route,
    is_v4: bool,
    src: Addr16,
    dst: Addr16,
) -> Option<NextHop> {
    let fib_params = &mut route.params;
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    /// `BPF_FIB_LKUP_RET_SUCCESS`.
    const SUCCESS: i64 = 0;
    /// `BPF_FIB_LKUP_RET_NO_NEIGH`.
    const NO_NEIGHBOUR: i64 = 7;
    /// `BPF_FIB_LKUP_RET_FRAG_NEEDED`: the frame is too long for the device. It may stand for
    /// several packets, so `forward` looks at the length of each.
    const TOO_LONG: i64 = 8;
    let words = |addr: Addr16| {
        if is_v4 {
            [addr.v4_word(), 0, 0, 0]
        } else {
            addr.words()
        }
    };
    let family = if is_v4 { AF_INET } else { AF_INET6 };
    fib_params.family = u64::from_ne_bytes([family, 0, 0, 0, 0, 0, 0, 0]);
    fib_params.device = frame.device();
    fib_params.flow = 0;
    fib_params.src = words(src);
    fib_params.dst = words(dst);
    // The half with the destination, which shows whether the helper wrote one.
    fib_params.link[1] = 0;
    // SAFETY: the structure is the helper's own, and of this size.
    let result = unsafe {
        bpf_fib_lookup(
            frame.ctx(),
            (&raw mut *fib_params).cast(),
            size_of::<FibParams>() as i32,
            0,
        ) as i64
    };
    let [_, _, _, _, g, h, i, j] = fib_params.link[0].to_ne_bytes();
    let [k, l, a, b, c, d, e, f] = fib_params.link[1].to_ne_bytes();
    let link = match result {
        // tc leaves resolution to `bpf_redirect_neigh`, so that the neighbour entry stays fresh. But
        // that helper leaves the old link header in the sum of the whole packet, and a datagram out
        // of a tunnel, whose sum the kernel made itself, is lost at a pod for that (seen on 5.10).
        // Before Linux 6.3 the address may be of a neighbour that was not resolved: zeroes.
        SUCCESS | TOO_LONG if [a, b, c, d, e, f] != [0; 6] && (F::IS_XDP || frame.has_sum()) => {
            Some(link_words([a, b, c, d, e, f, g, h, i, j, k, l]))
        }
        SUCCESS | TOO_LONG | NO_NEIGHBOUR => None,
        _ => return None,
    };
    Some(NextHop {
        device: fib_params.device,
        link,
        by_redirect: false,
    })
}
