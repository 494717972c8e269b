//! Map operations as values, and the order they must keep.

use std::fmt;

use svclb_common::{
    BackendId, BackendValue, FrontendKey, FrontendValue, ServiceId, ServiceRecord, SlotKey,
    SlotValue, SourceKey,
};

use crate::ports::PortBit;

/// One write to one map: what is written, not how. Performing it twice is performing it once.
#[derive(Clone, PartialEq, Eq)]
pub enum Op {
    /// Takes a service id. (Boxed: a record is several times the size of anything else here.)
    PutService(ServiceId, Box<ServiceRecord>),
    /// Takes a backend id.
    PutBackend(BackendId, BackendValue),
    /// Lets packets with a port be looked up.
    SetPort(PortBit),
    /// Fills a slot of a generation that no frontend names yet.
    PutSlot(SlotKey, SlotValue),
    /// Lets clients of a range in, in a generation that no frontend names yet.
    PutSource(SourceKey),
    /// The commit point: from here on readers use the generation it names.
    PutFrontend(FrontendKey, FrontendValue),
    /// The other commit point: from here on the address is no Service's.
    DeleteFrontend(FrontendKey),
    /// Empties a slot of a generation that no reader can be using any more.
    DeleteSlot(SlotKey),
    /// Takes a range of such a generation away.
    DeleteSource(SourceKey),
    /// Frees a backend id whose quarantine is over.
    DeleteBackend(BackendId),
    /// Frees a service id whose quarantine is over.
    DeleteService(ServiceId),
    /// Has packets with a port passed over that nothing needs any more.
    ClearPort(PortBit),
}

/// When an operation may be performed: all of a phase before any of the next, within a
/// phase in any order or at once.
///
/// This is the only place where the order is defined. A reader looks up a frontend, then
/// a slot of the generation that it names (and before it the generation's source ranges), and
/// may be stopped between any two of them for as long as a grace period. So:
/// 1. ids are taken first, so that a crash leaves no slot or frontend without a record;
/// 2. the bit of a port is set before the slot or frontend that needs it: packets without one
///    are passed over;
/// 3. slots and ranges are complete before
/// 4. the frontend names them (the commit), which replaces one hash element and so is seen whole;
/// 5. a frontend that goes, goes after the new ones stand: an address that moves from one
///    Service to another is replaced, never absent;
/// 6. old slots and ranges go only after a grace period that began after 4 and 5
///    ([`Maps::grace_period`](crate::apply::Maps::grace_period));
/// 7. ids are freed after a quarantine: conntrack and affinity may still hold them;
///    (6 and 7 are for what a reader may have found: when a change fails before its commit, what it
///    alone has newly written goes at once, slots and ranges before ids);
/// 8. bits are cleared only after a start, once no program runs that may begin a flow which needs
///    one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Phase {
    /// 1: [`Op::PutService`].
    TakeServices,
    /// 1: [`Op::PutBackend`].
    TakeBackends,
    /// 2: [`Op::SetPort`].
    SetPorts,
    /// 3: [`Op::PutSlot`].
    FillSlots,
    /// 3: [`Op::PutSource`].
    FillSources,
    /// 4: [`Op::PutFrontend`], the commit.
    FlipFrontends,
    /// 5: [`Op::DeleteFrontend`].
    DropFrontends,
    /// 6: [`Op::DeleteSlot`], after a grace period.
    DropSlots,
    /// 6: [`Op::DeleteSource`], after a grace period.
    DropSources,
    /// 7: [`Op::DeleteBackend`], after a quarantine.
    FreeBackends,
    /// 7: [`Op::DeleteService`], after a quarantine.
    FreeServices,
    /// 8: [`Op::ClearPort`], after a start.
    ClearPorts,
}

impl Op {
    /// The phase that it belongs to.
    pub const fn phase(&self) -> Phase {
        match self {
            Self::PutService(..) => Phase::TakeServices,
            Self::PutBackend(..) => Phase::TakeBackends,
            Self::SetPort(_) => Phase::SetPorts,
            Self::PutSlot(..) => Phase::FillSlots,
            Self::PutSource(_) => Phase::FillSources,
            Self::PutFrontend(..) => Phase::FlipFrontends,
            Self::DeleteFrontend(_) => Phase::DropFrontends,
            Self::DeleteSlot(_) => Phase::DropSlots,
            Self::DeleteSource(_) => Phase::DropSources,
            Self::DeleteBackend(_) => Phase::FreeBackends,
            Self::DeleteService(_) => Phase::FreeServices,
            Self::ClearPort(_) => Phase::ClearPorts,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PutService(id, record) => write!(f, "put service {id} = {record}"),
            Self::PutBackend(id, backend) => write!(f, "put backend {id} = {backend:?}"),
            Self::PutSlot(key, value) => write!(
                f,
                "put slot {key:?} = {} {}#{}",
                value.backend,
                std::net::SocketAddr::new(value.addr.to_ip(), value.port.get()),
                value.position
            ),
            Self::PutSource(key) => write!(f, "put source {key:?}"),
            Self::PutFrontend(key, value) => write!(
                f,
                "put frontend {key} = {}.{} internal {}+{} external {}+{} affinity {}s",
                value.service,
                value.generation,
                value.internal.first,
                value.internal.count,
                value.external.first,
                value.external.count,
                value.affinity_seconds
            ),
            Self::DeleteFrontend(key) => write!(f, "delete frontend {key}"),
            Self::DeleteSlot(key) => write!(f, "delete slot {key:?}"),
            Self::DeleteSource(key) => write!(f, "delete source {key:?}"),
            Self::DeleteBackend(id) => write!(f, "delete backend {id}"),
            Self::DeleteService(id) => write!(f, "delete service {id}"),
            Self::SetPort(bit) => write!(f, "set port {bit}"),
            Self::ClearPort(bit) => write!(f, "clear port {bit}"),
        }
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
