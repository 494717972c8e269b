//! The agent's side of the kernel.
//!
//! * [`Dataplane`]: makes or adopts the pinned maps, loads the programs, attaches them;
//! * [`KernelMaps`]: the only writer of the planned maps;
//! * [`Pinned`]: reads what is pinned, with or without an agent;
//! * [`UdpSockets`]: finds and destroys the UDP sockets of a backend that is gone;
//! * [`cleanup()`]: takes everything away again.
//!
//! The modules, each using those below it: `dataplane` and `cleanup`; `attach`, `migration`,
//! `pinned` and `udp_sockets`; `load`; `maps`; `pins`, `programs` and `error`; `sys`, the wrappers
//! over `bpf(2)` with all `unsafe` of the crate.

mod attach;
mod cleanup;
mod dataplane;
mod error;
mod features;
mod firewall;
mod kernel_flows;
#[cfg(feature = "kernel-log")]
mod kernel_log;
mod load;
mod maps;
mod migration;
mod mounts;
mod netlink;
mod options;
mod pin_lock;
mod pinned;
mod pins;
mod preflight;
mod programs;
mod reserved_ports;
mod source_ports;
mod sys;
mod test_run;
mod udp_sockets;
mod verifier;

pub use attach::cgroup::Attachment;
pub use attach::device::{Attached, DeviceAttachment, DevicePrograms, XdpMode, detach_filters};
pub use cleanup::cleanup;
pub use dataplane::Dataplane;
pub use error::{
    AttachError, CleanupError, DeviceError, MountError, OpenError, PinLockError, PinnedError,
};
pub use features::{Features, features};
pub use firewall::{
    Frontend, KUBE_PROXY_MARK, OWN_MARK, Traffic, choose_mark, forwarding_obstacles,
};
pub use kernel_flows::{FlowsAt, LeftToKernel};
pub use maps::devices::Devices;
pub use maps::flows::{BusyBackend, Flow, Flows, Swept};
pub use maps::kernel_maps::{GracePeriod, KernelMaps};
pub use migration::flows::CarriedOver;
pub use mounts::{find_bpffs, find_cgroup2, root_cgroup};
pub use options::{Forwarding, Options};
pub use pinned::{Affinity, Pinned};
pub use programs::{PROGRAMS, SocketProgram};
pub use source_ports::{PortRange, choose_source_ports, ephemeral_ports};
pub use test_run::{Passing, TestFrame, TestRun};
pub use udp_sockets::{Destroyed, ScanError, UdpSocket, UdpSockets, UdpSocketsError, can_destroy};
pub use verifier::{VerifierEffort, verifier_effort};
