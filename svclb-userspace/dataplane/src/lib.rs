//! The agent's side of the kernel.
//!
//! * [`Dataplane`]: makes or adopts the pinned maps, loads the programs, attaches them;
//! * [`KernelMaps`]: the only writer of the planned maps;
//! * [`Pinned`]: reads what is pinned, with or without an agent;
//! * [`UdpSockets`]: finds and destroys the UDP sockets of a backend that is gone;
//! * [`cleanup()`]: takes everything away again.
//!
//! All `unsafe` of the agent is in `sys`, the wrappers over `bpf(2)`.

mod attach;
mod cleanup;
mod device_map;
mod features;
mod flows;
#[cfg(feature = "kernel-log")]
mod kernel_log;
mod kernel_maps;
mod links;
mod migration;
mod mounts;
mod open;
mod packets;
mod pin_lock;
mod pinned;
mod pins;
mod planned;
mod port_bits;
mod ports;
mod sys;
mod udp_sockets;

pub use attach::{AttachError, Attachment, PROGRAMS};
pub use cleanup::{CleanupError, cleanup};
pub use device_map::Devices;
pub use features::{Features, features};
pub use flows::{Flow, Flows, Swept};
pub use kernel_maps::{GracePeriod, KernelMaps};
pub use mounts::{MountError, find_bpffs, find_cgroup2};
pub use open::{Dataplane, OpenError, Options};
pub use packets::{
    Attached, DeviceAttachment, DeviceError, Passing, TestRun, XdpMode, detach_filters,
};
pub use pin_lock::PinLockError;
pub use pinned::{Affinity, Pinned, PinnedError};
pub use ports::PortRange;
pub use udp_sockets::{Destroyed, ScanError, UdpSocket, UdpSockets, UdpSocketsError, can_destroy};

/// The eBPF object; empty in a binary that was built without it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/svclb-ebpf"));
