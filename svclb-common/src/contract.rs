//! Each map's kind, layout, writers and readers: what `docs/map-contract.md` is written from, and
//! what a test compares with the maps that the kernel has.

use crate::maps::{
    AFFINITY, BACKENDS, COUNTERS, DEVICES, FLOW_CURSOR, FLOW_RING, FLOWS, FRAGMENTS, FRONTENDS,
    META, PEER_OVERFLOW, PEERS, PORTS, SERVICES, SLOTS, SOURCES, UDP_TRANSLATIONS,
};
use crate::{
    AffinityKey, AffinityValue, BackendId, BackendValue, DeviceValue, FlowKey, FlowValue,
    FragmentKey, FragmentValue, FrontendKey, FrontendValue, Meta, OverflowKey, OverflowValue,
    PeerSlot, ServiceId, ServiceRecord, SlotKey, SlotValue, SourceKey, TranslationRing,
};

/// The kind of a map. The numbers are those of `enum bpf_map_type` (`include/uapi/linux/bpf.h`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum MapKind {
    /// `BPF_MAP_TYPE_HASH`
    Hash = 1,
    /// `BPF_MAP_TYPE_ARRAY`
    Array = 2,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`
    PerCpuArray = 6,
    /// `BPF_MAP_TYPE_LRU_HASH`
    LruHash = 9,
    /// `BPF_MAP_TYPE_LPM_TRIE`
    LpmTrie = 11,
    /// `BPF_MAP_TYPE_SK_STORAGE`; its key is a descriptor of the socket, four bytes
    SkStorage = 24,
}

impl MapKind {
    /// As the documents call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Array => "array",
            Self::PerCpuArray => "per-CPU array",
            Self::LruHash => "LRU hash",
            Self::LpmTrie => "longest-prefix trie",
            Self::SkStorage => "socket storage",
        }
    }
}

/// A key or a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Its type, and what a plain integer means.
    pub name: &'static str,
    /// In bytes.
    pub size: usize,
}

/// What both halves agree on for a map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapContract {
    /// Its name, and the name of its pin.
    pub name: &'static str,
    /// What kind of map it is.
    pub kind: MapKind,
    /// How its elements are found.
    pub key: Layout,
    /// What its elements are.
    pub value: Layout,
    /// Who changes it.
    pub written_by: &'static str,
    /// Who looks into it.
    pub read_by: &'static str,
}

macro_rules! layout {
    ($type:ty) => {
        Layout {
            name: concat!("`", stringify!($type), "`"),
            size: size_of::<$type>(),
        }
    };
    ($type:ty, $name:literal) => {
        Layout {
            name: $name,
            size: size_of::<$type>(),
        }
    };
}

macro_rules! map {
    ($name:ident, $kind:ident, [$($key:tt)*] => [$($value:tt)*], $written_by:literal, $read_by:literal) => {
        MapContract {
            name: $name,
            kind: MapKind::$kind,
            key: layout!($($key)*),
            value: layout!($($value)*),
            written_by: $written_by,
            read_by: $read_by,
        }
    };
}

/// All maps, in the order of [`SINCE`](crate::maps::SINCE).
#[rustfmt::skip] // A row each.
pub const CONTRACT: [MapContract; 17] = [
    map!(META, Array, [u32, "0"] => [Meta], "agent", "agent"),
    map!(FRONTENDS, Hash, [FrontendKey] => [FrontendValue], "agent", "connect, sendmsg, packets"),
    map!(SLOTS, Hash, [SlotKey] => [SlotValue], "agent", "connect, sendmsg, packets"),
    map!(SOURCES, LpmTrie, [SourceKey] => [u32, "1"], "agent", "connect, sendmsg, packets"),
    map!(BACKENDS, Hash, [BackendId] => [BackendValue], "agent", "agent"),
    map!(SERVICES, Hash, [ServiceId] => [ServiceRecord], "agent", "agent"),
    map!(AFFINITY, LruHash, [AffinityKey] => [AffinityValue], "connect, sendmsg, packets", "connect, sendmsg, packets, `svclb dump`"),
    map!(PEERS, Array, [u32, "socket cookie modulo the length"] => [PeerSlot], "connect, `sock_release`", "connect, getpeername, `sock_release`, `svclb dump`"),
    map!(UDP_TRANSLATIONS, SkStorage, [u32, "the socket"] => [TranslationRing], "connect, sendmsg", "connect, sendmsg, recvmsg, getpeername, `sock_release`, agent"),
    map!(PEER_OVERFLOW, Hash, [OverflowKey] => [OverflowValue], "connect, sendmsg, `sock_release`", "recvmsg, getpeername, `sock_release`"),
    map!(FLOWS, Hash, [FlowKey] => [FlowValue], "packets; the agent removes", "packets, agent"),
    map!(FLOW_RING, Array, [u32, "place"] => [FlowKey], "packets", "packets"),
    map!(FLOW_CURSOR, Array, [u32, "0"] => [u64, "the next place"], "packets", "packets"),
    map!(FRAGMENTS, LruHash, [FragmentKey] => [FragmentValue], "packets", "packets"),
    map!(DEVICES, Hash, [u32, "interface index"] => [DeviceValue], "agent", "packets, connect, sendmsg"),
    map!(PORTS, Array, [u32, "word"] => [u64, "a bit for each port (`Hook::bit_of`)"], "agent", "packets"),
    map!(COUNTERS, PerCpuArray, [u32, "`Counter`"] => [u64, "how often"], "all programs", "agent"),
];
