//! Loading the object and its programs.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use svclb_common::maps::{self as names, Sizes};
use svclb_core::error_chain::error_chain;

use crate::error::OpenError;
use crate::features::Features;
use crate::options::Options;
use crate::pins::Pins;
use crate::sys::Map;

/// The eBPF object; empty in a binary that was built without it.
pub(crate) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/svclb-ebpf"));

/// The sizes to load with: those of the pinned maps, where there are any.
pub(crate) fn adopted_sizes(
    pins: &Pins,
    wanted: Sizes,
    warnings: &mut Vec<String>,
) -> Result<Sizes, OpenError> {
    let mut sizes = wanted;
    for (name, size) in sizeable(&mut sizes) {
        if let Ok(map) = Map::open(&pins.map(name))
            && map.max_entries != *size
        {
            warnings.push(format!(
                "the pinned map {name} holds {} entries and {size} are wanted; \
                 the new size takes effect after `svclb cleanup`",
                map.max_entries
            ));
            *size = map.max_entries;
        }
    }
    Ok(sizes)
}

fn sizeable(sizes: &mut Sizes) -> [(&'static str, &mut u32); 9] {
    [
        (names::FRONTENDS, &mut sizes.frontends),
        (names::SLOTS, &mut sizes.slots),
        (names::SOURCES, &mut sizes.sources),
        (names::BACKENDS, &mut sizes.backends),
        (names::SERVICES, &mut sizes.services),
        (names::AFFINITY, &mut sizes.affinity),
        (names::PEER_OVERFLOW, &mut sizes.overflow),
        (names::FLOWS, &mut sizes.flows),
        (names::PEERS, &mut sizes.peers),
    ]
}

/// Loads the object: makes its maps, or takes those that are pinned. `level` is what the verifier's log
/// of a program that it refuses says.
///
/// # Errors
/// [`OpenError`].
pub(crate) fn load_object(
    pins: &Pins,
    mut sizes: Sizes,
    features: Features,
    options: &Options,
    level: VerifierLogLevel,
) -> Result<Ebpf, OpenError> {
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(level);
    for name in names::all() {
        loader.map_pin_path(name, pins.map(name));
    }
    for (name, size) in sizeable(&mut sizes) {
        loader.map_max_entries(name, *size);
    }
    loader.map_max_entries(names::FLOW_RING, sizes.flow_ring());
    let set_retval = u32::from(features.set_retval);
    let skc_to_mptcp_sock = u32::from(features.skc_to_mptcp_sock);
    let peers_mask = sizes.peers - 1;
    let cluster_ips_outside = u32::from(options.external_cluster_ips);
    let [first, _] = options.source_ports.ends();
    let (source_port_first, source_ports) = (u32::from(first), options.source_ports.count());
    let flow_ring_mask = sizes.flow_ring() - 1;
    // What a full map leaves of them.
    let timeouts = options.conntrack.under_pressure(1, 1);
    let timeouts = [
        ("TCP_OPENING_NS", timeouts.tcp_opening),
        ("TCP_ESTABLISHED_NS", timeouts.tcp_established),
        ("TCP_HALF_CLOSED_NS", timeouts.tcp_half_closed),
        ("TCP_CLOSED_NS", timeouts.tcp_closed),
        ("TCP_RESET_NS", timeouts.tcp_reset),
        ("UDP_NS", timeouts.udp),
        ("UDP_STREAM_NS", timeouts.udp_stream),
    ];
    let timeouts = timeouts
        .map(|(name, timeout)| (name, u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX)));
    for (name, nanoseconds) in &timeouts {
        loader.override_global(name, nanoseconds, true);
    }
    loader
        .override_global("FLOW_RING_MASK", &flow_ring_mask, true)
        .override_global("HAS_SET_RETVAL", &set_retval, true)
        .override_global("HAS_SKC_TO_MPTCP_SOCK", &skc_to_mptcp_sock, true)
        .override_global("HOST_NETNS_COOKIE", &features.host_netns_cookie, true)
        .override_global("CLUSTER_IPS_OUTSIDE", &cluster_ips_outside, true)
        .override_global("SOURCE_PORT_FIRST", &source_port_first, true)
        .override_global("SOURCE_PORTS", &source_ports, true)
        .override_global("MARK", &options.mark, true)
        .override_global("PEERS_MASK", &peers_mask, true)
        .load(OBJECT)
        .map_err(|error| {
            OpenError::exhausted(&error).unwrap_or_else(|| OpenError::Object(error_chain(&error)))
        })
}

/// Has the kernel verify and load a program.
///
/// # Errors
/// [`OpenError::Program`], or the resource that ran out.
pub(crate) fn load_program(ebpf: &mut Ebpf, program: &'static str) -> Result<(), OpenError> {
    try_load(ebpf, program).map_err(|source| {
        OpenError::exhausted(&source).unwrap_or_else(|| OpenError::Program {
            program,
            source: Box::new(source),
        })
    })
}

/// As [`load_program`], with aya's own error.
///
/// # Errors
/// What aya says.
pub(crate) fn try_load(ebpf: &mut Ebpf, program: &'static str) -> Result<(), ProgramError> {
    /// A signal interrupts the verifier (`bpf_check` returns EAGAIN).
    const ATTEMPTS: u32 = 10;
    let mut loaded = Err(ProgramError::NotLoaded);
    for _ in 0..ATTEMPTS {
        loaded = match ebpf.program_mut(program) {
            Some(Program::CgroupSockAddr(loaded)) => loaded.load(),
            Some(Program::CgroupSock(loaded)) => loaded.load(),
            Some(Program::SchedClassifier(loaded)) => loaded.load(),
            Some(Program::Xdp(loaded)) => loaded.load(),
            _ => Err(ProgramError::NotLoaded),
        };
        if !matches!(&loaded, Err(ProgramError::LoadError { io_error, .. })
            if io_error.kind() == io::ErrorKind::WouldBlock)
        {
            break;
        }
    }
    loaded
}

/// A loaded program.
///
/// # Errors
/// If it is not in the object or was not loaded.
pub(crate) fn program_fd<'a>(ebpf: &'a Ebpf, name: &str) -> io::Result<BorrowedFd<'a>> {
    let loaded = ebpf.program(name).ok_or(ProgramError::NotLoaded);
    let fd = loaded.and_then(Program::fd).map_err(io::Error::other)?;
    Ok(fd.as_fd())
}
