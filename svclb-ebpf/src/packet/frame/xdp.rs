//! A frame in XDP: the bytes are at hand.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::programs::XdpContext;
use svclb_common::checksum;

use super::{Frame, NextHop, bounded, read};
use crate::packet::parse::Packet;

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
    fn load_linear<T: Copy>(&self, offset: u32) -> Option<T> {
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
    fn send(&self, next_hop: &NextHop) -> i32 {
        let written = next_hop.link.and_then(|link| self.store(0, link));
        if written.is_none() {
            return Self::DROP;
        }
        if next_hop.device == self.device() && !next_hop.by_redirect {
            return xdp_action::XDP_TX as i32;
        }
        // SAFETY: takes numbers.
        unsafe { bpf_redirect(next_hop.device, 0) as i32 }
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
