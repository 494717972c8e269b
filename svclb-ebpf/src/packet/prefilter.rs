//! A first look: most packets of a node are of no Service, and their ports alone show it.

use svclb_common::{Hook, PortBe, Proto};
use svclb_packet::frame::Frame;
use svclb_packet::headers::{IPV4, IPV4_LEN, IPV6, IPV6_LEN, V4_MORE_OR_OFFSET};

use crate::maps;

/// Whether a frame that comes in can be of no Service. Anything unusual may be of one.
#[inline(always)]
pub(super) fn cannot_match_ingress<F: Frame>(frame: &F) -> bool {
    // A frontend's port, or one that the node gives to flows.
    ports(frame).is_some_and(|[_, to]| !maps::has_port(Hook::INGRESS, to))
}

/// Whether a frame that goes out can be of no Service.
#[inline(always)]
pub(super) fn cannot_match_egress<F: Frame>(frame: &F) -> bool {
    // From a backend, or to one; or of the node itself, from a port that is a frontend's or that
    // the node gives to flows.
    ports(frame).is_some_and(|[from, to]| {
        !maps::has_port(Hook::EGRESS, from)
            && !maps::has_port(Hook::EGRESS, to)
            && !maps::has_port(Hook::INGRESS, from)
    })
}

/// The ports of source and destination; `None` for anything but TCP and UDP right after a plain network
/// header.
#[inline(always)]
fn ports<F: Frame>(frame: &F) -> Option<[PortBe; 2]> {
    const V4_FRAGMENT: u32 = 6;
    const V4_PROTO: u32 = 9;
    const V6_NEXT: u32 = 6;
    let (proto, transport) = match frame.ethertype()? {
        IPV4 => {
            // Two bytes, since "does the frame have one" becomes a comparison that tells the verifier
            // nothing.
            let [version_and_length, _] = frame.load_linear::<[u8; 2]>(F::NETWORK)?;
            let is_plain = version_and_length == 0x45
                && frame.load_linear::<u16>(F::NETWORK + V4_FRAGMENT)? & V4_MORE_OR_OFFSET == 0;
            if !is_plain {
                return None;
            }
            let proto = frame.load_linear::<u8>(F::NETWORK + V4_PROTO)?;
            (proto, F::NETWORK + IPV4_LEN)
        }
        IPV6 => {
            let proto = frame.load_linear::<u8>(F::NETWORK + V6_NEXT)?;
            (proto, F::NETWORK + IPV6_LEN)
        }
        _ => return None,
    };
    if proto != Proto::TCP.number() && proto != Proto::UDP.number() {
        return None;
    }
    let ports = frame.load_linear::<[u16; 2]>(transport)?;
    Some(ports.map(PortBe::from_bits))
}
