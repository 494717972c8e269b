//! What the packet programs remember of a flow: conntrack.
//!
//! A flow is two entries, one for each direction, each found by the addresses that its packets come
//! with and holding those that they leave with. Turning an entry's new addresses round gives the
//! other one's key, so neither needs a pointer to the other.
//!
//! Where the kernel forwards, a connection has one or two such pairs. As it comes in it is given its
//! backend (the destination); the reply is given the Service's address back as it leaves:
//!
//! ```text
//! ingress  client → frontend      becomes  client → backend
//! egress   backend → client       becomes  frontend → client
//! ```
//!
//! Where it leaves by a device that is not a pod's, it is given the node's address (the source); the
//! reply is given the client's address back as it comes in ([`FlowFlags::MASQUERADED`]):
//!
//! ```text
//! egress   client → backend       becomes  node → backend
//! ingress  backend → node         becomes  backend → client
//! ```
//!
//! A flow that the programs forward themselves ([`FlowFlags::FORWARDED`]) is one pair, translated at
//! once: client → frontend becomes node → backend at ingress, and back likewise.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::{Addr16, PortBe, Proto};
use crate::frontend::{BackendId, ServiceId};

/// Where packets of a direction are translated.
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
pub struct Hook(u8);

impl Hook {
    /// As they come in.
    pub const INGRESS: Self = Self(0);
    /// As they go out: sources are translated here. Any earlier, packets would be from an address
    /// of the node and come in from elsewhere, which the kernel drops as martian.
    pub const EGRESS: Self = Self(1);

    /// Where in `PORTS` a port stands: the word's index, and the bit in it. At ingress it is the
    /// port of a frontend, or a source port that the node gives to flows; at egress that of a
    /// backend.
    #[inline(always)]
    pub const fn bit_of(self, port: PortBe) -> (u32, u64) {
        let port = port.get() as u32;
        ((self.0 as u32) << 10 | port >> 6, 1 << (port & 63))
    }
}

/// Source and destination of a packet.
#[repr(C)]
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
pub struct Tuple {
    /// Source address.
    pub src: Addr16,
    /// Destination address.
    pub dst: Addr16,
    /// Source port.
    pub src_port: PortBe,
    /// Destination port.
    pub dst_port: PortBe,
}

impl Tuple {
    /// The tuple of the reply.
    #[inline(always)]
    pub const fn reversed(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
        }
    }
}

/// Key of `FLOWS`: 40 bytes.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct FlowKey {
    /// As the packets come.
    pub tuple: Tuple,
    /// Of which protocol.
    pub proto: Proto,
    /// Where they are translated.
    pub hook: Hook,
    /// Always zero.
    pub reserved: [u8; 2],
}

impl FlowKey {
    /// The key of a direction.
    #[inline(always)]
    pub const fn new(tuple: Tuple, proto: Proto, hook: Hook) -> Self {
        Self {
            tuple,
            proto,
            hook,
            reserved: [0; 2],
        }
    }
}

/// Facts about one direction of a flow that are yes or no, as bits.
#[repr(transparent)]
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct FlowFlags(u16);

impl FlowFlags {
    /// From the client: the direction that the flow was opened in.
    pub const FROM_CLIENT: Self = Self(1);
    /// Forwarded by the program, past the kernel's own routing: both ends of the flow are
    /// elsewhere, or its source is an address of this node.
    pub const FORWARDED: Self = Self(2);
    /// The other direction is translated at [`Hook::EGRESS`].
    pub const OTHER_AT_EGRESS: Self = Self(4);
    /// A packet came by.
    pub const SEEN: Self = Self(8);
    /// Its sender has no more data (TCP FIN).
    pub const FIN: Self = Self(16);
    /// It is over (TCP RST).
    pub const RST: Self = Self(32);
    /// It goes on for longer than a question and its reply take: packets came more than a second apart.
    pub const STREAM: Self = Self(64);
    /// Of the pair that gives a flow an address of this node as its source.
    pub const MASQUERADED: Self = Self(128);
    /// Of the node itself: a socket's or another translation's, as kube-proxy's. It is left to the kernel.
    /// Its packets leave as they come. Where the agent entered the pair, the client's direction of a UDP
    /// flow has the backend that the kernel gave it.
    pub const OWN: Self = Self(256);
    /// Wherever the client's packets leave, they are given an address of this node.
    pub const MASQUERADE: Self = Self(512);
    /// The client came in by a pod's device: it keeps its address also where its packets leave the
    /// node, since replies pass its device.
    pub const INSIDE: Self = Self(1024);

    /// None of them.
    pub const NONE: Self = Self(0);

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

    /// The bits that are in both.
    #[inline(always)]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The bits that are not in `other`.
    #[inline(always)]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether its sender ended it.
    #[inline(always)]
    pub const fn is_closing(self) -> bool {
        self.0 & (Self::FIN.0 | Self::RST.0) != 0
    }
}

/// A link address, the first six bytes, and two that are zero; words, since bytes would be copied by a
/// call of `memmove` in the programs.
pub type LinkAddr = [u32; 2];

/// Value of `FLOWS`: 72 bytes.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct FlowValue {
    /// As the packets leave.
    pub tuple: Tuple,
    /// Yes-or-no facts.
    pub flags: FlowFlags,
    /// Always zero.
    pub reserved: u16,
    /// The Service port that it was opened to.
    pub service: ServiceId,
    /// The backend that it was given.
    pub backend: BackendId,
    /// The interface index of the device by which packets of its client come in; zero if it is not
    /// known. Replies leave by it.
    pub device: u32,
    /// The number of the byte that the sender of this direction's packets expects next (the
    /// acknowledgement of RFC 9293 section 3.1), as it stood in the last of them, in network order. Of
    /// use where [`FlowFlags::SEEN`] is set.
    pub acknowledged: u32,
    /// When the last packet came by, to about a second: nanoseconds of CLOCK_MONOTONIC.
    pub last_seen_ns: u64,
    /// The link address from which packets of its client come in; zero without one.
    pub router: LinkAddr,
}

impl FlowValue {
    /// The key of the other direction.
    #[inline(always)]
    pub const fn other(&self, proto: Proto) -> FlowKey {
        let hook = if self.flags.contains(FlowFlags::OTHER_AT_EGRESS) {
            Hook::EGRESS
        } else {
            Hook::INGRESS
        };
        FlowKey::new(self.tuple.reversed(), proto, hook)
    }
}

/// What the entries of a flow show of it, which decides for how long it is remembered after its last
/// packet. Both halves use it: the agent's sweep, and a program that finds `FLOWS` full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowState {
    /// TCP without a reply yet; and one direction alone, which a crash or a full map left.
    TcpOpening,
    /// TCP with packets both ways.
    TcpEstablished,
    /// TCP that one side ended.
    TcpHalfClosed,
    /// TCP that both sides ended.
    TcpClosed,
    /// TCP that was reset.
    TcpReset,
    /// UDP without a reply, or with no more than a question and its reply.
    Udp,
    /// UDP that goes on, both ways.
    UdpStream,
}

impl FlowState {
    /// The state of a flow by the flags of its entries. `other` is the other direction's, if it has an
    /// entry.
    #[inline(always)]
    pub const fn of(proto: Proto, one: FlowFlags, other: Option<FlowFlags>) -> Self {
        let Some(other) = other else {
            return Self::TcpOpening;
        };
        let either = one.union(other);
        let is_answered = one.contains(FlowFlags::SEEN) && other.contains(FlowFlags::SEEN);
        if proto.number() == Proto::UDP.number() {
            if is_answered && either.contains(FlowFlags::STREAM) {
                Self::UdpStream
            } else {
                Self::Udp
            }
        } else if either.contains(FlowFlags::RST) {
            Self::TcpReset
        } else if one.contains(FlowFlags::FIN) && other.contains(FlowFlags::FIN) {
            Self::TcpClosed
        } else if either.contains(FlowFlags::FIN) {
            Self::TcpHalfClosed
        } else if is_answered {
            Self::TcpEstablished
        } else {
            Self::TcpOpening
        }
    }
}

/// Value of `FRAGMENTS`, keyed by [`FragmentKey`]: the ports of a datagram, which only its
/// first fragment carries.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct FragmentValue {
    /// Source port.
    pub src_port: PortBe,
    /// Destination port.
    pub dst_port: PortBe,
}

/// Key of `FRAGMENTS`: 40 bytes. What makes fragments one datagram (RFC 791 section 3.2, RFC
/// 8200 section 4.5).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FragmentKey {
    /// Source address.
    pub src: Addr16,
    /// Destination address.
    pub dst: Addr16,
    /// The identification, in network order.
    pub id: u32,
    /// Of which protocol.
    pub proto: Proto,
    /// Always zero.
    pub reserved: u8,
    /// Always zero.
    pub reserved_half: u16,
}

/// Value of `DEVICES`, keyed by interface index: 48 bytes. What a packet that leaves by a
/// device needs of it; under [`DeviceValue::NODE`] the node's own addresses.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct DeviceValue {
    /// The IPv4 address that packets to backends elsewhere are given as source; zero if the
    /// device has none.
    pub v4: Addr16,
    /// The IPv6 one.
    pub v6: Addr16,
    /// Its link address.
    pub link: [u8; 6],
    /// Always zero.
    pub reserved: [u8; 2],
    /// The longest packet that it takes, in bytes without the link header; zero for any.
    pub mtu: u32,
    /// Yes-or-no facts.
    pub flags: DeviceFlags,
}

impl DeviceValue {
    /// The index under which the node's own addresses stand: no device has it.
    pub const NODE: u32 = 0;

    /// The address of a family, if it has one.
    #[inline(always)]
    pub const fn address(&self, is_v4: bool) -> Option<Addr16> {
        let own = if is_v4 { self.v4 } else { self.v6 };
        if own.is_unspecified() {
            None
        } else {
            Some(own)
        }
    }
}

/// Facts about a device that are yes or no, as bits.
#[repr(transparent)]
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct DeviceFlags(u32);

impl DeviceFlags {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// Pods of this node are behind it: their packets are of clients inside the cluster.
    pub const PODS: Self = Self(1);
    /// XDP may redirect to it.
    pub const XDP_TARGET: Self = Self(2);
    /// The programs are attached to it, so that replies that come in by it are translated.
    pub const ATTACHED: Self = Self(4);
    /// Its frames begin at the network header, as a tunnel's do: there is no Ethernet header.
    pub const NO_ETHERNET: Self = Self(8);
    /// Nothing is sent by it: its cable is out, or its far end is down (`IFF_RUNNING` is off).
    pub const NO_CARRIER: Self = Self(16);

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

const _: () = {
    use core::mem::size_of;
    assert!(size_of::<Tuple>() == 36);
    assert!(size_of::<FlowKey>() == 40);
    assert!(size_of::<FlowValue>() == 72);
    assert!(size_of::<FragmentKey>() == 40);
    assert!(size_of::<DeviceValue>() == 48);
};
