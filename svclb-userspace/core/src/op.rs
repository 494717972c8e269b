//! Map operations as values, and the order they must keep.

use std::fmt;

use svclb_common::{
    BackendId, BackendValue, FrontendKey, FrontendValue, ServiceId, ServiceRecord, SlotKey,
    SlotValue, SourceKey,
};

/// One write to one map. Says what, never how; performing it twice is performing it once.
#[derive(Clone, PartialEq, Eq)]
pub enum Op {
    /// Takes a service id. (Boxed: a record is several times the size of anything else here.)
    PutService(ServiceId, Box<ServiceRecord>),
    /// Takes a backend id.
    PutBackend(BackendId, BackendValue),
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
    /// Gives a rested backend id free.
    DeleteBackend(BackendId),
    /// Gives a rested service id free.
    DeleteService(ServiceId),
}

/// When an operation may be performed: all of a phase before any of the next, within a
/// phase in any order or at once.
///
/// This is the only place where the order is defined. A reader looks up a frontend, then
/// a slot of the generation that it names (and before it the generation's source ranges), and
/// may be stopped between any two of them for as long as a grace period. So:
/// 1. ids are taken first, so that a crash leaves no slot or frontend without an owner;
/// 2. slots and ranges are complete before
/// 3. the frontend names them, which replaces one hash element and so is seen whole;
/// 4. a frontend that goes, goes after the new ones stand: an address that moves from one
///    Service to another is replaced, never absent;
/// 5. old slots and ranges go only after a grace period that began after 3 and 4
///    ([`Maps::grace_period`](crate::apply::Maps::grace_period));
/// 6. ids are given free last, after a rest: conntrack and affinity may still hold them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Phase {
    /// 1: [`Op::PutService`].
    TakeServices,
    /// 1: [`Op::PutBackend`].
    TakeBackends,
    /// 2: [`Op::PutSlot`].
    FillSlots,
    /// 2: [`Op::PutSource`].
    FillSources,
    /// 3: [`Op::PutFrontend`].
    FlipFrontends,
    /// 4: [`Op::DeleteFrontend`].
    DropFrontends,
    /// 5: [`Op::DeleteSlot`], after a grace period.
    DropSlots,
    /// 5: [`Op::DeleteSource`], after a grace period.
    DropSources,
    /// 6: [`Op::DeleteBackend`], after a rest.
    FreeBackends,
    /// 6: [`Op::DeleteService`], after a rest.
    FreeServices,
}

impl Op {
    /// The phase that it belongs to.
    pub const fn phase(&self) -> Phase {
        match self {
            Self::PutService(..) => Phase::TakeServices,
            Self::PutBackend(..) => Phase::TakeBackends,
            Self::PutSlot(..) => Phase::FillSlots,
            Self::PutSource(_) => Phase::FillSources,
            Self::PutFrontend(..) => Phase::FlipFrontends,
            Self::DeleteFrontend(_) => Phase::DropFrontends,
            Self::DeleteSlot(_) => Phase::DropSlots,
            Self::DeleteSource(_) => Phase::DropSources,
            Self::DeleteBackend(_) => Phase::FreeBackends,
            Self::DeleteService(_) => Phase::FreeServices,
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
        }
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
