//! What the programs say in a debug build; nothing in any other.

use aya_ebpf::programs::SockAddrContext;
use svclb_common::Translation;

use super::family::Endpoint;

/// A call to a Service goes to a backend.
#[inline(always)]
pub(crate) fn forwarded(ctx: &SockAddrContext, translation: &Translation) {
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(
        ctx,
        "[{:i}]:{} goes to [{:i}]:{}",
        translation.frontend_addr.octets(),
        translation.frontend_port.get(),
        translation.backend_addr.octets(),
        translation.backend_port.get()
    );
    #[cfg(not(feature = "log"))]
    let _ = (ctx, translation);
}

/// A call to a Service is refused.
#[inline(always)]
pub(crate) fn refused(ctx: &SockAddrContext, frontend: Endpoint) {
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(
        ctx,
        "[{:i}]:{} has no endpoint: refused",
        frontend.addr.octets(),
        frontend.port.get()
    );
    #[cfg(not(feature = "log"))]
    let _ = (ctx, frontend);
}
