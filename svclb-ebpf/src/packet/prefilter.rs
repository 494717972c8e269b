//! A first look: most packets of a node are no Service's, and their port alone says so.

use svclb_common::{Hook, PortBe, Proto};

use super::frame::{ETHERNET, Frame};
use super::parse::{IPV4, IPV6};
use crate::maps;

/// Whether a frame is surely nobody's. Anything unusual may be somebody's.
#[inline(always)]
pub(super) fn cannot_match<F: Frame>(frame: &F, hook: Hook) -> bool {
    service_port(frame, hook).is_some_and(|port| !maps::has_port(hook, port))
}

/// The port that a Service or its backend would have; `None` for anything but TCP and UDP right
/// after a plain network header.
#[inline(always)]
fn service_port<F: Frame>(frame: &F, hook: Hook) -> Option<PortBe> {
    const TYPE: u32 = 12;
    const V4_FRAGMENT: u32 = ETHERNET + 6;
    const V4_PROTO: u32 = ETHERNET + 9;
    const V4_HEADER: u32 = 20;
    const V6_NEXT: u32 = ETHERNET + 6;
    const V6_HEADER: u32 = 40;
    const MORE_OR_OFFSET: u16 = u16::to_be(0x3fff);
    let (proto, transport) = match frame.load_linear::<u16>(TYPE)? {
        IPV4 => {
            let is_plain = frame.load_linear::<u8>(ETHERNET)? == 0x45
                && frame.load_linear::<u16>(V4_FRAGMENT)? & MORE_OR_OFFSET == 0;
            if !is_plain {
                return None;
            }
            (frame.load_linear::<u8>(V4_PROTO)?, ETHERNET + V4_HEADER)
        }
        IPV6 => (frame.load_linear::<u8>(V6_NEXT)?, ETHERNET + V6_HEADER),
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
