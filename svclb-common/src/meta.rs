//! The version of the contract.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The version of all layouts in this crate together. An agent that finds pinned maps of
/// another version makes its own beside them, and never guesses: a change of a layout counts
/// this up, and is written down in [`SINCE`](crate::maps::SINCE).
pub const ABI_VERSION: u32 = if cfg!(feature = "next-layout") { 5 } else { 4 };

/// First word of [`Meta`]: "svlb" in memory.
pub const MAGIC: u32 = u32::from_ne_bytes(*b"svlb");

/// The only value of `META`: 12 bytes.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Meta {
    /// [`MAGIC`], or zero in a map that was just made.
    pub magic: u32,
    /// [`ABI_VERSION`] of the agent that made the maps.
    pub abi_version: u32,
    /// The first and the last of the source ports that the attached programs choose from; zero
    /// before any is attached. Earlier agents wrote what they were to reserve.
    pub source_ports: [u16; 2],
}

impl Meta {
    /// What this version writes.
    pub const CURRENT: Self = Self {
        magic: MAGIC,
        abi_version: ABI_VERSION,
        source_ports: [0; 2],
    };
}
