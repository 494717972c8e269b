//! `PORTS`, by which a packet program passes over frames whose port is no Service's. Which bits
//! there are to be is decided in `svclb_core::ports`.

use std::io;

use svclb_common::{FlowFlags, FlowKey, FlowValue, Hook};
use svclb_core::op::Op;
use svclb_core::ports::{PortBit, PortSet};

use super::read::read_all;
use crate::sys::{self, Map};

/// The bits that are set.
pub(crate) fn read(ports: &Map) -> io::Result<PortSet> {
    Ok(PortSet::of_words(read_all::<u32, u64>(ports)?))
}

/// The bits that flows need: of the ports by which their packets are found. Those that are left to the
/// kernel need none: a packet that is not looked at is left to it as well.
pub(crate) fn of_flows(flows: &Map) -> io::Result<PortSet> {
    let all = read_all::<FlowKey, FlowValue>(flows)?.into_iter();
    let translated = all.filter(|(_, value)| !value.flags.contains(FlowFlags::OWN));
    let mut needed = PortSet::default();
    needed.extend(translated.map(|(key, _)| match key.hook {
        Hook::EGRESS => PortBit::egress(key.tuple.src_port),
        _ => PortBit::ingress(key.tuple.dst_port),
    }));
    Ok(needed)
}

/// Sets and clears bits. Those that follow each other in one word are one write. Operations on
/// other maps are passed over.
///
/// # Errors
/// How many of the operations were performed, and the error of the next one.
pub(crate) fn perform(ports: &Map, ops: &[Op]) -> Result<(), (usize, io::Error)> {
    let mut done = 0;
    for ops in ops.chunk_by(|a, b| word_of(a) == word_of(b)) {
        if let Some(index) = ops.first().and_then(word_of) {
            write_word(ports, index, ops).map_err(|error| (done, error))?;
        }
        done += ops.len();
    }
    Ok(())
}

fn write_word(ports: &Map, index: u32, ops: &[Op]) -> io::Result<()> {
    let mut bytes = [0; size_of::<u64>()];
    ports.lookup(sys::bytes(&index), &mut bytes)?;
    let before = u64::from_ne_bytes(bytes);
    let word = ops.iter().fold(before, |word, op| match op {
        Op::SetPort(bit) => word | bit.place().1,
        Op::ClearPort(bit) => word & !bit.place().1,
        _ => word,
    });
    if word == before {
        return Ok(());
    }
    ports.update(sys::bytes(&index), sys::bytes(&word))
}

const fn word_of(op: &Op) -> Option<u32> {
    match op {
        Op::SetPort(bit) | Op::ClearPort(bit) => Some(bit.place().0),
        _ => None,
    }
}
