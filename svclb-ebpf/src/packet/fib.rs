//! Where a packet leaves that the kernel is not to route: one to a backend elsewhere, or back
//! from there to its client. Its source is an address of this node, and the kernel takes no
//! such packet in from a device (`fib_validate_source`).

use svclb_common::Addr16;

use super::frame::{Frame, NextHop};

/// `struct bpf_fib_lookup` (include/uapi/linux/bpf.h): 64 bytes. What is cleared together is one
/// number, for many small ones would be cleared by a call of `memset` (see
/// [`OverflowKey::reserved`](svclb_common::OverflowKey::reserved)).
#[repr(C)]
pub(crate) struct FibParams {
    /// The family is the first byte. Zero are the protocol, the ports, and the length of the packet:
    /// at that we look ourselves.
    family: u64,
    /// Where it came in; the answer is where it goes out.
    device: u32,
    flow: u32,
    src: [u32; 4],
    dst: [u32; 4],
    /// The VLAN, four bytes, and then the link addresses of source and destination.
    link: [u64; 2],
}

const _: () = assert!(size_of::<FibParams>() == 64);

/// The kernel's answer to where an address is.
#[inline(always)]
pub(super) fn next_hop<F: Frame>(
    frame: &F,
    fib_params: &mut FibParams,
    is_v4: bool,
    src: Addr16,
    dst: Addr16,
) -> Option<NextHop> {
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    const SUCCESS: i64 = 0;
    const NO_NEIGHBOUR: i64 = 7;
    /// The frame is too long for the device; what its packets are, we look at ourselves.
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
    // The half with the destination, which shows whether there was an answer.
    fib_params.link[1] = 0;
    let answer = frame.fib_lookup(fib_params);
    let [_, _, _, _, g, h, i, j] = fib_params.link[0].to_ne_bytes();
    let [k, l, a, b, c, d, e, f] = fib_params.link[1].to_ne_bytes();
    let link = match answer {
        // tc lets the kernel look at the neighbour, who keeps him fresh; but `bpf_redirect_neigh`
        // leaves the old link header in the sum of the whole packet, and a datagram out of a
        // tunnel, whose sum the kernel made itself, is lost at a pod for that (seen on 5.10).
        // Before Linux 6.3 the answer may be one who was never heard of.
        SUCCESS | TOO_LONG if [a, b, c, d, e, f] != [0; 6] && (F::IS_XDP || frame.has_sum()) => {
            Some([a, b, c, d, e, f, g, h, i, j, k, l])
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
