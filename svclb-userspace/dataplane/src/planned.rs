//! The planned maps in the kernel, as both their writer and their readers open them.

use std::io;

use svclb_common::maps as names;
use svclb_core::apply::Snapshot;
use zerocopy::FromBytes;

use crate::pins::Pins;
use crate::sys::{self, Map};

/// The maps that the agent plans.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) frontends: Map,
    pub(crate) slots: Map,
    pub(crate) sources: Map,
    pub(crate) backends: Map,
    pub(crate) services: Map,
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
        })
    }
}

/// How many elements are read at once; a hash bucket longer than this is refused.
const BATCH: usize = 4096;

/// Every element of a hash map or an array, in no order.
pub(crate) fn read_all<K: FromBytes, V: FromBytes>(map: &Map) -> io::Result<Vec<(K, V)>> {
    let mut keys = vec![0; BATCH * map.key_size];
    let mut values = vec![0; BATCH * map.value_size];
    let mut all = Vec::new();
    let mut position = None;
    loop {
        let (count, more) = match map.lookup_batch(&mut position, &mut keys, &mut values, BATCH) {
            Ok(read) => read,
            Err(_) if position.is_none() => return read_singly(map),
            Err(error) => return Err(error),
        };
        let elements = keys
            .chunks_exact(map.key_size)
            .zip(values.chunks_exact(map.value_size))
            .take(count);
        for (key, value) in elements {
            all.push((sys::value(key)?, sys::value(value)?));
        }
        if !more {
            return Ok(all);
        }
    }
}

/// Where the kernel has no batches for the map.
fn read_singly<K: FromBytes, V: FromBytes>(map: &Map) -> io::Result<Vec<(K, V)>> {
    let mut all = Vec::new();
    let mut key = vec![0; map.key_size];
    let mut next = key.clone();
    let mut value = vec![0; map.value_size];
    let mut more = map.next_key(None, &mut next)?;
    while more {
        key.copy_from_slice(&next);
        if map.lookup(&key, &mut value)? {
            all.push((sys::value(&key)?, sys::value(&value)?));
        }
        more = map.next_key(Some(&key), &mut next)?;
    }
    Ok(all)
}
