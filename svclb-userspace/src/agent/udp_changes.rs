//! When UDP backends changed, and nobody can be given any more what went: what both the sockets
//! and the flows of UDP are looked at for.

use std::net::SocketAddr;

use svclb_common::{Addr16, BackendValue, FrontendKey, PortBe, Proto};
use svclb_core::planner::Round;

/// Whether a look is due: after the grace period of a round that changed UDP backends.
#[derive(Default)]
pub(super) struct Changes {
    /// A round changed some, and its grace period has yet to begin.
    changed: bool,
    /// The grace period that passes is that of such a round.
    armed: bool,
    due: bool,
}

impl Changes {
    /// A round was written.
    pub(super) fn written(&mut self, round: &Round) {
        let plans = round.plans.iter().map(|plan| plan.record.proto);
        let removed = round.removed.iter().map(|record| record.proto);
        self.changed |= plans.chain(removed).any(|proto| proto == Proto::UDP);
    }

    /// A grace period begins, or there is nothing to wait for.
    pub(super) fn grace(&mut self, begins: bool) {
        let changed = std::mem::take(&mut self.changed);
        if begins {
            self.armed |= changed;
        } else {
            self.due |= changed;
        }
    }

    /// The grace period is over.
    pub(super) fn grace_over(&mut self) {
        self.due |= std::mem::take(&mut self.armed);
    }

    /// Asks for a look, or says that one begins.
    pub(super) fn set_due(&mut self, due: bool) {
        self.due = due;
    }

    pub(super) const fn is_due(&self) -> bool {
        self.due
    }
}

/// The frontend that a client of UDP uses.
pub(super) fn frontend(addr: SocketAddr) -> FrontendKey {
    let (ip, port) = parts(addr);
    FrontendKey::of_socket(ip, port, Proto::UDP)
}

/// A backend of UDP.
pub(super) fn backend(addr: SocketAddr) -> BackendValue {
    let (ip, port) = parts(addr);
    BackendValue::new(ip, port, Proto::UDP)
}

fn parts(addr: SocketAddr) -> (Addr16, PortBe) {
    (Addr16::from_ip(addr.ip()), PortBe::new(addr.port()))
}
