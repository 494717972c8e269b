//! Who may use a load balancer's addresses: `spec.loadBalancerSourceRanges`.
//!
//! The ranges belong to a generation, as its slots do: a reader finds those that the frontend's
//! value came with, or none at all, and never a mix of two lists.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::Addr16;
use crate::frontend::{Generation, ServiceId};

/// A range of client addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceRange {
    /// Its first address.
    pub addr: Addr16,
    /// How many of the leading bits of an [`Addr16`] are fixed: 96 more than an IPv4 prefix says.
    pub bits: u32,
}

impl fmt::Display for SourceRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mapped = if self.addr.is_v4() { 96 } else { 0 };
        write!(f, "{}/{}", self.addr, self.bits.saturating_sub(mapped))
    }
}

impl fmt::Debug for SourceRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is matched in `SOURCES`: 24 bytes, from the first bit on.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Source {
    /// Whose range.
    pub service: ServiceId,
    /// Of which set.
    pub generation: Generation,
    /// The client's address.
    pub addr: Addr16,
}

impl Source {
    /// How many bits stand before the address.
    const BEFORE: u32 = 64;
    /// The bits of a whole one: what a reader looks up.
    pub const BITS: u32 = Self::BEFORE + 128;
}

/// Key of `SOURCES`, a longest-prefix trie: 28 bytes (`struct bpf_lpm_trie_key`).
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct SourceKey {
    /// How many of the leading bits of `source` have to match.
    pub bits: u32,
    /// What they are.
    pub source: Source,
}

impl SourceKey {
    /// The key of a range of a generation.
    pub const fn new(service: ServiceId, generation: Generation, range: SourceRange) -> Self {
        Self {
            bits: Source::BEFORE + range.bits,
            source: Source {
                service,
                generation,
                addr: range.addr,
            },
        }
    }

    /// The range.
    pub const fn range(&self) -> SourceRange {
        SourceRange {
            addr: self.source.addr,
            bits: self.bits.saturating_sub(Source::BEFORE),
        }
    }
}

impl fmt::Debug for SourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Source {
            service,
            generation,
            ..
        } = self.source;
        write!(f, "{service}.{generation}.{}", self.range())
    }
}

const _: () = {
    use core::mem::size_of;
    assert!(size_of::<Source>() == 24 && size_of::<SourceKey>() == 28);
};
