//! What differs between XDP and tc beyond the bytes of a frame: how it is sent on.

mod tc;
mod xdp;

use aya_ebpf::cty::c_void;
use svclb_packet::frame::Frame;
use zerocopy::FromBytes;

pub(crate) use tc::TcFrame;
pub(crate) use xdp::XdpFrame;

/// Where a frame leaves: by which device, and to which neighbour if it is known.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct NextHop {
    /// The interface index.
    pub(crate) device: u32,
    /// Destination and source of the link header, where they are known. tc leaves the rest to the
    /// kernel, but for frames without a link header: for these it is [`NO_LINK`], or that which they
    /// get.
    pub(crate) link: Option<LinkAddresses>,
    /// Whether XDP redirects to the device that the frame came in by: a veth leaves what XDP_TX
    /// sends lying until something else comes along (seen on 6.18).
    pub(crate) by_redirect: bool,
}

/// Destination and source of a link header, as words: bytes would be copied by a call of `memmove` (see
/// [`OverflowKey::reserved`](svclb_common::OverflowKey::reserved)).
pub(crate) type LinkAddresses = [u32; 3];

/// The link addresses between devices without a link header.
pub(crate) const NO_LINK: LinkAddresses = [0; 3];

/// Link addresses as they stand in a header.
#[inline(always)]
pub(crate) const fn link_words([a, b, c, d, e, f, g, h, i, j, k, l]: [u8; 12]) -> LinkAddresses {
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
    ]
}

impl NextHop {
    /// The link addresses, if they are known. They are read word by word for the same reason.
    #[inline(always)]
    fn link(&self) -> Option<LinkAddresses> {
        let [a, b, c] = self.link.as_ref()?;
        // SAFETY: references to words.
        Some(unsafe {
            [
                (&raw const *a).read_volatile(),
                (&raw const *b).read_volatile(),
                (&raw const *c).read_volatile(),
            ]
        })
    }
}

/// A frame at one of the hooks.
pub(crate) trait HookFrame: Frame {
    /// The action by which the frame goes on to the next program, or into the kernel.
    const PASS: i32;
    /// The action by which it is dropped.
    const DROP: i32;

    /// The program's context.
    fn ctx(&self) -> *mut c_void;
    /// The interface index of the device that it came in, or goes out, by.
    fn device(&self) -> u32;
    /// Whether the kernel holds a sum of the whole packet (`CHECKSUM_COMPLETE`) that has to stay
    /// right. tc alone: XDP comes before it is taken over.
    fn has_sum(&self) -> bool;
    /// The packet's mark; zero in XDP.
    fn mark(&self) -> u32;
    /// Sets bits of the packet's mark, which the kernel's routing and firewall see. tc alone.
    fn set_mark(&self, mark: u32);
    /// Sends the frame to its next hop, and returns the action that does it. `None` where the link
    /// header can't be written.
    fn send(&self, next_hop: &NextHop) -> Option<i32>;
}

/// An offset that the verifier sees to be small. Every one that XDP uses is: it passes up
/// headers of variable length.
#[inline(always)]
const fn bounded(offset: u32) -> usize {
    (offset & 0xff) as usize
}

/// Reads a `T` at an address within a frame that ends at `end`.
#[inline(always)]
fn read<T: FromBytes>(start: usize, end: usize) -> Option<T> {
    // The check has to be on the moved pointer: the verifier forgets any other.
    if start + size_of::<T>() > end {
        return None;
    }
    // SAFETY: within the frame, by the line above; any bytes are a `T`.
    Some(unsafe { (start as *const T).read_unaligned() })
}
