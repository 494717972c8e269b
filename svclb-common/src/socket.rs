//! What the socket programs remember: which Service address a socket used, and which
//! backend a client was given before. Written by the kernel half only.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::{Addr16, PortBe};
use crate::frontend::{BackendId, ServiceId};

/// One rewrite of a socket's peer, with both of its ends: 40 bytes.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Translation {
    /// The Service address that the program used.
    pub frontend_addr: Addr16,
    /// The address that the kernel really talks to.
    pub backend_addr: Addr16,
    /// The Service port that the program used.
    pub frontend_port: PortBe,
    /// The port that the kernel really talks to.
    pub backend_port: PortBe,
    /// The backend's id; zero in an empty entry, and where the Service had no endpoint and
    /// the kernel talks to an address that refuses (before Linux 5.18).
    pub backend: BackendId,
}

impl Translation {
    /// Whether its backend is this one.
    #[inline(always)]
    pub fn leads_to(&self, addr: Addr16, port: PortBe) -> bool {
        self.backend_port == port && self.backend_addr == addr
    }

    /// Whether it leads to no backend, but to where the kernel is refused.
    #[inline(always)]
    pub const fn is_refusal(&self) -> bool {
        self.backend.get() == 0
    }

    /// The translation of its backend to itself: of a program that means the backend.
    #[inline(always)]
    pub const fn itself(&self) -> Self {
        Self {
            frontend_addr: self.backend_addr,
            frontend_port: self.backend_port,
            ..*self
        }
    }
}

/// Value of `PEERS`, an array indexed by socket cookie modulo its length: 56 bytes.
///
/// Of the sockets whose cookies share an index, one at a time owns the slot. Cookies are
/// never used twice (Linux 5.4, commit 92acdc58ab11), so a reader that finds its own
/// cookie reads its own translation, and a stale one can do no harm.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct PeerSlot {
    /// The owner's socket cookie.
    pub cookie: u64,
    /// How many sockets hold or try the slot. A socket adds one and owns the slot only if
    /// it then reads one; otherwise it takes its one back and remembers elsewhere. An
    /// addition without a result is all that Linux 5.10 offers: compare-and-exchange came
    /// with 5.12.
    pub acquisitions: u64,
    /// What the owner's peer was.
    pub translation: Translation,
}

/// How many translations one socket's storage holds.
pub const RING_LEN: usize = 16;

/// How many translations of one socket `PEER_OVERFLOW` holds beyond its ring.
pub const OVERFLOW_LEN: u32 = 512;

/// Key of `PEER_OVERFLOW`: 28 bytes of content, 32 in all.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct OverflowKey {
    /// The socket's cookie.
    pub cookie: u64,
    /// The backend's address.
    pub backend_addr: Addr16,
    /// The backend's port.
    pub backend_port: PortBe,
    /// Always zero. Two numbers, for an array would be cleared by a call of `memset`, and before
    /// Linux 6.2 the verifier takes long over the loops of a program with more than one function (it
    /// does not track there which values matter).
    pub reserved: u16,
    /// Always zero.
    pub reserved_word: u32,
}

/// Value of `PEER_OVERFLOW`: a translation that its socket's ring had no more room for,
/// and the key of the one put there before it. The chain is what lets the release of the
/// socket remove them all: 64 bytes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct OverflowValue {
    /// The translation.
    pub translation: Translation,
    /// The backend's address in the next older entry's key.
    pub next_addr: Addr16,
    /// The backend's port in it; zero at the end of the chain.
    pub next_port: PortBe,
    /// Always zero.
    pub reserved: u16,
    /// Always zero.
    pub reserved_word: u32,
}

/// Value of `UDP_TRANSLATIONS` (socket-local storage): the latest translations of one socket, 672 bytes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TranslationRing {
    /// The next entry is written at `written % RING_LEN`; from [`RING_LEN`] on the ring is
    /// full, and what stands there is displaced.
    pub written: u32,
    /// The index of the entry written or used last: looked at first.
    pub latest: u32,
    /// The entries.
    pub entries: [Translation; RING_LEN],
    /// The backend's address in the key of the newest entry in `PEER_OVERFLOW`.
    pub overflow_addr: Addr16,
    /// The backend's port in it; zero if there is none.
    pub overflow_port: PortBe,
    /// Always zero.
    pub reserved: u16,
    /// How many entries in `PEER_OVERFLOW` are this socket's.
    pub overflow_len: u32,
}

/// What identifies a client for session affinity.
#[repr(transparent)]
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Debug,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct ClientKind(u32);

impl ClientKind {
    /// The cookie of the network namespace of the socket (Linux 5.7): a pod has an
    /// address of its own and so a namespace of its own, and at connect time the socket
    /// has no source address yet.
    pub const NETNS: Self = Self(0);
    /// A source address.
    pub const ADDRESS: Self = Self(1);
}

/// Key of `AFFINITY`: 24 bytes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AffinityKey {
    /// The client: an address, or a namespace cookie in the first two words.
    pub client: Addr16,
    /// Which of the two.
    pub kind: ClientKind,
    /// Affinity holds per Service port.
    pub service: ServiceId,
}

impl AffinityKey {
    /// The key of a client outside.
    #[inline(always)]
    pub const fn address(service: ServiceId, client: Addr16) -> Self {
        Self {
            client,
            kind: ClientKind::ADDRESS,
            service,
        }
    }

    /// The key of all sockets in one network namespace.
    #[inline(always)]
    pub const fn netns(service: ServiceId, cookie: u64) -> Self {
        Self {
            client: Addr16::from_words([cookie as u32, (cookie >> 32) as u32, 0, 0]),
            kind: ClientKind::NETNS,
            service,
        }
    }
}

/// Value of `AFFINITY`: 16 bytes.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct AffinityValue {
    /// When the client last opened a connection: nanoseconds of CLOCK_MONOTONIC.
    pub last_used_ns: u64,
    /// The backend that it was given.
    pub backend: BackendId,
    /// Always zero.
    pub reserved: u32,
}

impl AffinityValue {
    /// Whether the entry still binds, `timeout_seconds` after the last new connection.
    #[inline(always)]
    pub const fn holds(&self, now_ns: u64, timeout_seconds: u32) -> bool {
        const NS_PER_SECOND: u64 = 1_000_000_000;
        now_ns.wrapping_sub(self.last_used_ns) < timeout_seconds as u64 * NS_PER_SECOND
    }
}

const _: () = {
    use core::mem::size_of;
    assert!(size_of::<Translation>() == 40);
    assert!(size_of::<PeerSlot>() == 56);
    assert!(size_of::<TranslationRing>() == 32 + 40 * RING_LEN);
    assert!(size_of::<OverflowKey>() == 32);
    assert!(size_of::<OverflowValue>() == 64);
    assert!(size_of::<AffinityKey>() == 24);
    assert!(size_of::<AffinityValue>() == 16);
    assert!(RING_LEN.is_power_of_two());
};
