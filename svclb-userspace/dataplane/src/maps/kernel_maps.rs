//! The only writer of the planned maps.

use std::io;
use std::sync::Arc;

use svclb_common::maps as names;
use svclb_core::apply::{Failure, Maps, Snapshot};
use svclb_core::op::Op;
use svclb_core::ports::{PortBit, PortSet};

use super::planned::Planned;
use super::ports;
use crate::pins::Pins;
use crate::sys::{self, BatchEnd, Map, WaitingMap};

/// The most elements in one batch: the kernel copies them one by one and yields between.
const BATCH: usize = 4096;

/// The planned maps in the kernel.
#[derive(Debug)]
pub struct KernelMaps {
    planned: Planned,
    flows: Map,
    /// Bits that new flows of programs that an earlier agent attached need.
    kept: Vec<PortBit>,
    grace: GracePeriod,
    keys: Vec<u8>,
    values: Vec<u8>,
}

/// Waits for running programs. May be cloned and used on another thread.
#[derive(Clone, Debug)]
pub struct GracePeriod(Arc<WaitingMap>);

impl GracePeriod {
    /// Returns when every program that was running has finished; some milliseconds.
    ///
    /// # Errors
    /// The system's error; then nothing may be assumed.
    pub fn wait(&self) -> io::Result<()> {
        self.0.wait()
    }
}

impl KernelMaps {
    pub(crate) fn open(pins: &Pins, kept: Vec<PortBit>) -> io::Result<Self> {
        Ok(Self {
            planned: Planned::open(pins)?,
            flows: Map::open(&pins.map(names::FLOWS))?,
            kept,
            grace: GracePeriod(Arc::new(WaitingMap::new()?)),
            keys: Vec::new(),
            values: Vec::new(),
        })
    }

    /// The waiting, for another thread.
    pub fn grace(&self) -> GracePeriod {
        self.grace.clone()
    }

    fn map_of(&self, op: &Op) -> (&'static str, &Map) {
        let maps = &self.planned;
        match op {
            Op::PutFrontend(..) | Op::DeleteFrontend(_) => (names::FRONTENDS, &maps.frontends),
            Op::PutSlot(..) | Op::DeleteSlot(_) => (names::SLOTS, &maps.slots),
            Op::PutSource(_) | Op::DeleteSource(_) => (names::SOURCES, &maps.sources),
            Op::PutBackend(..) | Op::DeleteBackend(_) => (names::BACKENDS, &maps.backends),
            Op::PutService(..) | Op::DeleteService(_) => (names::SERVICES, &maps.services),
            Op::SetPort(_) | Op::ClearPort(_) => (names::PORTS, &maps.ports),
        }
    }

    /// Spells operations out as keys and values; those of `PORTS` change parts of a value.
    fn spell(&mut self, ops: &[Op]) {
        let (keys, values) = (&mut self.keys, &mut self.values);
        keys.clear();
        values.clear();
        for op in ops {
            match op {
                Op::PutService(id, record) => {
                    keys.extend(sys::bytes(id));
                    values.extend(sys::bytes(&**record));
                }
                Op::PutBackend(id, value) => {
                    keys.extend(sys::bytes(id));
                    values.extend(sys::bytes(value));
                }
                Op::PutSlot(key, value) => {
                    keys.extend(sys::bytes(key));
                    values.extend(sys::bytes(value));
                }
                Op::PutSource(key) => {
                    keys.extend(sys::bytes(key));
                    values.extend(sys::bytes(&1_u32));
                }
                Op::PutFrontend(key, value) => {
                    keys.extend(sys::bytes(key));
                    values.extend(sys::bytes(value));
                }
                Op::DeleteFrontend(key) => keys.extend(sys::bytes(key)),
                Op::DeleteSlot(key) => keys.extend(sys::bytes(key)),
                Op::DeleteSource(key) => keys.extend(sys::bytes(key)),
                Op::DeleteBackend(id) => keys.extend(sys::bytes(id)),
                Op::DeleteService(id) => keys.extend(sys::bytes(id)),
                Op::SetPort(_) | Op::ClearPort(_) => {}
            }
        }
    }

    /// Performs operations that are all puts, or all deletes, on one map; returns how
    /// many, and why no more.
    fn perform_batch(&mut self, ops: &[Op]) -> Result<(), Failure> {
        let Some(first) = ops.first() else {
            return Ok(());
        };
        if matches!(first, Op::SetPort(_) | Op::ClearPort(_)) {
            return ports::perform(&self.planned.ports, ops).map_err(|(done, source)| Failure {
                done,
                map: names::PORTS,
                full: false,
                source,
            });
        }
        self.spell(ops);
        let (name, map) = self.map_of(first);
        let deletes = self.values.is_empty();
        let mut done = 0;
        while done < ops.len() {
            let keys = self.keys.get(done * map.key_size..).unwrap_or_default();
            let values = self.values.get(done * map.value_size..).unwrap_or_default();
            let left = ops.len() - done;
            let end = if deletes {
                map.delete_batch(keys, left)
            } else {
                map.update_batch(keys, values, left)
            };
            let BatchEnd { done: more, error } = end;
            done += more;
            let Some(_) = error else { break };
            // The element that stopped the batch, alone: its error says what is wrong with it,
            // and it works where the kernel has no batches for the map.
            let at = |buffer: &[u8], size: usize, from: usize| {
                buffer
                    .get(from * size..(from + 1) * size)
                    .unwrap_or_default()
                    .to_vec()
            };
            let key = at(&self.keys, map.key_size, done);
            let result = if deletes {
                match map.delete(&key) {
                    Err(error) if error.raw_os_error() == Some(2) => Ok(()),
                    other => other,
                }
            } else {
                map.update(&key, &at(&self.values, map.value_size, done))
            };
            if let Err(source) = result {
                return Err(Failure {
                    done,
                    map: name,
                    full: is_full(&source),
                    source,
                });
            }
            done += 1;
        }
        Ok(())
    }
}

/// Whether a map refused an element for want of room: E2BIG from a hash map at its limit,
/// ENOMEM where the memory is short.
fn is_full(error: &io::Error) -> bool {
    const ENOMEM: i32 = 12;
    const E2BIG: i32 = 7;
    const ENOSPC: i32 = 28;
    matches!(error.raw_os_error(), Some(ENOMEM | E2BIG | ENOSPC))
}

impl Maps for KernelMaps {
    fn perform(&mut self, ops: &[Op]) -> Result<(), Failure> {
        let mut before = 0;
        for chunk in ops.chunks(BATCH) {
            self.perform_batch(chunk).map_err(|failure| Failure {
                done: before + failure.done,
                ..failure
            })?;
            before += chunk.len();
        }
        Ok(())
    }

    fn grace_period(&mut self) -> io::Result<()> {
        self.grace.wait()
    }

    fn snapshot(&mut self) -> io::Result<Snapshot> {
        self.planned.read()
    }

    fn flow_ports(&mut self) -> io::Result<PortSet> {
        let mut needed = ports::of_flows(&self.flows)?;
        needed.extend(self.kept.iter().copied());
        Ok(needed)
    }
}
