//! Performing a plan: the trait that the kernel's maps and the fake implement.

use std::collections::{BTreeMap, BTreeSet};

use svclb_common::{
    BackendId, BackendValue, FrontendKey, FrontendValue, ServiceId, ServiceRecord, SlotKey,
    SlotValue, SourceKey,
};

use crate::op::Op;
use crate::ports::PortSet;

/// Everything in the maps that the agent writes, read back at start.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// `SERVICES`.
    pub services: BTreeMap<ServiceId, ServiceRecord>,
    /// `BACKENDS`.
    pub backends: BTreeMap<BackendId, BackendValue>,
    /// `SLOTS`, in the order of their keys.
    pub slots: Vec<(SlotKey, SlotValue)>,
    /// `SOURCES`.
    pub sources: BTreeSet<SourceKey>,
    /// `FRONTENDS`.
    pub frontends: BTreeMap<FrontendKey, FrontendValue>,
    /// `PORTS`.
    pub ports: PortSet,
}

/// Why an operation was not performed.
#[derive(Debug, thiserror::Error)]
#[error("{map}: {source}")]
pub struct Failure {
    /// How many of the operations, from the first on, were performed before the one that failed.
    pub done: usize,
    /// The map's name.
    pub map: &'static str,
    /// The map has no room for another entry. The other operations may still succeed.
    pub full: bool,
    /// The system's error.
    pub source: std::io::Error,
}

/// The maps, as the writer sees them.
pub trait Maps {
    /// Performs operations of one phase, in order or in a batch.
    ///
    /// Deleting what is not there is a success: a crash may have come between the write
    /// and its being noted.
    ///
    /// # Errors
    /// [`Failure`] with how many were performed. The one after them was not; those
    /// behind it were not tried.
    fn perform(&mut self, ops: &[Op]) -> Result<(), Failure>;

    /// Returns when every reader that was running when it was called has finished.
    ///
    /// # Errors
    /// The system's error; then nothing may be assumed about readers.
    fn grace_period(&mut self) -> std::io::Result<()>;

    /// Reads the maps back.
    ///
    /// # Errors
    /// The system's error.
    fn snapshot(&mut self) -> std::io::Result<Snapshot>;

    /// The bits of `PORTS` that flows of now need: they outlive the frontends and slots with
    /// which they began.
    ///
    /// # Errors
    /// The system's error.
    fn flow_ports(&mut self) -> std::io::Result<PortSet>;
}
