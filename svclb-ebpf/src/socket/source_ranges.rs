//! Source ranges at a socket, which may have no address yet.

use aya_ebpf::programs::SockAddrContext;
use svclb_common::{DeviceValue, FrontendFlags, FrontendValue};

use super::family::{Endpoint, Family};
use crate::kernel::is_of_the_host;
use crate::{maps, sources};

/// Whether a socket may use a frontend, as far as its address can be known before there is a packet: it
/// is bound to one, or it is the node's own. All others are left to the packet path.
#[inline(always)]
pub(super) fn allow<F: Family>(
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
    client.is_some_and(|client| sources::allow(frontend, client))
}
