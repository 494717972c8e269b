//! The planned maps in the kernel, as both their writer and their readers open them.

use std::io;

use svclb_common::maps as names;
use svclb_core::apply::Snapshot;

use super::ports;
use super::read::read_all;
use crate::pins::Pins;
use crate::sys::Map;

/// The maps that the agent plans.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) frontends: Map,
    pub(crate) slots: Map,
    pub(crate) sources: Map,
    pub(crate) backends: Map,
    pub(crate) services: Map,
    pub(crate) ports: Map,
}

impl Planned {
    pub(crate) fn open(pins: &Pins) -> io::Result<Self> {
        let open = |name| Map::open(&pins.map(name));
        Ok(Self {
            frontends: open(names::FRONTENDS)?,
            slots: open(names::SLOTS)?,
            sources: open(names::SOURCES)?,
            backends: open(names::BACKENDS)?,
            services: open(names::SERVICES)?,
            ports: open(names::PORTS)?,
        })
    }

    /// What they hold.
    pub(crate) fn read(&self) -> io::Result<Snapshot> {
        let mut slots = read_all(&self.slots)?;
        slots.sort_unstable_by_key(|(key, _)| *key);
        Ok(Snapshot {
            services: read_all(&self.services)?.into_iter().collect(),
            backends: read_all(&self.backends)?.into_iter().collect(),
            frontends: read_all(&self.frontends)?.into_iter().collect(),
            slots,
            sources: read_all::<_, u32>(&self.sources)?
                .into_iter()
                .map(|(key, _)| key)
                .collect(),
            ports: ports::read(&self.ports)?,
        })
    }
}
