//! Which clients may use a frontend: `spec.loadBalancerSourceRanges`.

use svclb_common::{Addr16, FrontendFlags, FrontendValue, Source};

use crate::maps;

/// Whether a client of this address may use a frontend.
#[inline(always)]
pub(crate) fn allow(frontend: &FrontendValue, client: Addr16) -> bool {
    !frontend.flags.contains(FrontendFlags::SOURCE_RANGES) || is_in_range(frontend, client)
}

#[inline(always)]
fn is_in_range(frontend: &FrontendValue, client: Addr16) -> bool {
    maps::is_in_range(Source {
        service: frontend.service,
        generation: frontend.generation,
        addr: client,
    })
}
