//! A frame in tc: helpers read and write it.

use core::arch::asm;
use core::mem::{MaybeUninit, offset_of};

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{
    bpf_csum_update, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh,
    bpf_skb_adjust_room, bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_load_bytes,
    bpf_skb_load_bytes_relative, bpf_skb_store_bytes,
};
use aya_ebpf::programs::TcContext;
use svclb_packet::frame::{Frame, TransportChecksum};
use svclb_packet::headers::{ETHERNET, ETHERNET_TYPE};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{HookFrame, NextHop, bounded, read};

/// Reads a `u32` of the context, by one instruction with the offset in it. With link-time optimisation
/// the compiler may compute the address once for several reads, and the verifier refuses a context
/// pointer that was added to.
macro_rules! context_word {
    ($skb:expr, $field:ident) => {{
        let word: u64;
        // SAFETY: the context is valid for the run of the program, and the field is a `u32`.
        unsafe {
            asm!(
                "{word} = *(u32 *)({skb} + {offset})",
                word = lateout(reg) word,
                skb = in(reg) $skb,
                offset = const offset_of!(__sk_buff, $field),
                options(pure, readonly, nostack),
            );
        }
        word as u32
    }};
}

/// `bpf_l4_csum_replace`: the change is of the pseudo header.
const PSEUDO_HEADER: u64 = 0x10;
/// `bpf_l4_csum_replace`: zero is no checksum, and none is zero.
const MANGLED_ZERO: u64 = 0x20;

/// Its network header is `NETWORK` bytes into it.
pub(crate) struct TcFrame<const NETWORK: u32>(TcContext);

impl<const NETWORK: u32> TcFrame<NETWORK> {
    #[inline(always)]
    pub(crate) const fn new(ctx: TcContext) -> Self {
        Self(ctx)
    }
}

impl TcFrame<0> {
    /// Has a frame that does not begin at its network header come in by its device once more, where it
    /// does; returns the action of the hook then. Before Linux 5.14 IPIP, SIT and GRE devices leave what
    /// was around a packet before it, and GRE devices that know no far end do so still.
    #[inline(always)]
    pub(crate) fn comes_in_again(&self) -> Option<i32> {
        const BPF_HDR_START_NET: u32 = 1;
        const BPF_F_INGRESS: u64 = 1;
        /// In `tc_index`, which qdiscs of this hook have no use for: never twice.
        const AGAIN: u32 = 0x5c1b;
        let mut network = [0_u32; 2];
        // What differs from the header around it: lengths and, in IPv4, a checksum.
        // SAFETY: the helper writes to `network`, and checks the offset.
        let result = unsafe {
            bpf_skb_load_bytes_relative(
                self.0.skb.skb.cast(),
                0,
                network.as_mut_ptr().cast(),
                size_of_val(&network) as u32,
                BPF_HDR_START_NET,
            )
        };
        let start = self.load::<[u32; 2]>(0)?;
        if result != 0 || start == network || context_word!(self.0.skb.skb, tc_index) == AGAIN {
            return None;
        }
        // SAFETY: the context is valid for the run of the program, and the field is a `u32` that
        // programs may write. One instruction, for the reason above.
        unsafe {
            asm!(
                "*(u32 *)({skb} + {offset}) = {again}",
                skb = in(reg) self.0.skb.skb,
                offset = const offset_of!(__sk_buff, tc_index),
                again = in(reg) u64::from(AGAIN),
                options(nostack),
            );
        }
        // SAFETY: takes numbers.
        Some(unsafe { bpf_redirect(self.device(), BPF_F_INGRESS) as i32 })
    }
}

impl<const NETWORK: u32> Frame for TcFrame<NETWORK> {
    const IS_XDP: bool = false;
    const NETWORK: u32 = NETWORK;

    #[inline(always)]
    fn ethertype(&self) -> Option<u16> {
        Some(context_word!(self.0.skb.skb, protocol) as u16)
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.0.skb.len()
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        // SAFETY: the context is valid for the run of the program.
        unsafe { (*self.0.skb.skb).gso_size }
    }

    #[inline(always)]
    fn is_for_this_node(&self) -> bool {
        /// Addressed to another machine, and seen in promiscuous mode.
        const PACKET_OTHERHOST: u32 = 3;
        const VLAN_ID: u32 = 0xfff;
        // SAFETY: the context is valid for the run of the program.
        let (kind, is_tagged, tag) = unsafe {
            let skb = self.0.skb.skb;
            ((*skb).pkt_type, (*skb).vlan_present != 0, (*skb).vlan_tci)
        };
        // A tagged frame is of the VLAN device above this one. VLAN 0 is none: it gives a priority
        // (IEEE 802.1Q, 9.6), and the kernel takes such a frame for the device's own.
        kind != PACKET_OTHERHOST && !(is_tagged && tag & VLAN_ID != 0)
    }

    #[inline(always)]
    fn load_linear<T: FromBytes>(&self, offset: u32) -> Option<T> {
        read(self.0.data() + bounded(offset), self.0.data_end())
    }

    #[inline(always)]
    fn load<T: FromBytes>(&self, offset: u32) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes all bytes of `value`, or says that it did not; any bytes
        // are a `T`.
        unsafe {
            let result = bpf_skb_load_bytes(
                self.0.skb.skb.cast(),
                offset,
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            );
            (result == 0).then(|| value.assume_init())
        }
    }

    #[inline(always)]
    fn store<T: IntoBytes + Immutable>(&self, offset: u32, value: T) -> Option<()> {
        // SAFETY: the helper reads `value`, and checks the offset.
        let result = unsafe {
            bpf_skb_store_bytes(
                self.0.skb.skb,
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
        let result =
            unsafe { bpf_l3_csum_replace(self.0.skb.skb, offset, 0, u64::from(change), 0) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn correct_transport(&self, field: TransportChecksum, addresses: u32, rest: u32) -> Option<()> {
        let zero = if field.is_udp { MANGLED_ZERO } else { 0 };
        // Two calls: where the device is to fill the checksum in (CHECKSUM_PARTIAL), the
        // field holds the sum of the pseudo header alone.
        // SAFETY: takes numbers, and checks the offset.
        let result = unsafe {
            bpf_l4_csum_replace(
                self.0.skb.skb,
                field.at,
                0,
                u64::from(addresses),
                PSEUDO_HEADER | zero,
            ) | bpf_l4_csum_replace(self.0.skb.skb, field.at, 0, u64::from(rest), zero)
        };
        if !field.is_v4 {
            // The first call took the addresses for covered by a header's own checksum, which
            // IPv6 has none of.
            self.correct_sum(addresses);
        }
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn correct_sum(&self, change: u32) {
        // SAFETY: takes numbers; refuses where there is no such sum.
        let _no_sum = unsafe { bpf_csum_update(self.0.skb.skb, change) };
    }

    #[inline(always)]
    fn cut(&self, length: u32) -> Option<()> {
        // SAFETY: takes numbers.
        let result = unsafe { bpf_skb_change_tail(self.0.skb.skb, length, 0) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn grow(&self, more: u32) -> Option<()> {
        // Not `bpf_skb_change_head`: for the kernel the network header stays where it was then, and on a
        // device without a link header all in front of it is cut off.
        // SAFETY: takes numbers.
        let result =
            unsafe { bpf_skb_adjust_room(self.0.skb.skb, more as i32, BPF_ADJ_ROOM_MAC, 0) };
        (result == 0).then_some(())
    }
}

impl<const NETWORK: u32> HookFrame for TcFrame<NETWORK> {
    // Not "ok", which would keep the packet from the programs after this one.
    const PASS: i32 = TC_ACT_UNSPEC;
    const DROP: i32 = TC_ACT_SHOT;

    #[inline(always)]
    fn ctx(&self) -> *mut c_void {
        self.0.skb.skb.cast()
    }

    #[inline(always)]
    fn device(&self) -> u32 {
        context_word!(self.0.skb.skb, ifindex)
    }

    #[inline(always)]
    fn has_sum(&self) -> bool {
        // SAFETY: takes numbers, and adds nothing; negative where there is no such sum.
        (unsafe { bpf_csum_update(self.0.skb.skb, 0) }) as i64 >= 0
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        context_word!(self.0.skb.skb, mark)
    }

    #[inline(always)]
    fn set_mark(&self, mark: u32) {
        let known = self.mark();
        // SAFETY: the context is valid for the run of the program, and the field is a `u32` that
        // programs may write. One instruction, for the reason above.
        unsafe {
            asm!(
                "*(u32 *)({skb} + {offset}) = {mark}",
                skb = in(reg) self.0.skb.skb,
                offset = const offset_of!(__sk_buff, mark),
                mark = in(reg) u64::from(known | mark),
                options(nostack),
            );
        }
    }

    #[inline(always)]
    fn send(&self, next_hop: &NextHop) -> Option<i32> {
        let Some(link) = next_hop.link() else {
            // The kernel looks the neighbour up, and waits for it.
            // SAFETY: without parameters it looks the route up itself.
            let action =
                unsafe { bpf_redirect_neigh(next_hop.device, core::ptr::null_mut(), 0, 0) };
            return Some(action as i32);
        };
        if NETWORK != 0 {
            self.store(0, link)?;
        } else if link[0] | link[1] | link[2] != 0 {
            let kind = self.ethertype()?;
            // SAFETY: takes numbers.
            let result = unsafe { bpf_skb_change_head(self.0.skb.skb, ETHERNET, 0) };
            if result != 0 {
                return None;
            }
            self.store(0, link)?;
            self.store(ETHERNET_TYPE, kind)?;
        }
        // SAFETY: takes numbers.
        Some(unsafe { bpf_redirect(next_hop.device, 0) as i32 })
    }
}
