//! A frame in tc: helpers read and write it.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{
    bpf_csum_update, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh,
    bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use aya_ebpf::programs::TcContext;

use super::{Frame, NextHop, bounded, read};
use crate::packet::parse::Packet;

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
    fn load_linear<T: Copy>(&self, offset: u32) -> Option<T> {
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
    fn send(&self, next_hop: &NextHop) -> i32 {
        match next_hop.link {
            Some(link) => {
                if Frame::store(self, 0, link).is_none() {
                    return Self::DROP;
                }
                // SAFETY: takes numbers.
                unsafe { bpf_redirect(next_hop.device, 0) as i32 }
            }
            // The kernel looks the neighbour up, and waits for it.
            // SAFETY: without parameters it looks the way up itself.
            None => unsafe {
                bpf_redirect_neigh(next_hop.device, core::ptr::null_mut(), 0, 0) as i32
            },
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
