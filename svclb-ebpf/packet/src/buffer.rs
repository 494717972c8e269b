//! A frame in a buffer of the host, for tests: it does with plain memory what the kernel's helpers
//! do with a frame.

use core::cell::Cell;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::checksum;
use crate::frame::{Frame, TransportChecksum};
use crate::headers::{ETHERNET, ETHERNET_TYPE, IPV4, IPV6};

/// The largest value that [`Buffer`] reads or writes at once, in bytes.
const LARGEST: usize = 64;

/// A frame at the end of a buffer, with room in front of it for [`Frame::grow`]. Its network header is
/// `NETWORK` bytes into it.
#[derive(Debug)]
pub struct Buffer<'a, const XDP: bool, const NETWORK: u32 = ETHERNET> {
    bytes: &'a [Cell<u8>],
    start: Cell<usize>,
    end: Cell<usize>,
    sum: Cell<u32>,
}

impl<'a, const XDP: bool, const NETWORK: u32> Buffer<'a, XDP, NETWORK> {
    /// The frame that begins `headroom` bytes into a buffer, and ends with it.
    pub fn new(bytes: &'a mut [u8], headroom: usize) -> Self {
        let bytes = Cell::from_mut(bytes).as_slice_of_cells();
        Self {
            bytes,
            start: Cell::new(headroom.min(bytes.len())),
            end: Cell::new(bytes.len()),
            sum: Cell::new(0),
        }
    }

    /// Where in the buffer the frame begins and ends by now.
    pub fn range(&self) -> core::ops::Range<usize> {
        self.start.get()..self.end.get()
    }

    /// By how much a sum of the whole packet was changed that the kernel held (`CHECKSUM_COMPLETE`).
    pub fn sum_change(&self) -> u32 {
        self.sum.get()
    }

    fn at(&self, offset: u32, length: usize) -> Option<&[Cell<u8>]> {
        self.bytes
            .get(self.range())?
            .get(usize::try_from(offset).ok()?..)?
            .get(..length)
    }
}

impl<const XDP: bool, const NETWORK: u32> Frame for Buffer<'_, XDP, NETWORK> {
    const IS_XDP: bool = XDP;
    const NETWORK: u32 = NETWORK;

    fn ethertype(&self) -> Option<u16> {
        if NETWORK == 0 {
            // The kernel knows it of such a device's packets; it is the version that they begin with.
            return match self.load::<u8>(0)? >> 4 {
                4 => Some(IPV4),
                6 => Some(IPV6),
                _ => None,
            };
        }
        self.load(ETHERNET_TYPE)
    }

    fn len(&self) -> u32 {
        u32::try_from(self.range().len()).unwrap_or(u32::MAX)
    }

    fn segment(&self) -> u32 {
        0
    }

    fn is_for_this_node(&self) -> bool {
        true
    }

    fn load_linear<T: FromBytes>(&self, offset: u32) -> Option<T> {
        self.load(offset)
    }

    fn load<T: FromBytes>(&self, offset: u32) -> Option<T> {
        let mut copy = [0; LARGEST];
        let copy = copy.get_mut(..size_of::<T>())?;
        let cells = self.at(offset, copy.len())?;
        for (copy, cell) in copy.iter_mut().zip(cells) {
            *copy = cell.get();
        }
        T::read_from_bytes(copy).ok()
    }

    fn store<T: IntoBytes + Immutable>(&self, offset: u32, value: T) -> Option<()> {
        let new = value.as_bytes();
        for (cell, new) in self.at(offset, new.len())?.iter().zip(new) {
            cell.set(*new);
        }
        Some(())
    }

    fn correct_header(&self, offset: u32, change: u32) -> Option<()> {
        let field = self.load::<u16>(offset)?;
        self.store(offset, checksum::apply(field, change))
    }

    fn correct_transport(&self, field: TransportChecksum, addresses: u32, rest: u32) -> Option<()> {
        let known = self.load::<u16>(field.at)?;
        let change = checksum::add(addresses, rest);
        if field.is_v4 {
            // The header's checksum makes up for the addresses, so this field is what changes the sum.
            self.correct_sum(!addresses);
        }
        self.store(
            field.at,
            checksum::apply_transport(known, change, field.is_udp),
        )
    }

    fn correct_sum(&self, change: u32) {
        self.sum.set(checksum::add(self.sum.get(), change));
    }

    fn cut(&self, length: u32) -> Option<()> {
        let end = self
            .start
            .get()
            .checked_add(usize::try_from(length).ok()?)?;
        if XDP || end > self.bytes.len() {
            return None;
        }
        self.end.set(end);
        Some(())
    }

    fn grow(&self, more: u32) -> Option<()> {
        if XDP {
            return None;
        }
        let link = self.at(0, usize::try_from(NETWORK).ok()?)?;
        let start = self.start.get().checked_sub(usize::try_from(more).ok()?)?;
        let moved = self.bytes.get(start..)?;
        for (to, from) in moved.iter().zip(link) {
            to.set(from.get());
        }
        self.start.set(start);
        Some(())
    }
}
