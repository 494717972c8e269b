//! What differs between XDP and tc: how bytes are reached, and how a frame is sent on.

mod tc;
mod xdp;

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{
    bpf_fib_lookup, bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release,
};
use svclb_common::{Proto, Tuple};

use super::fib::FibParams;
use super::parse::Packet;

/// The length of the link header of every device that we attach to.
pub(crate) const ETHERNET: u32 = 14;

/// Where a frame leaves: by which device, and to which neighbour if it is known.
#[derive(Clone, Copy)]
pub(crate) struct NextHop {
    pub(crate) device: u32,
    /// Destination and source of the link header, where the kernel knew them.
    pub(crate) link: Option<[u8; 12]>,
    /// Whether XDP redirects to the device where it could just send back by it: a veth leaves
    /// what XDP_TX sends lying until something else comes along (seen on 6.18).
    pub(crate) by_redirect: bool,
}

/// A frame at a hook. Offsets are from the link header on; what is written is in the bytes'
/// own order.
pub(crate) trait Frame {
    /// XDP leaves to tc what is rare.
    const IS_XDP: bool;
    /// The frame goes on to whoever comes next.
    const PASS: i32;
    /// The frame goes nowhere.
    const DROP: i32;

    /// The program's context.
    fn ctx(&self) -> *mut c_void;
    /// The device that it came in, or goes out, by.
    fn device(&self) -> u32;
    /// Its length.
    fn len(&self) -> u32;
    /// How much of it each packet carries, if it stands for several; zero otherwise.
    fn segment(&self) -> u32;
    /// Whether it is for this node, and of the device's own network.
    fn is_ours(&self) -> bool;
    /// Reads a `T` if that is cheap: `None` also where the bytes are not at hand.
    fn load_linear<T: Copy>(&self, offset: u32) -> Option<T>;
    /// Reads a `T`; `None` beyond the end.
    fn load<T: Copy>(&self, offset: u32) -> Option<T>;
    /// Writes a `T`; `None` beyond the end.
    fn store<T: Copy>(&self, offset: u32, value: T) -> Option<()>;
    /// Corrects the checksum of an IPv4 header.
    fn correct_header(&self, offset: u32, change: u32) -> Option<()>;
    /// Corrects the checksum of a packet's TCP or UDP header for changed addresses, which it
    /// covers by its pseudo header, and for what else changed. In UDP, zero means "none" (RFC 768).
    fn correct_transport(
        &self,
        packet: &Packet,
        offset: u32,
        addresses: u32,
        rest: u32,
    ) -> Option<()>;
    /// Whether the kernel holds a sum of the whole packet (`CHECKSUM_COMPLETE`) that has to stay
    /// right. tc alone: XDP comes before it is taken over.
    fn has_sum(&self) -> bool;
    /// Corrects that sum, if there is one, for a change that no checksum makes up for.
    fn correct_sum(&self, change: u32);
    /// Sends the frame to its next hop.
    fn send(&self, next_hop: &NextHop) -> i32;
    /// Cuts the frame to a length. tc alone.
    fn cut(&self, length: u32) -> Option<()>;
    /// Makes room at the front of the frame, so that everything stands that much further back;
    /// a link header has to be written anew. tc alone.
    fn grow(&self, more: u32) -> Option<()>;

    /// Asks the kernel's routing where an address is; the number that it answers is one of
    /// `BPF_FIB_LKUP_RET_…` (include/uapi/linux/bpf.h).
    #[inline(always)]
    fn fib_lookup(&self, fib_params: &mut FibParams) -> i64 {
        // SAFETY: the structure is the helper's own, and of this size.
        unsafe {
            bpf_fib_lookup(
                self.ctx(),
                (&raw mut *fib_params).cast(),
                size_of::<FibParams>() as i32,
                0,
            ) as i64
        }
    }
}

/// The verifier has to see that an offset is small. Every one that XDP uses is: it passes up
/// headers of variable length.
#[inline(always)]
const fn bounded(offset: u32) -> usize {
    (offset & 0xff) as usize
}

/// Reads a `T` at an address within a frame that ends at `end`.
#[inline(always)]
fn read<T: Copy>(start: usize, end: usize) -> Option<T> {
    // The check has to be on the moved pointer: the verifier forgets any other.
    if start + size_of::<T>() > end {
        return None;
    }
    // SAFETY: within the frame, by the line above; any bytes are a `T` of ours.
    Some(unsafe { (start as *const T).read_unaligned() })
}

/// Whether a socket of this node would be given a packet of these addresses.
#[inline(always)]
pub(crate) fn has_socket(ctx: *mut c_void, proto: Proto, tuple: &Tuple, is_v4: bool) -> bool {
    /// `BPF_F_CURRENT_NETNS`.
    const HERE: u64 = u64::MAX;
    // `struct bpf_sock_tuple`: addresses, then ports, of one family or the other.
    let ports = super::rewrite::ports(tuple.src_port, tuple.dst_port);
    let [a, b, c, d] = tuple.src.words();
    let [e, f, g, h] = tuple.dst.words();
    // One array for both, so that the verifier finds either length in it.
    let (mut fib_params, length) = if is_v4 {
        ([d, h, ports, 0, 0, 0, 0, 0, 0], 12)
    } else {
        ([a, b, c, d, e, f, g, h, ports], 36)
    };
    let fib_params = fib_params.as_mut_ptr();
    // SAFETY: the array holds one of the two forms of the structure, told apart by their length;
    // a socket that is found is given back.
    unsafe {
        let socket = if matches!(proto, Proto::TCP) {
            bpf_sk_lookup_tcp(ctx, fib_params.cast(), length, HERE, 0)
        } else {
            bpf_sk_lookup_udp(ctx, fib_params.cast(), length, HERE, 0)
        };
        if socket.is_null() {
            return false;
        }
        bpf_sk_release(socket.cast());
    }
    true
}
