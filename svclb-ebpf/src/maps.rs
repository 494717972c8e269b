//! All maps, in one screen. Their writers and readers are in `svclb_common::contract`.
//!
//! The sizes here are placeholders: the agent sets them when it makes the maps. Planned
//! maps take memory as they fill (`BPF_F_NO_PREALLOC`).

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray};
use svclb_common::maps::{self as names, Sizes};
use svclb_common::{
    AffinityKey, AffinityValue, BackendId, BackendValue, Counter, DeviceValue, FlowKey, FlowState,
    FlowValue, FragmentKey, FragmentValue, FrontendKey, FrontendValue, Hook, Meta, OverflowKey,
    OverflowValue, PeerSlot, PortBe, Reading, ServiceId, ServiceRecord, SlotKey, SlotValue, Source,
    TranslationRing, read_confirmed,
};

const SIZES: Sizes = Sizes::DEFAULT;
/// Datagrams whose fragments may still arrive.
const FRAGMENTS_LEN: u32 = 8192;
const DEVICES_LEN: u32 = 4096;

#[map]
pub(crate) static META: Array<Meta> = Array::with_max_entries(1, 0);

#[map]
pub(crate) static FRONTENDS: HashMap<FrontendKey, FrontendValue> =
    HashMap::with_max_entries(SIZES.frontends, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static SLOTS: HashMap<SlotKey, SlotValue> =
    HashMap::with_max_entries(SIZES.slots, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static SOURCES: LpmTrie<Source, u32> =
    LpmTrie::with_max_entries(SIZES.sources, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static BACKENDS: HashMap<BackendId, BackendValue> =
    HashMap::with_max_entries(SIZES.backends, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static SERVICES: HashMap<ServiceId, ServiceRecord> =
    HashMap::with_max_entries(SIZES.services, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static AFFINITY: LruHashMap<AffinityKey, AffinityValue> =
    LruHashMap::with_max_entries(SIZES.affinity, 0);

#[map]
pub(crate) static PEERS: Array<PeerSlot> = Array::with_max_entries(SIZES.peers, 0);

#[btf_map]
pub(crate) static UDP_TRANSLATIONS: SkStorage<TranslationRing> = SkStorage::new();

#[map]
pub(crate) static PEER_OVERFLOW: HashMap<OverflowKey, OverflowValue> =
    HashMap::with_max_entries(SIZES.overflow, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static FLOWS: HashMap<FlowKey, FlowValue> =
    HashMap::with_max_entries(SIZES.flows, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static FLOW_RING: Array<FlowKey> = Array::with_max_entries(SIZES.flow_ring(), 0);

#[map]
pub(crate) static FLOW_CURSOR: Array<u64> = Array::with_max_entries(1, 0);

#[map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, FragmentValue> =
    LruHashMap::with_max_entries(FRAGMENTS_LEN, 0);

#[map]
pub(crate) static DEVICES: HashMap<u32, DeviceValue> =
    HashMap::with_max_entries(DEVICES_LEN, BPF_F_NO_PREALLOC);

#[map]
static PORTS: Array<u64> = Array::with_max_entries(names::PORTS_LEN, 0);

#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(Counter::ALL.len() as u32, 0);

/// Not zero where the kernel has `bpf_set_retval` (Linux 5.18). A constant to the
/// verifier, so that an older kernel never sees the call.
#[unsafe(no_mangle)]
pub(crate) static HAS_SET_RETVAL: Global<u32> = Global::new(0);

/// Not zero where the kernel has `bpf_skc_to_mptcp_sock` (Linux 5.19, with MPTCP).
#[unsafe(no_mangle)]
pub(crate) static HAS_SKC_TO_MPTCP_SOCK: Global<u32> = Global::new(0);

/// The cookie of the node's own network namespace; zero stands for the initial one.
#[unsafe(no_mangle)]
pub(crate) static HOST_NETNS_COOKIE: Global<u64> = Global::new(0);

/// The length of `PEERS`, a power of two, less one.
#[unsafe(no_mangle)]
pub(crate) static PEERS_MASK: Global<u32> = Global::new(SIZES.peers - 1);

/// Whether packets from outside may reach cluster IPs, which kube-proxy serves them.
#[unsafe(no_mangle)]
pub(crate) static CLUSTER_IPS_OUTSIDE: Global<u32> = Global::new(0);

/// The first of the source ports that are kept for flows to backends elsewhere, and how many
/// there are.
#[unsafe(no_mangle)]
pub(crate) static SOURCE_PORT_FIRST: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static SOURCE_PORTS: Global<u32> = Global::new(0);

/// The bits of the mark that translated packets carry through the kernel's routing and firewall.
#[unsafe(no_mangle)]
pub(crate) static MARK: Global<u32> = Global::new(0);

/// The length of `FLOW_RING`, a power of two, less one.
#[unsafe(no_mangle)]
pub(crate) static FLOW_RING_MASK: Global<u32> = Global::new(SIZES.flow_ring() - 1);

/// For how long a full `FLOWS` remembers a flow after its last packet, by its state, in nanoseconds.
#[unsafe(no_mangle)]
static TCP_OPENING_NS: Global<u64> = Global::new(u64::MAX);
#[unsafe(no_mangle)]
static TCP_ESTABLISHED_NS: Global<u64> = Global::new(u64::MAX);
#[unsafe(no_mangle)]
static TCP_HALF_CLOSED_NS: Global<u64> = Global::new(u64::MAX);
#[unsafe(no_mangle)]
static TCP_CLOSED_NS: Global<u64> = Global::new(u64::MAX);
#[unsafe(no_mangle)]
static TCP_RESET_NS: Global<u64> = Global::new(u64::MAX);
#[unsafe(no_mangle)]
static UDP_NS: Global<u64> = Global::new(u64::MAX);
#[unsafe(no_mangle)]
static UDP_STREAM_NS: Global<u64> = Global::new(u64::MAX);

/// For how long a full `FLOWS` remembers a flow in a state, in nanoseconds.
#[inline(always)]
pub(crate) fn flow_timeout_ns(state: FlowState) -> u64 {
    match state {
        FlowState::TcpOpening => TCP_OPENING_NS.load(),
        FlowState::TcpEstablished => TCP_ESTABLISHED_NS.load(),
        FlowState::TcpHalfClosed => TCP_HALF_CLOSED_NS.load(),
        FlowState::TcpClosed => TCP_CLOSED_NS.load(),
        FlowState::TcpReset => TCP_RESET_NS.load(),
        FlowState::Udp => UDP_NS.load(),
        FlowState::UdpStream => UDP_STREAM_NS.load(),
    }
}

/// Copies a frontend out of its map, whole.
///
/// The agent replaces an element to change it, and from Linux 6.1 on (commit fba1a1c6c912)
/// the memory of the replaced one may at once become another element. A reader that was
/// preempted between its lookup and its copy would then hold another frontend's value, or
/// parts of two. So what was copied counts only if a second lookup finds the same.
#[inline(always)]
pub(crate) fn frontend(key: &FrontendKey) -> Reading<FrontendValue> {
    /// How often it is read again while it changes.
    const TRIES: u32 = 4;
    read_confirmed::<_, TRIES>(|| frontend_once(key))
}

/// Whether there is a frontend.
#[inline(always)]
pub(crate) fn has_frontend(key: &FrontendKey) -> bool {
    // SAFETY: not read.
    unsafe { FRONTENDS.get(key) }.is_some()
}

/// Copies a backend out of its map. Its memory may become another one's at once, which the reader
/// tells by the address.
#[inline(always)]
pub(crate) fn backend(id: BackendId) -> Option<BackendValue> {
    // SAFETY: the memory outlives the program's run, and any bytes are a valid value.
    unsafe { BACKENDS.get(id) }.copied()
}

#[inline(always)]
fn frontend_once(key: &FrontendKey) -> Option<FrontendValue> {
    // SAFETY: the memory outlives the program's run, and any bytes are a valid value.
    unsafe { FRONTENDS.get(key) }.copied()
}

/// Whether a source is of one of the ranges of its generation. Those are whole, as slots are.
#[inline(always)]
pub(crate) fn is_in_range(source: Source) -> bool {
    SOURCES.get(Key::new(Source::BITS, source)).is_some()
}

/// Whether a packet with this port may be of a Service, at this hook.
#[inline(always)]
pub(crate) fn has_port(hook: Hook, port: PortBe) -> bool {
    let (index, bit) = hook.bit_of(port);
    PORTS.get(index).is_some_and(|word| word & bit != 0)
}

/// The ports of a datagram's fragments.
#[inline(always)]
pub(crate) fn fragment(key: &FragmentKey) -> Option<FragmentValue> {
    // SAFETY: as above; the value is one word.
    unsafe { FRAGMENTS.get(key) }.copied()
}

/// What is known of a device.
#[inline(always)]
pub(crate) fn device(index: u32) -> Option<DeviceValue> {
    // SAFETY: as above.
    unsafe { DEVICES.get(index) }.copied()
}

/// Copies a slot out of its map.
#[inline(always)]
pub(crate) fn slot(key: &SlotKey) -> Option<SlotValue> {
    // SAFETY: as above. It is whole: a slot is never replaced, and deleted only after every
    // program that could have found its generation has finished.
    unsafe { SLOTS.get(key) }.copied()
}
