//! Reading what is pinned, with or without an agent.

use std::io;
use std::path::Path;

use svclb_common::{AffinityKey, AffinityValue, Counter, PeerSlot, Translation, maps as names};
use svclb_core::apply::Snapshot;

use crate::error::PinnedError;
use crate::maps::flows::{Flow, Flows};
use crate::maps::meta;
use crate::maps::planned::Planned;
use crate::maps::read::read_all;
use crate::pins::Pins;
use crate::programs::PROGRAMS;
use crate::sys::{self, Map};

/// The pinned maps, for reading.
#[derive(Debug)]
pub struct Pinned {
    pins: Pins,
    planned: Planned,
    affinity: Map,
    counters: Map,
    peers: Map,
    flows: Flows,
}

/// An entry of `AFFINITY`.
pub type Affinity = (AffinityKey, AffinityValue);

impl Pinned {
    /// Opens the pins of a running or stopped agent.
    ///
    /// # Errors
    /// [`PinnedError`].
    pub fn open(pin_dir: &Path) -> Result<Self, PinnedError> {
        let pins = Pins::new(pin_dir);
        meta::check(&pins)?;
        let failed = |name| {
            move |source| PinnedError::Map {
                path: pin_dir.to_owned(),
                name,
                source,
            }
        };
        Ok(Self {
            planned: Planned::open(&pins).map_err(failed(names::FRONTENDS))?,
            affinity: Map::open(&pins.map(names::AFFINITY)).map_err(failed(names::AFFINITY))?,
            counters: Map::open(&pins.map(names::COUNTERS)).map_err(failed(names::COUNTERS))?,
            peers: Map::open(&pins.map(names::PEERS)).map_err(failed(names::PEERS))?,
            flows: Flows::open(&pins).map_err(failed(names::FLOWS))?,
            pins,
        })
    }

    /// The planned maps.
    ///
    /// # Errors
    /// The system's error.
    pub fn snapshot(&self) -> io::Result<Snapshot> {
        self.planned.read()
    }

    /// The flows from outside.
    ///
    /// # Errors
    /// The system's error.
    pub fn flows(&self) -> io::Result<Vec<Flow>> {
        self.flows.list()
    }

    /// How many entries conntrack has: two for each flow, or one of one that is half gone.
    ///
    /// # Errors
    /// The system's error.
    pub fn flow_entries(&self) -> io::Result<usize> {
        self.flows.entries()
    }

    /// All affinity entries, also those whose time is over.
    ///
    /// # Errors
    /// The system's error.
    pub fn affinity(&self) -> io::Result<Vec<Affinity>> {
        read_all(&self.affinity)
    }

    /// The TCP sockets that have a slot in `PEERS`: cookie and translation.
    ///
    /// # Errors
    /// The system's error.
    pub fn sockets(&self) -> io::Result<Vec<(u64, Translation)>> {
        Ok(read_all::<u32, PeerSlot>(&self.peers)?
            .into_iter()
            .filter(|(_, slot)| slot.acquisitions > 0)
            .map(|(_, slot)| (slot.cookie, slot.translation))
            .collect())
    }

    /// Each counter's sum over all CPUs.
    ///
    /// # Errors
    /// The system's error.
    pub fn counters(&self) -> io::Result<Vec<(Counter, u64)>> {
        let mut buffer = vec![0; self.counters.value_size];
        Counter::ALL
            .into_iter()
            .map(|counter| {
                self.counters
                    .lookup(sys::bytes(&counter.index()), &mut buffer)?;
                let sum = buffer
                    .chunks_exact(8)
                    .map(|word| sys::value::<u64>(word).unwrap_or_default())
                    .fold(0, u64::wrapping_add);
                Ok((counter, sum))
            })
            .collect()
    }

    /// The name of each planned map and of conntrack's, and how many entries it can hold.
    pub const fn capacities(&self) -> [(&'static str, u32); 6] {
        [
            (names::FRONTENDS, self.planned.frontends.max_entries),
            (names::SLOTS, self.planned.slots.max_entries),
            (names::SOURCES, self.planned.sources.max_entries),
            (names::BACKENDS, self.planned.backends.max_entries),
            (names::SERVICES, self.planned.services.max_entries),
            (names::FLOWS, self.flows.capacity()),
        ]
    }

    /// The names of the programs whose links are pinned.
    pub fn attached(&self) -> Vec<&'static str> {
        PROGRAMS
            .iter()
            .map(|program| program.name)
            .filter(|name| self.pins.link(name).exists())
            .collect()
    }
}
