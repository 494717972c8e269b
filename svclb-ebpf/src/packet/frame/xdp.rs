//! A frame in XDP: its bytes are at hand.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::programs::XdpContext;
use svclb_packet::checksum;
use svclb_packet::frame::{Frame, TransportChecksum};
use svclb_packet::headers::{ETHERNET, ETHERNET_TYPE};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{HookFrame, NextHop, bounded, read};

pub(crate) struct XdpFrame(XdpContext);

impl XdpFrame {
    #[inline(always)]
    pub(crate) const fn new(ctx: XdpContext) -> Self {
        Self(ctx)
    }
}

impl Frame for XdpFrame {
    const IS_XDP: bool = true;
    const NETWORK: u32 = ETHERNET;

    #[inline(always)]
    fn ethertype(&self) -> Option<u16> {
        self.load(ETHERNET_TYPE)
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        (self.0.data_end() - self.0.data()) as u32
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn is_for_this_node(&self) -> bool {
        // The link address is compared where a flow is opened.
        true
    }

    #[inline(always)]
    fn load_linear<T: FromBytes>(&self, offset: u32) -> Option<T> {
        self.load(offset)
    }

    #[inline(always)]
    fn load<T: FromBytes>(&self, offset: u32) -> Option<T> {
        read(self.0.data() + bounded(offset), self.0.data_end())
    }

    #[inline(always)]
    fn store<T: IntoBytes + Immutable>(&self, offset: u32, value: T) -> Option<()> {
        let start = self.0.data() + bounded(offset);
        if start + size_of::<T>() > self.0.data_end() {
            return None;
        }
        // SAFETY: within the frame, by the lines above.
        unsafe { (start as *mut T).write_unaligned(value) };
        Some(())
    }

    #[inline(always)]
    fn correct_header(&self, offset: u32, change: u32) -> Option<()> {
        let field = self.load::<u16>(offset)?;
        self.store(offset, checksum::apply(field, change))
    }

    #[inline(always)]
    fn correct_transport(&self, field: TransportChecksum, addresses: u32, rest: u32) -> Option<()> {
        let known = self.load::<u16>(field.at)?;
        if field.is_udp && known == 0 {
            return Some(());
        }
        let change = checksum::add(addresses, rest);
        self.store(
            field.at,
            checksum::apply_transport(known, change, field.is_udp),
        )
    }

    #[inline(always)]
    fn correct_sum(&self, _change: u32) {}

    #[inline(always)]
    fn cut(&self, _length: u32) -> Option<()> {
        None
    }

    #[inline(always)]
    fn grow(&self, _more: u32) -> Option<()> {
        None
    }
}

impl HookFrame for XdpFrame {
    const PASS: i32 = xdp_action::XDP_PASS as i32;
    const DROP: i32 = xdp_action::XDP_DROP as i32;

    #[inline(always)]
    fn ctx(&self) -> *mut c_void {
        self.0.ctx.cast()
    }

    #[inline(always)]
    fn device(&self) -> u32 {
        // SAFETY: the context is valid for the run of the program.
        unsafe { (*self.0.ctx).ingress_ifindex }
    }

    #[inline(always)]
    fn has_sum(&self) -> bool {
        false
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn set_mark(&self, _mark: u32) {}

    #[inline(always)]
    fn send(&self, next_hop: &NextHop) -> Option<i32> {
        self.store(0, next_hop.link()?)?;
        if next_hop.device == self.device() && !next_hop.by_redirect {
            return Some(xdp_action::XDP_TX as i32);
        }
        // SAFETY: takes numbers.
        Some(unsafe { bpf_redirect(next_hop.device, 0) as i32 })
    }
}
