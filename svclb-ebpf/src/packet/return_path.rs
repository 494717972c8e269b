//! Replies leave by the device that their client's packets come in by, whatever route the kernel chose
//! for them: a route that leads elsewhere is one by which the client may not be reached, or one whose
//! network takes no packets from the Service's address.

use svclb_common::{Counter, DeviceFlags, FlowFlags, FlowKey, FlowValue, LinkAddr};
use svclb_packet::parse::Packet;

use super::flows;
use super::forward::fits;
use super::frame::{HookFrame, NO_LINK, NextHop};
use super::scratch::Scratch;
use crate::counters::count;
use crate::maps;

/// Writes into a new flow by which device its client's packet came in, and from which link address.
#[inline(always)]
pub(super) fn remember<F: HookFrame>(frame: &F, scratch: &mut Scratch) {
    let device = frame.device();
    let router = router(frame);
    scratch.forward.device = device;
    scratch.forward.router = router;
    scratch.reverse.device = device;
    scratch.reverse.router = router;
}

/// Notes that packets of a flow's client come in by another device than before, or from another router.
#[inline(always)]
pub(super) fn update<F: HookFrame>(frame: &F, key: &FlowKey, flow: &FlowValue, packet: &Packet) {
    let replies_leave = FlowFlags::FROM_CLIENT.union(FlowFlags::OTHER_AT_EGRESS);
    let is_own = flow.flags.contains(FlowFlags::OWN);
    if !flow.flags.contains(replies_leave) || is_own {
        return;
    }
    let (device, router) = (frame.device(), router(frame));
    let is_known =
        flow.device == device && flow.router[0] == router[0] && flow.router[1] == router[1];
    if !is_known && flows::is_likely(key, flow, packet) {
        flows::set_device(key, flow, device, router);
    }
}

/// The link address that a frame came from; zeros on a device without one.
#[inline(always)]
pub(super) fn router<F: HookFrame>(frame: &F) -> LinkAddr {
    const SOURCE: u32 = 6;
    if F::NETWORK == 0 {
        return [0; 2];
    }
    let start = frame.load_linear::<u32>(SOURCE);
    let rest = frame.load_linear::<u16>(SOURCE + 4);
    [start.unwrap_or(0), u32::from(rest.unwrap_or(0))]
}

/// Where a reply is to leave, if not by the device that it is at.
#[inline(always)]
pub(super) fn next_hop<F: HookFrame>(
    frame: &F,
    packet: &Packet,
    reply: &FlowValue,
) -> Option<NextHop> {
    let by = reply.device;
    if by == 0 || by == frame.device() {
        return None;
    }
    let (from, to) = (maps::device(frame.device())?, maps::device(by)?);
    let leads_to_pods = from.flags.union(to.flags).contains(DeviceFlags::PODS);
    let is_usable =
        to.flags.contains(DeviceFlags::ATTACHED) && !to.flags.contains(DeviceFlags::NO_CARRIER);
    if leads_to_pods || !is_usable {
        return None;
    }
    // Nothing past this point would fragment it, or tell its sender.
    if !fits(to.mtu, frame, packet) {
        return None;
    }
    let [start, rest] = reply.router;
    let [a, b, c, d, e, f] = to.link;
    let [g, h] = (rest as u16).to_ne_bytes();
    let link = if start | rest != 0 {
        Some([
            start,
            u32::from_ne_bytes([g, h, a, b]),
            u32::from_ne_bytes([c, d, e, f]),
        ])
    } else if F::NETWORK != 0 {
        // The kernel looks the neighbour up.
        None
    } else if to.flags.contains(DeviceFlags::NO_ETHERNET) {
        Some(NO_LINK)
    } else {
        return None;
    };
    count(Counter::Returned);
    Some(NextHop {
        device: by,
        link,
        by_redirect: true,
    })
}
