//! Reading what is pinned, with or without an agent.

use std::io;
use std::path::{Path, PathBuf};

use svclb_common::{
    ABI_VERSION, AffinityKey, AffinityValue, Counter, MAGIC, Meta, PeerSlot, Translation,
    maps as names,
};
use svclb_core::apply::Snapshot;

use crate::attach::PROGRAMS;
use crate::flows::{Flow, Flows};
use crate::pins::Pins;
use crate::planned::{Planned, read_all};
use crate::sys::{self, Map};

/// The pins cannot be read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum PinnedError {
    #[error("nothing of svclb is pinned in {path}; start `svclb run`, or give its --pin-dir", path = .0.display())]
    Nothing(PathBuf),
    #[error("the maps pinned in {path} have layout version {found} and this svclb reads {ours}; use the svclb that made them", path = .path.display())]
    OtherAbi {
        path: PathBuf,
        found: u32,
        ours: u32,
    },
    #[error("the map {name} pinned in {path} cannot be read: {source}; svclb must be root", path = .path.display())]
    Map {
        path: PathBuf,
        name: &'static str,
        source: io::Error,
    },
}

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
        let meta = Self::meta(&pins)?.ok_or_else(|| PinnedError::Nothing(pin_dir.to_owned()))?;
        if meta.magic != MAGIC || meta.abi_version != ABI_VERSION {
            return Err(PinnedError::OtherAbi {
                path: pin_dir.to_owned(),
                found: meta.abi_version,
                ours: ABI_VERSION,
            });
        }
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

    /// The layout version of the pins; `None` if there are none.
    pub(crate) fn meta(pins: &Pins) -> Result<Option<Meta>, PinnedError> {
        let failed = |source| PinnedError::Map {
            path: pins.dir().to_owned(),
            name: names::META,
            source,
        };
        let map = match Map::open(&pins.map(names::META)) {
            Ok(map) => map,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut buffer = vec![0; map.value_size.max(size_of::<Meta>())];
        map.lookup(sys::bytes(&0_u32), &mut buffer)
            .map_err(failed)?;
        sys::value(&buffer).map(Some).map_err(failed)
    }

    /// The planned maps.
    ///
    /// # Errors
    /// What the system said.
    pub fn snapshot(&self) -> io::Result<Snapshot> {
        self.planned.read()
    }

    /// The flows from outside.
    ///
    /// # Errors
    /// What the system said.
    pub fn flows(&self) -> io::Result<Vec<Flow>> {
        self.flows.list()
    }

    /// How many entries conntrack has: two for each flow, or one of one that is half gone.
    ///
    /// # Errors
    /// What the system said.
    pub fn flow_entries(&self) -> io::Result<usize> {
        self.flows.entries()
    }

    /// All affinity entries, also those whose time is over.
    ///
    /// # Errors
    /// What the system said.
    pub fn affinity(&self) -> io::Result<Vec<Affinity>> {
        read_all(&self.affinity)
    }

    /// The TCP sockets that hold a place in `PEERS`: cookie and translation.
    ///
    /// # Errors
    /// What the system said.
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
    /// What the system said.
    pub fn counters(&self) -> io::Result<Vec<(Counter, u64)>> {
        let mut buffer = vec![0; 8 * possible_cpus()];
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

/// How many CPUs a per-CPU map has values for.
fn possible_cpus() -> usize {
    std::fs::read_to_string("/sys/devices/system/cpu/possible")
        .ok()
        .and_then(|text| text.trim().rsplit(['-', ',']).next()?.parse::<usize>().ok())
        .map_or(1, |highest| highest + 1)
}
