//! Who may use a frontend: `spec.loadBalancerSourceRanges`.

use aya_ebpf::programs::SockAddrContext;
use svclb_common::{Addr16, DeviceValue, FrontendFlags, FrontendValue, Source};

use crate::kernel::is_of_the_host;
use crate::maps;
use crate::socket::family::{Endpoint, Family};

/// Whether a client of this address may.
#[inline(always)]
pub(crate) fn allow(frontend: &FrontendValue, client: Addr16) -> bool {
    !frontend.flags.contains(FrontendFlags::SOURCE_RANGES) || is_in_range(frontend, client)
}

/// Whether a socket may, as far as its address can be known before there is a packet: it is
/// bound to one, or it is the node's own. All others are left to the packet path.
#[inline(always)]
pub(crate) fn allow_socket<F: Family>(
    ctx: &SockAddrContext,
    frontend: &FrontendValue,
    wanted: Endpoint,
) -> bool {
    if !frontend.flags.contains(FrontendFlags::SOURCE_RANGES) {
        return true;
    }
    let bound = F::source(ctx);
    let client = if !bound.is_unspecified() {
        Some(bound)
    } else if is_of_the_host(ctx) {
        maps::device(DeviceValue::NODE).and_then(|node| node.address(wanted.addr.is_v4()))
    } else {
        None
    };
    client.is_some_and(|client| is_in_range(frontend, client))
}

#[inline(always)]
fn is_in_range(frontend: &FrontendValue, client: Addr16) -> bool {
    maps::is_in_range(Source {
        service: frontend.service,
        generation: frontend.generation,
        addr: client,
    })
}
