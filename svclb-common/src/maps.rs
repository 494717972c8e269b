//! The names of the maps, which are also their pins, and how many entries each holds
//! unless the operator says otherwise.

/// One element, [`Meta`](crate::Meta).
pub const META: &str = "META";
/// Hash, [`FrontendKey`](crate::FrontendKey) → [`FrontendValue`](crate::FrontendValue).
pub const FRONTENDS: &str = "FRONTENDS";
/// Hash, [`SlotKey`](crate::SlotKey) → [`SlotValue`](crate::SlotValue).
pub const SLOTS: &str = "SLOTS";
/// Longest-prefix trie, [`SourceKey`](crate::SourceKey) → `u32`, always 1.
pub const SOURCES: &str = "SOURCES";
/// Hash, [`BackendId`](crate::BackendId) → [`BackendValue`](crate::BackendValue).
pub const BACKENDS: &str = "BACKENDS";
/// Hash, [`ServiceId`](crate::ServiceId) → [`ServiceRecord`](crate::ServiceRecord).
pub const SERVICES: &str = "SERVICES";
/// LRU hash, [`AffinityKey`](crate::AffinityKey) → [`AffinityValue`](crate::AffinityValue).
pub const AFFINITY: &str = "AFFINITY";
/// Array of [`PeerSlot`](crate::PeerSlot), indexed by socket cookie modulo its length.
pub const PEERS: &str = "PEERS";
/// Socket-local storage, [`TranslationRing`](crate::TranslationRing).
pub const UDP_TRANSLATIONS: &str = "UDP_TRANSLATIONS";
/// Hash, [`OverflowKey`](crate::OverflowKey) → [`OverflowValue`](crate::OverflowValue).
pub const PEER_OVERFLOW: &str = "PEER_OVERFLOW";
/// Hash, [`FlowKey`](crate::FlowKey) → [`FlowValue`](crate::FlowValue).
pub const FLOWS: &str = "FLOWS";
/// Array of [`FlowKey`](crate::FlowKey): the client's direction of the flows opened last, in a ring. In a
/// full `FLOWS` a program finds here which flow to replace.
pub const FLOW_RING: &str = "FLOW_RING";
/// One `u64`: where in `FLOW_RING` the next flow is written, modulo its length.
pub const FLOW_CURSOR: &str = "FLOW_CURSOR";
/// LRU hash, [`FragmentKey`](crate::FragmentKey) → [`FragmentValue`](crate::FragmentValue).
pub const FRAGMENTS: &str = "FRAGMENTS";
/// Hash, interface index → [`DeviceValue`](crate::DeviceValue).
pub const DEVICES: &str = "DEVICES";
/// Array of [`PORTS_LEN`] `u64`, a bit for each port at each hook
/// ([`Hook::bit_of`](crate::Hook::bit_of)): whether a packet with it may be of a Service.
pub const PORTS: &str = "PORTS";
/// How many words of `PORTS`: 1,024 for each of two hooks.
pub const PORTS_LEN: u32 = 2048;
/// Per-CPU array of `u64`, indexed by [`Counter`](crate::Counter).
pub const COUNTERS: &str = "COUNTERS";

/// Since which [`ABI_VERSION`](crate::ABI_VERSION) each map is as it is now: its type, its key, its
/// value, and what they mean. An agent that finds maps of an earlier version goes on with those
/// that were the same then.
pub const SINCE: [(&str, u32); 17] = [
    (META, 2),
    (FRONTENDS, if cfg!(feature = "next-layout") { 5 } else { 2 }),
    (SLOTS, 2),
    (SOURCES, 2),
    (BACKENDS, 2),
    (SERVICES, 1),
    (AFFINITY, 1),
    (PEERS, 1),
    (UDP_TRANSLATIONS, 1),
    (PEER_OVERFLOW, 1),
    (FLOWS, 4),
    (FLOW_RING, 3),
    (FLOW_CURSOR, 3),
    (FRAGMENTS, 2),
    (DEVICES, 2),
    (PORTS, 2),
    (COUNTERS, 4),
];

/// All maps.
pub fn all() -> impl Iterator<Item = &'static str> {
    SINCE.iter().map(|(name, _)| *name)
}

/// How many entries each sizeable map holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// `FRONTENDS`: one for each address, port and protocol, and one for each cluster IP.
    pub frontends: u32,
    /// `SLOTS`: one for each endpoint of each Service port (two with affinity or UDP), and as many again
    /// for the Services that are being changed at one moment.
    pub slots: u32,
    /// `SOURCES`: one for each source range of each port of a Service, and as many again for the
    /// Services that are being changed at one moment.
    pub sources: u32,
    /// `BACKENDS`: one for each endpoint address and port, used or in quarantine.
    pub backends: u32,
    /// `SERVICES`: one for each Service port and family, used or in quarantine.
    pub services: u32,
    /// `AFFINITY`: one for each client and Service port with session affinity.
    pub affinity: u32,
    /// `PEER_OVERFLOW`: translations of sockets that talk to very many backends.
    pub overflow: u32,
    /// `FLOWS`: two for each flow from outside, and two more where it is masqueraded.
    pub flows: u32,
    /// `PEERS`: a power of two; sockets beyond it cost socket storage.
    pub peers: u32,
}

impl Sizes {
    /// Enough for 65,536 Services of one port and half a million slots; about 41 MiB of kernel
    /// memory before the first entry.
    pub const DEFAULT: Self = Self {
        frontends: 1 << 17,
        slots: 1 << 19,
        sources: 1 << 16,
        backends: 1 << 18,
        services: 1 << 16,
        affinity: 1 << 16,
        overflow: 1 << 16,
        flows: 1 << 18,
        peers: 1 << 18,
    };

    /// The length of `FLOW_RING`: a power of two, and at least as many as there can be flows.
    pub const fn flow_ring(&self) -> u32 {
        (self.flows / 2).next_power_of_two()
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self::DEFAULT
    }
}
