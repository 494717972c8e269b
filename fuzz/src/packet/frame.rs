//! What the parser needs of a frame: the kernel half's trait of this name has more.

use super::parse::Packet;

/// The length of the link header.
pub(super) const ETHERNET: u32 = 14;

/// What the programs find where they put a packet at first: zeroes.
pub(super) fn nothing() -> Packet {
    // SAFETY: integers, booleans and an enumeration whose first variant is zero.
    unsafe { std::mem::zeroed() }
}

pub(super) trait Frame {
    const IS_XDP: bool;
    fn is_ours(&self) -> bool;
    fn len(&self) -> u32;
    fn load<T: Copy>(&self, offset: u32) -> Option<T>;
}

/// A frame as one of the hooks sees it.
pub(super) struct Bytes<'a, const XDP: bool>(pub(super) &'a [u8]);

impl<const XDP: bool> Frame for Bytes<'_, XDP> {
    const IS_XDP: bool = XDP;

    fn is_ours(&self) -> bool {
        true
    }

    fn len(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    fn load<T: Copy>(&self, offset: u32) -> Option<T> {
        let bytes = self.0.get(offset as usize..)?.get(..size_of::<T>())?;
        // SAFETY: so many bytes are there, at any alignment. The parser asks for integers, arrays
        // of them and structures of nothing else, for which all bytes are values.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }
}
