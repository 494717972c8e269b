//! `PORTS`: by which a packet program sees in one look-up that a frame is of no Service.
//!
//! A bit stands before anything that needs it, and is taken away only at a start, when
//! everything that could still need it is in the maps.

use std::io;

use svclb_common::{
    FlowKey, FlowValue, FrontendFlags, FrontendKey, FrontendValue, Hook, PortBe, maps as names,
};
use svclb_core::apply::Snapshot;
use svclb_core::op::Op;

use super::read::read_all;
use crate::pins::Pins;
use crate::source_ports::PortRange;
use crate::sys::{self, Map};

type Words = Vec<u64>;

/// The only writer of `PORTS`.
#[derive(Debug)]
pub(crate) struct PortBits {
    map: Map,
    flows: Map,
    /// What the map holds.
    words: Words,
    source_ports: PortRange,
    /// Whether packets from outside may reach cluster IPs.
    cluster_ips: bool,
    /// Bits that are no longer needed were cleared.
    is_tidy: bool,
}

impl PortBits {
    pub(crate) fn open(
        pins: &Pins,
        source_ports: PortRange,
        cluster_ips: bool,
    ) -> io::Result<Self> {
        let map = Map::open(&pins.map(names::PORTS))?;
        let mut words = no_words();
        for (index, word) in read_all::<u32, u64>(&map)? {
            if let Some(known) = words.get_mut(index as usize) {
                *known = word;
            }
        }
        Ok(Self {
            map,
            flows: Map::open(&pins.map(names::FLOWS))?,
            words,
            source_ports,
            cluster_ips,
            is_tidy: false,
        })
    }

    /// Sets what these operations will need.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn prepare(&mut self, ops: &[Op]) -> io::Result<()> {
        let mut wanted = None;
        for op in ops {
            let needed = match op {
                Op::PutFrontend(key, value) => self.of_frontend(key, value),
                Op::PutSlot(_, slot) => Some((Hook::EGRESS, slot.port)),
                _ => None,
            };
            if let Some((hook, port)) = needed
                && !has(&self.words, hook, port)
            {
                set(wanted.get_or_insert_with(|| self.words.clone()), hook, port);
            }
        }
        match wanted {
            Some(wanted) => self.write(wanted),
            None => Ok(()),
        }
    }

    /// Sets what the maps' contents need; the first time it takes away what they do not.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn follow(&mut self, maps: &Snapshot) -> io::Result<()> {
        let mut wanted = no_words();
        let [first, last] = self.source_ports.ends();
        for port in first..=last {
            set(&mut wanted, Hook::INGRESS, PortBe::new(port));
        }
        for (key, value) in &maps.frontends {
            if let Some((hook, port)) = self.of_frontend(key, value) {
                set(&mut wanted, hook, port);
            }
        }
        for (_, slot) in &maps.slots {
            set(&mut wanted, Hook::EGRESS, slot.port);
        }
        if self.is_tidy {
            for (word, known) in wanted.iter_mut().zip(&self.words) {
                *word |= known;
            }
        } else {
            // Flows outlive their Services. None is opened at a port without a frontend.
            for (key, _) in read_all::<FlowKey, FlowValue>(&self.flows)? {
                let port = match key.hook {
                    Hook::EGRESS => key.tuple.src_port,
                    _ => key.tuple.dst_port,
                };
                set(&mut wanted, key.hook, port);
            }
        }
        self.write(wanted)?;
        self.is_tidy = true;
        Ok(())
    }

    fn of_frontend(&self, key: &FrontendKey, value: &FrontendValue) -> Option<(Hook, PortBe)> {
        let is_inside = value.flags.contains(FrontendFlags::CLUSTER_IP) && !self.cluster_ips;
        (!is_inside && !key.is_other_ports()).then_some((Hook::INGRESS, key.port))
    }

    fn write(&mut self, wanted: Words) -> io::Result<()> {
        for ((index, word), known) in (0_u32..).zip(&wanted).zip(&mut self.words) {
            if word != known {
                self.map.update(sys::bytes(&index), sys::bytes(word))?;
                *known = *word;
            }
        }
        Ok(())
    }
}

fn no_words() -> Words {
    vec![0; names::PORTS_LEN as usize]
}

fn has(words: &Words, hook: Hook, port: PortBe) -> bool {
    let (index, bit) = hook.bit_of(port);
    words
        .get(index as usize)
        .is_some_and(|word| word & bit != 0)
}

fn set(words: &mut Words, hook: Hook, port: PortBe) {
    let (index, bit) = hook.bit_of(port);
    if let Some(word) = words.get_mut(index as usize) {
        *word |= bit;
    }
}
