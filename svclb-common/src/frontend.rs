//! What a Service address leads to: frontends, slots and backends.
//!
//! A reader makes two lookups. The first, in `FRONTENDS`, gives a service id, a
//! generation and two ranges of slots; the second, in `SLOTS`, gives the backend. All
//! slots of a generation are written before the frontend names that generation, and they
//! go only when no program can still be between the two lookups.

use core::fmt;
use core::net::SocketAddr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::{Addr16, PortBe, Proto, socket_addr};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default,
            FromBytes, IntoBytes, Immutable, KnownLayout,
        )]
        pub struct $name(u32);

        impl $name {
            /// From its number.
            #[inline(always)]
            pub const fn new(number: u32) -> Self {
                Self(number)
            }

            /// Its number.
            #[inline(always)]
            pub const fn get(self) -> u32 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

number!(
    /// The id of one port of one Service in one address family. Never zero.
    ServiceId, "s"
);
number!(
    /// The id of a backend (address, port, protocol), shared by all Services that use
    /// it and stable over updates and restarts. Never zero.
    BackendId, "b"
);
number!(
    /// Which set of slots of a service is meant. Counts up and wraps.
    Generation, "g"
);

impl Generation {
    /// The generation of a service without any slot; no row ever carries it.
    pub const EMPTY: Self = Self(0);
}

/// Which clients a frontend serves. Part of the key, so that one address and port can mean
/// different things to different clients.
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
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Debug,
)]
pub struct Scope(u8);

impl Scope {
    /// Every client that may reach the address.
    pub const ANY: Self = Self(0);
    /// Sockets of the node's own network namespace: its NodePorts at a loopback address.
    pub const HOST: Self = Self(1);
    /// None: the node has the cluster IP on a device, and serves it by itself, as a DNS cache does. No
    /// program looks this scope up; it is there to be shown.
    pub const BYPASSED: Self = Self(2);

    /// The number in the key.
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// Key of `FRONTENDS`: 20 bytes.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct FrontendKey {
    /// The address that clients connect to.
    pub addr: Addr16,
    /// The port that clients connect to.
    pub port: PortBe,
    /// TCP and UDP may share a number.
    pub proto: Proto,
    /// Which clients it serves.
    pub scope: Scope,
}

impl FrontendKey {
    /// The frontend of the address that a socket uses: every loopback address is one, and
    /// only the node's own sockets mean the node by it.
    #[inline(always)]
    pub const fn of_socket(addr: Addr16, port: PortBe, proto: Proto) -> Self {
        let (addr, scope) = if addr.is_loopback() {
            (addr.canonical_loopback(), Scope::HOST)
        } else {
            (addr, Scope::ANY)
        };
        Self {
            addr,
            port,
            proto,
            scope,
        }
    }

    /// The frontend of every port and protocol of an address that no other frontend of it
    /// serves. It leads nowhere: a port that a Service doesn't have is refused.
    #[inline(always)]
    pub const fn other_ports(addr: Addr16, scope: Scope) -> Self {
        Self {
            addr,
            port: PortBe::new(0),
            proto: Proto::ANY,
            scope,
        }
    }

    /// Whether this is the frontend of an address's other ports.
    pub const fn is_other_ports(&self) -> bool {
        self.proto.number() == Proto::ANY.number()
    }

    /// The address and port together.
    pub fn socket_addr(&self) -> SocketAddr {
        socket_addr(self.addr, self.port)
    }
}

impl fmt::Display for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_other_ports() {
            return write!(f, "other ports of {}", self.addr);
        }
        write!(f, "{}/{}", self.socket_addr(), self.proto)
    }
}

impl fmt::Debug for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A run of slots: positions `first .. first + count` of a generation.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct SlotRange {
    /// The first position.
    pub first: u32,
    /// How many. Zero means that the Service is refused.
    pub count: u32,
}

impl SlotRange {
    /// Whether `position` lies in the range.
    #[inline(always)]
    pub const fn contains(self, position: u32) -> bool {
        position.wrapping_sub(self.first) < self.count
    }
}

/// Facts about a frontend that are yes or no, as bits.
#[repr(transparent)]
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct FrontendFlags(u32);

impl FrontendFlags {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// The generation has member rows ([`SlotIndex::member`]).
    pub const MEMBERS: Self = Self(1);
    /// A client outside for whom there is no slot is dropped, not refused: other nodes have
    /// endpoints, and a balancer finds them by its time-out (`externalTrafficPolicy: Local`).
    pub const DROPS_OUTSIDE: Self = Self(2);
    /// A cluster IP, which packets from outside reach only where the operator allows it.
    pub const CLUSTER_IP: Self = Self(4);
    /// A NodePort.
    pub const NODE_PORT: Self = Self(8);
    /// For clients of the generation's source ranges alone.
    pub const SOURCE_RANGES: Self = Self(16);
    /// Backends on this node, too, see an address of the node and not their client's
    /// (`--local-source masquerade`).
    pub const MASQUERADE: Self = Self(64);
    /// At an address that the node itself has, as NodePorts are: of a packet that is of no flow the kernel
    /// may know more.
    pub const NODE_ADDRESS: Self = Self(128);

    /// Whether all bits of `other` are set.
    #[inline(always)]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[inline(always)]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Value of `FRONTENDS`: 32 bytes, replaced as a whole (a hash element is never edited in
/// place by an update), so that a reader has one generation with its own ranges.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct FrontendValue {
    /// Whose slots to look in.
    pub service: ServiceId,
    /// Which set of them.
    pub generation: Generation,
    /// The slots for clients inside the cluster (`internalTrafficPolicy`).
    pub internal: SlotRange,
    /// The slots for clients outside (`externalTrafficPolicy`).
    pub external: SlotRange,
    /// `sessionAffinityConfig.clientIP.timeoutSeconds`, in seconds; zero is no affinity.
    pub affinity_seconds: u32,
    /// Yes-or-no facts.
    pub flags: FrontendFlags,
    /// What the next version has, for tests of upgrades.
    #[cfg(feature = "next-layout")]
    pub next: [u32; 4],
}

/// Where in a generation: a position, or the row of a certain backend.
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
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct SlotIndex(u32);

impl SlotIndex {
    /// Set in the index of a member row. Positions and backend ids stay below it.
    pub const MEMBER_BIT: u32 = 1 << 31;

    /// The slot at a position; what a random choice looks up.
    #[inline(always)]
    pub const fn position(position: u32) -> Self {
        Self(position & !Self::MEMBER_BIT)
    }

    /// The slot of a backend; what a client that was here before looks up. Present where
    /// [`FrontendFlags::MEMBERS`] is set. A hit proves that the backend still belongs to
    /// this generation, and its [`SlotValue::position`] tells whether the client's
    /// policy allows it.
    #[inline(always)]
    pub const fn member(backend: BackendId) -> Self {
        Self(backend.get() | Self::MEMBER_BIT)
    }

    /// The raw index.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The backend of a member row.
    pub const fn as_member(self) -> Option<BackendId> {
        if self.0 & Self::MEMBER_BIT == 0 {
            None
        } else {
            Some(BackendId::new(self.0 & !Self::MEMBER_BIT))
        }
    }
}

impl fmt::Debug for SlotIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_member() {
            Some(backend) => backend.fmt(f),
            None => write!(f, "#{}", self.0),
        }
    }
}

/// Key of `SLOTS`: 12 bytes.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct SlotKey {
    /// Whose slot.
    pub service: ServiceId,
    /// Of which set.
    pub generation: Generation,
    /// Which one.
    pub index: SlotIndex,
}

impl fmt::Debug for SlotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{:?}", self.service, self.generation, self.index)
    }
}

/// Where a backend is.
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
pub struct Locality(u8);

impl Locality {
    /// On another node, or outside the cluster.
    pub const REMOTE: Self = Self(0);
    /// On this node (`EndpointSlice.endpoints[].nodeName`): packets reach it, and its replies
    /// come back, through this node alone.
    pub const LOCAL: Self = Self(1);

    /// Whether it is on this node.
    #[inline(always)]
    pub const fn is_local(self) -> bool {
        self.0 == Self::LOCAL.0
    }
}

/// Value of `SLOTS`: 28 bytes. Holds the backend's address itself, so that a connect
/// costs no third lookup.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct SlotValue {
    /// The backend's address.
    pub addr: Addr16,
    /// The backend's id.
    pub backend: BackendId,
    /// The position of this slot (also in a member row).
    pub position: u32,
    /// The backend's port.
    pub port: PortBe,
    /// Where the backend is.
    pub locality: Locality,
    /// Always zero.
    pub reserved: u8,
}

/// Value of `BACKENDS`, keyed by [`BackendId`]: 20 bytes. A row stays in quarantine
/// after the last slot that names it: while it stands, its id is taken.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct BackendValue {
    /// The backend's address.
    pub addr: Addr16,
    /// The backend's port.
    pub port: PortBe,
    /// The backend's protocol.
    pub proto: Proto,
    /// Where it is.
    pub locality: Locality,
}

impl BackendValue {
    /// A backend that is elsewhere.
    pub const fn new(addr: Addr16, port: PortBe, proto: Proto) -> Self {
        Self {
            addr,
            port,
            proto,
            locality: Locality::REMOTE,
        }
    }

    /// The same backend at a place.
    pub const fn at(self, locality: Locality) -> Self {
        Self { locality, ..self }
    }

    /// The address and port together.
    pub fn socket_addr(&self) -> SocketAddr {
        socket_addr(self.addr, self.port)
    }
}

impl fmt::Debug for BackendValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.socket_addr(), self.proto)
    }
}

const _: () = {
    use core::mem::{align_of, size_of};
    assert!(size_of::<FrontendKey>() == 20 && align_of::<FrontendKey>() == 4);
    assert!(
        size_of::<FrontendValue>()
            == if cfg!(feature = "next-layout") {
                48
            } else {
                32
            }
    );
    assert!(size_of::<SlotKey>() == 12);
    assert!(size_of::<SlotValue>() == 28);
    assert!(size_of::<BackendValue>() == 20);
};
