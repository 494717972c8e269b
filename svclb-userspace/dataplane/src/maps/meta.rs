//! `META`: the layout version of the pinned maps.

use std::io;

use svclb_common::{ABI_VERSION, MAGIC, Meta, maps as names};

use crate::error::PinnedError;
use crate::pins::Pins;
use crate::source_ports::PortRange;
use crate::sys::{self, Map};

/// The value of `META`; `None` if nothing is pinned.
///
/// # Errors
/// [`PinnedError::Map`].
pub(crate) fn read(pins: &Pins) -> Result<Option<Meta>, PinnedError> {
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

/// The source ports that attached programs choose from; `None` if no agent attached any.
pub(crate) const fn source_ports(meta: &Meta) -> Option<PortRange> {
    let [first, last] = meta.source_ports;
    PortRange::new(first, last)
}

/// Checks that maps are pinned, in the layout of this version.
///
/// # Errors
/// [`PinnedError`].
pub(crate) fn check(pins: &Pins) -> Result<(), PinnedError> {
    let meta = read(pins)?.ok_or_else(|| PinnedError::Nothing(pins.dir().to_owned()))?;
    if meta.magic != MAGIC || meta.abi_version != ABI_VERSION {
        return Err(PinnedError::OtherAbi {
            path: pins.dir().to_owned(),
            found: meta.abi_version,
            ours: ABI_VERSION,
        });
    }
    Ok(())
}

/// Writes the layout version of this program, and the source ports that attached programs choose
/// from.
///
/// # Errors
/// The system's error.
pub(crate) fn write(pins: &Pins, source_ports: Option<PortRange>) -> io::Result<()> {
    let meta = Meta {
        source_ports: source_ports.map_or([0; 2], PortRange::ends),
        ..Meta::CURRENT
    };
    Map::open(&pins.map(names::META))?.update(sys::bytes(&0_u32), sys::bytes(&meta))
}
