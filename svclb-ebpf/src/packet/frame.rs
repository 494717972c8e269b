//! What differs between XDP and tc: how bytes are reached, and how a frame is sent on.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{
    bpf_csum_update, bpf_fib_lookup, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_redirect,
    bpf_redirect_neigh, bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release, bpf_skb_change_head,
    bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use aya_ebpf::programs::{TcContext, XdpContext};
use svclb_common::{Proto, Tuple, checksum};

use super::parse::Packet;
use super::route::Question;

/// The length of the link header of every device that we attach to.
pub(crate) const ETHERNET: u32 = 14;

/// Where a frame leaves: by which device, and to which neighbour if it is known.
#[derive(Clone, Copy)]
pub(crate) struct Way {
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
    fn glance<T: Copy>(&self, offset: u32) -> Option<T>;
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
    /// Sends the frame on its way.
    fn send(&self, way: &Way) -> i32;
    /// Cuts the frame to a length. tc alone.
    fn cut(&self, length: u32) -> Option<()>;
    /// Makes room at the front of the frame, so that everything stands that much further back;
    /// a link header has to be written anew. tc alone.
    fn grow(&self, more: u32) -> Option<()>;

    /// Asks the kernel's routing where an address is; the number that it answers is one of
    /// `BPF_FIB_LKUP_RET_…` (include/uapi/linux/bpf.h).
    #[inline(always)]
    fn ask(&self, question: &mut Question) -> i64 {
        // SAFETY: the structure is the helper's own, and of this size.
        unsafe {
            bpf_fib_lookup(
                self.ctx(),
                (&raw mut *question).cast(),
                size_of::<Question>() as i32,
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

impl Frame for XdpContext {
    const IS_XDP: bool = true;
    const PASS: i32 = xdp_action::XDP_PASS as i32;
    const DROP: i32 = xdp_action::XDP_DROP as i32;

    #[inline(always)]
    fn ctx(&self) -> *mut c_void {
        self.ctx.cast()
    }

    #[inline(always)]
    fn device(&self) -> u32 {
        // SAFETY: the context is valid for the run of the program.
        unsafe { (*self.ctx).ingress_ifindex }
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        (self.data_end() - self.data()) as u32
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn is_ours(&self) -> bool {
        true
    }

    #[inline(always)]
    fn glance<T: Copy>(&self, offset: u32) -> Option<T> {
        self.load(offset)
    }

    #[inline(always)]
    fn load<T: Copy>(&self, offset: u32) -> Option<T> {
        read(self.data() + bounded(offset), self.data_end())
    }

    #[inline(always)]
    fn store<T: Copy>(&self, offset: u32, value: T) -> Option<()> {
        let start = self.data() + bounded(offset);
        if start + size_of::<T>() > self.data_end() {
            return None;
        }
        // SAFETY: as above.
        unsafe { (start as *mut T).write_unaligned(value) };
        Some(())
    }

    #[inline(always)]
    fn correct_header(&self, offset: u32, change: u32) -> Option<()> {
        let field = self.load::<u16>(offset)?;
        self.store(offset, checksum::apply(field, change))
    }

    #[inline(always)]
    fn correct_transport(
        &self,
        packet: &Packet,
        offset: u32,
        addresses: u32,
        rest: u32,
    ) -> Option<()> {
        let is_udp = packet.is_udp();
        let field = self.load::<u16>(offset)?;
        if is_udp && field == 0 {
            return Some(());
        }
        let corrected = match checksum::apply(field, checksum::add(addresses, rest)) {
            0 if is_udp => 0xffff,
            field => field,
        };
        self.store(offset, corrected)
    }

    #[inline(always)]
    fn has_sum(&self) -> bool {
        false
    }

    #[inline(always)]
    fn correct_sum(&self, _change: u32) {}

    #[inline(always)]
    fn send(&self, way: &Way) -> i32 {
        let written = way.link.and_then(|link| self.store(0, link));
        if written.is_none() {
            return Self::DROP;
        }
        if way.device == self.device() && !way.by_redirect {
            return xdp_action::XDP_TX as i32;
        }
        // SAFETY: takes numbers.
        unsafe { bpf_redirect(way.device, 0) as i32 }
    }

    #[inline(always)]
    fn cut(&self, _length: u32) -> Option<()> {
        None
    }

    #[inline(always)]
    fn grow(&self, _more: u32) -> Option<()> {
        None
    }
}

/// `bpf_l4_csum_replace`: the change is of the pseudo header.
const PSEUDO_HEADER: u64 = 0x10;
/// `bpf_l4_csum_replace`: zero is no checksum, and none is zero.
const MANGLED_ZERO: u64 = 0x20;

impl Frame for TcContext {
    const IS_XDP: bool = false;
    // Not "ok", which would keep the packet from whoever comes after us.
    const PASS: i32 = TC_ACT_UNSPEC;
    const DROP: i32 = TC_ACT_SHOT;

    #[inline(always)]
    fn ctx(&self) -> *mut c_void {
        self.skb.skb.cast()
    }

    #[inline(always)]
    fn device(&self) -> u32 {
        // SAFETY: the context is valid for the run of the program.
        unsafe { (*self.skb.skb).ifindex }
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.skb.len()
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        // SAFETY: the context is valid for the run of the program.
        unsafe { (*self.skb.skb).gso_size }
    }

    #[inline(always)]
    fn is_ours(&self) -> bool {
        /// Seen by promiscuous mode: another machine's.
        const PACKET_OTHERHOST: u32 = 3;
        // SAFETY: the context is valid for the run of the program.
        let (kind, vlan) = unsafe {
            let skb = self.skb.skb;
            ((*skb).pkt_type, (*skb).vlan_present)
        };
        // A tagged one is the VLAN device's.
        kind != PACKET_OTHERHOST && vlan == 0
    }

    #[inline(always)]
    fn glance<T: Copy>(&self, offset: u32) -> Option<T> {
        read(self.data() + bounded(offset), self.data_end())
    }

    #[inline(always)]
    fn load<T: Copy>(&self, offset: u32) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes all bytes of `value`, or says that it did not; any bytes
        // are a `T` of ours.
        unsafe {
            let result = bpf_skb_load_bytes(
                self.skb.skb.cast(),
                offset,
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            );
            (result == 0).then(|| value.assume_init())
        }
    }

    #[inline(always)]
    fn store<T: Copy>(&self, offset: u32, value: T) -> Option<()> {
        // SAFETY: the helper reads `value`, and checks the offset.
        let result = unsafe {
            bpf_skb_store_bytes(
                self.skb.skb,
                offset,
                (&raw const value).cast(),
                size_of::<T>() as u32,
                0,
            )
        };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn correct_header(&self, offset: u32, change: u32) -> Option<()> {
        // SAFETY: takes numbers, and checks the offset.
        let result = unsafe { bpf_l3_csum_replace(self.skb.skb, offset, 0, u64::from(change), 0) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn correct_transport(
        &self,
        packet: &Packet,
        offset: u32,
        addresses: u32,
        rest: u32,
    ) -> Option<()> {
        let zero = if packet.is_udp() { MANGLED_ZERO } else { 0 };
        // Two calls: where the device is to fill the checksum in (CHECKSUM_PARTIAL), the
        // field holds the sum of the pseudo header alone.
        // SAFETY: takes numbers, and checks the offset.
        let result = unsafe {
            bpf_l4_csum_replace(
                self.skb.skb,
                offset,
                0,
                u64::from(addresses),
                PSEUDO_HEADER | zero,
            ) | bpf_l4_csum_replace(self.skb.skb, offset, 0, u64::from(rest), zero)
        };
        if !packet.is_v4 {
            // The first call took the addresses for covered by a header's own checksum, which
            // IPv6 has none of.
            self.correct_sum(addresses);
        }
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn has_sum(&self) -> bool {
        // SAFETY: takes numbers, and adds nothing; negative where there is no such sum.
        (unsafe { bpf_csum_update(self.skb.skb, 0) }) as i64 >= 0
    }

    #[inline(always)]
    fn correct_sum(&self, change: u32) {
        // SAFETY: takes numbers; refuses where there is no such sum.
        let _no_sum = unsafe { bpf_csum_update(self.skb.skb, change) };
    }

    #[inline(always)]
    fn send(&self, way: &Way) -> i32 {
        match way.link {
            Some(link) => {
                if Frame::store(self, 0, link).is_none() {
                    return Self::DROP;
                }
                // SAFETY: takes numbers.
                unsafe { bpf_redirect(way.device, 0) as i32 }
            }
            // The kernel looks the neighbour up, and waits for it.
            // SAFETY: without parameters it looks the way up itself.
            None => unsafe { bpf_redirect_neigh(way.device, core::ptr::null_mut(), 0, 0) as i32 },
        }
    }

    #[inline(always)]
    fn cut(&self, length: u32) -> Option<()> {
        // SAFETY: takes numbers.
        let result = unsafe { bpf_skb_change_tail(self.skb.skb, length, 0) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn grow(&self, more: u32) -> Option<()> {
        // SAFETY: takes numbers.
        let result = unsafe { bpf_skb_change_head(self.skb.skb, more, 0) };
        (result == 0).then_some(())
    }
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
    let (mut question, length) = if is_v4 {
        ([d, h, ports, 0, 0, 0, 0, 0, 0], 12)
    } else {
        ([a, b, c, d, e, f, g, h, ports], 36)
    };
    let question = question.as_mut_ptr();
    // SAFETY: the array holds one of the two forms of the structure, told apart by their length;
    // a socket that is found is given back.
    unsafe {
        let socket = if matches!(proto, Proto::TCP) {
            bpf_sk_lookup_tcp(ctx, question.cast(), length, HERE, 0)
        } else {
            bpf_sk_lookup_udp(ctx, question.cast(), length, HERE, 0)
        };
        if socket.is_null() {
            return false;
        }
        bpf_sk_release(socket.cast());
    }
    true
}
