//! Which Services changed their UDP backends, and from when on no reader can choose one that is
//! gone: sockets and flows of UDP are checked then.

use std::net::SocketAddr;

use svclb_common::{Addr16, BackendValue, FrontendKey, PortBe, Proto};
use svclb_core::planner::Round;
use svclb_core::serving::ChangedServices;

/// Changed Services on their way to a check, which has to follow a grace period that began after
/// their write.
#[derive(Default)]
pub(super) struct UdpChanges {
    /// Written, and their grace period has yet to begin.
    written: ChangedServices,
    /// Their grace period is under way.
    in_grace_period: ChangedServices,
    due: ChangedServices,
}

impl UdpChanges {
    /// A round was written.
    pub(super) fn written(&mut self, round: &Round) {
        self.written
            .merge(ChangedServices::of_round(round, Proto::UDP));
    }

    /// A grace period begins, or (if not `begins`) nothing has to wait for one.
    pub(super) fn grace_period(&mut self, begins: bool) {
        let written = std::mem::take(&mut self.written);
        if begins {
            self.in_grace_period.merge(written);
        } else {
            self.due.merge(written);
        }
    }

    /// The grace period ended.
    pub(super) fn grace_period_ended(&mut self) {
        self.due.merge(std::mem::take(&mut self.in_grace_period));
    }

    /// Makes a check of these due, whatever was written.
    pub(super) fn request(&mut self, services: ChangedServices) {
        self.due.merge(services);
    }

    /// Whether a check is due.
    pub(super) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Begins a check: returns the Services that it is about.
    pub(super) fn take_due(&mut self) -> ChangedServices {
        std::mem::take(&mut self.due)
    }
}

/// The frontend that a UDP client uses.
pub(super) fn frontend(addr: SocketAddr) -> FrontendKey {
    let (ip, port) = parts(addr);
    FrontendKey::of_socket(ip, port, Proto::UDP)
}

/// A UDP backend.
pub(super) fn backend(addr: SocketAddr) -> BackendValue {
    let (ip, port) = parts(addr);
    BackendValue::new(ip, port, Proto::UDP)
}

fn parts(addr: SocketAddr) -> (Addr16, PortBe) {
    (Addr16::from_ip(addr.ip()), PortBe::new(addr.port()))
}
