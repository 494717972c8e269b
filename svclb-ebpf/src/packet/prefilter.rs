//! A first look: most packets of a node are of no Service, and their port alone shows it.

use svclb_common::{Hook, PortBe, Proto};
use svclb_packet::frame::Frame;
use svclb_packet::headers::{
    ETHERNET, ETHERNET_TYPE, IPV4, IPV4_LEN, IPV6, IPV6_LEN, V4_MORE_OR_OFFSET,
};

use crate::maps;

/// Whether a frame can be of no Service. Anything unusual may be of one.
#[inline(always)]
pub(super) fn cannot_match<F: Frame>(frame: &F, hook: Hook) -> bool {
    service_port(frame, hook).is_some_and(|port| !maps::has_port(hook, port))
}

/// The port that a Service or its backend would have; `None` for anything but TCP and UDP right
/// after a plain network header.
#[inline(always)]
fn service_port<F: Frame>(frame: &F, hook: Hook) -> Option<PortBe> {
    const V4_FRAGMENT: u32 = ETHERNET + 6;
    const V4_PROTO: u32 = ETHERNET + 9;
    const V6_NEXT: u32 = ETHERNET + 6;
    let (proto, transport) = match frame.load_linear::<u16>(ETHERNET_TYPE)? {
        IPV4 => {
            let is_plain = frame.load_linear::<u8>(ETHERNET)? == 0x45
                && frame.load_linear::<u16>(V4_FRAGMENT)? & V4_MORE_OR_OFFSET == 0;
            if !is_plain {
                return None;
            }
            (frame.load_linear::<u8>(V4_PROTO)?, ETHERNET + IPV4_LEN)
        }
        IPV6 => (frame.load_linear::<u8>(V6_NEXT)?, ETHERNET + IPV6_LEN),
        _ => return None,
    };
    if proto != Proto::TCP.number() && proto != Proto::UDP.number() {
        return None;
    }
    let at = match hook {
        Hook::EGRESS => transport,
        _ => transport + 2,
    };
    frame.load_linear::<u16>(at).map(PortBe::from_bits)
}
