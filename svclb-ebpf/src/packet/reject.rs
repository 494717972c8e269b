//! Resets and ICMP errors sent back by the device that a packet came in by. tc alone does it; XDP
//! passes such packets up.

use svclb_packet::parse::Packet;
use svclb_packet::reject::{self, Reject};

use super::fib::Route;
use super::frame::{HookFrame, NextHop, link_words};
use super::verdict::{DropReason, Verdict};

/// Nothing serves the packet: its client gets ECONNREFUSED.
#[inline(always)]
pub(super) fn unserved<F: HookFrame>(frame: &F, packet: &Packet, route: &mut Route) -> Verdict {
    let (sent, silent) = (DropReason::Unserved, DropReason::UnservedSilently);
    write(frame, packet, route, Reject::Unserved, sent, silent)
}

/// The packet has been through as many routers as its sender allowed.
#[inline(always)]
pub(super) fn hop_limit<F: HookFrame>(frame: &F, packet: &Packet, route: &mut Route) -> Verdict {
    let reason = DropReason::HopLimit;
    write(frame, packet, route, Reject::HopLimit, reason, reason)
}

/// The packet is longer than the `mtu` bytes that the next link takes.
#[inline(always)]
pub(super) fn too_big<F: HookFrame>(
    frame: &F,
    packet: &Packet,
    route: &mut Route,
    mtu: u32,
) -> Verdict {
    let reason = DropReason::TooBig;
    write(frame, packet, route, Reject::TooBig(mtu), reason, reason)
}

/// `sent` is counted if something goes back, and `silent` if not.
#[inline(always)]
fn write<F: HookFrame>(
    frame: &F,
    packet: &Packet,
    route: &mut Route,
    reject: Reject,
    sent: DropReason,
    silent: DropReason,
) -> Verdict {
    if F::IS_XDP {
        return Verdict::Pass;
    }
    match reject::write(frame, packet, reject) {
        Some(link) => {
            route.next_hop = NextHop {
                device: frame.device(),
                link: Some(link_words(link)),
                by_redirect: true,
            };
            Verdict::Reject(sent)
        }
        None => Verdict::Drop(silent),
    }
}
