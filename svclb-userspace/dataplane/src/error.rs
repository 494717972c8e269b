//! The errors of this crate. Each message says what to do.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use aya::programs::ProgramError;
use aya::util::KernelVersion;
use caps::Capability;

/// Why there is no data path.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum OpenError {
    #[error(
        "svclb must be root to load eBPF programs; start it as root, or as a privileged container"
    )]
    NotRoot,
    #[error(
        "svclb lacks the capability {0}; start it as a privileged container, or with the capabilities that deploy/unprivileged gives it"
    )]
    Capability(Capability),
    #[error("this kernel is {0}, and svclb needs Linux 5.10 or newer; upgrade the kernel")]
    KernelTooOld(KernelVersion),
    #[error("this binary was built without its eBPF programs; build it with `cargo xtask build`")]
    NoObject,
    #[error("{path} is not a cgroup v2 directory; give one with --cgroup, or mount cgroup v2 with `mount -t cgroup2 none /sys/fs/cgroup`", path = .0.display())]
    NotCgroup2(PathBuf),
    #[error("{path} is not in a bpffs; mount one with `mount -t bpf bpf /sys/fs/bpf`, or give a directory in one with --pin-dir", path = .0.display())]
    NotBpffs(PathBuf),
    #[error("the pin directory {path} cannot be made: {source}; give another with --pin-dir", path = .path.display())]
    PinDir { path: PathBuf, source: io::Error },
    #[error(transparent)]
    PinLock(#[from] PinLockError),
    #[error("the maps pinned in {path} have layout version {found} and this svclb has {ours}; run `svclb cleanup --pin-dir {path}` and start again (connections made before stay, new ones wait until then)", path = .path.display())]
    OtherAbi {
        path: PathBuf,
        found: u32,
        ours: u32,
    },
    #[error("--max-peers is {0}, and must be a power of two")]
    PeersNotPowerOfTwo(u32),
    #[error("the eBPF object was not accepted: {0}; see the kernel's log")]
    Object(String),
    #[error(
        "svclb may not open as many files as it needs; raise its limit of file descriptors to 1024"
    )]
    Descriptors,
    #[error(
        "the kernel has no memory for the maps; raise svclb's memory limit, or lower the sizes --max-…"
    )]
    Memory,
    #[error(
        "the kernel refused the program {program}: {source}; please report it with the output of `uname -a`"
    )]
    Program {
        program: &'static str,
        source: Box<ProgramError>,
    },
    #[error("the maps cannot be opened: {0}; run `svclb cleanup` and start again")]
    Pinned(#[from] PinnedError),
    #[error("the maps cannot be written: {0}; svclb needs the capability to use bpf(2)")]
    Maps(#[source] io::Error),
}

impl OpenError {
    /// The error of a map operation.
    pub(crate) fn maps(error: io::Error) -> Self {
        Self::exhausted(&error).unwrap_or(Self::Maps(error))
    }

    /// The resource that ran out, where an error was caused by that.
    pub(crate) fn exhausted(error: &(dyn Error + 'static)) -> Option<Self> {
        match errno(error)? {
            libc::EMFILE | libc::ENFILE => Some(Self::Descriptors),
            libc::ENOMEM => Some(Self::Memory),
            _ => None,
        }
    }
}

/// The first errno in a chain of errors.
pub(crate) fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            // One that wraps another has none of its own.
            return error.raw_os_error().or_else(|| errno(error.get_ref()?));
        }
        cause = error.source();
    }
    None
}

/// The pins cannot be read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum PinnedError {
    #[error("nothing of svclb is pinned in {path}; start `svclb run`, or give its --pin-dir", path = .0.display())]
    Nothing(PathBuf),
    #[error("the maps pinned in {path} have layout version {found} and this svclb reads {ours}; use the svclb that made them", path = .path.display())]
    OtherAbi {
        path: PathBuf,
        found: u32,
        ours: u32,
    },
    #[error("the map {name} pinned in {path} cannot be read: {source}; svclb must be root", path = .path.display())]
    Map {
        path: PathBuf,
        name: &'static str,
        source: io::Error,
    },
}

/// Another process has locked the pin directory, or it cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum PinLockError {
    /// An agent runs.
    #[error("another svclb runs with the pin directory {path}; stop it first, or give another with --pin-dir", path = .0.display())]
    Taken(PathBuf),
    /// The directory cannot be opened or locked.
    #[error("the pin directory {path} cannot be locked: {source}; give another with --pin-dir", path = .path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A program could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The cgroup cannot be opened.
    #[error("the cgroup {path} cannot be opened: {source}; name another with --cgroup", path = .path.display())]
    Cgroup {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An earlier agent attached to another cgroup.
    #[error("the pins in {pin_dir} are attached to another cgroup than {cgroup}; run `svclb cleanup --pin-dir {pin_dir}` first, or give the same --cgroup as before", pin_dir = .pin_dir.display(), cgroup = .cgroup.display())]
    OtherCgroup {
        /// The pins.
        pin_dir: PathBuf,
        /// The cgroup that was given.
        cgroup: PathBuf,
    },
    /// The kernel refused.
    #[error("{program} cannot be attached to {cgroup}: {source}; see the kernel's log", cgroup = .cgroup.display())]
    Link {
        /// Which program.
        program: &'static str,
        /// Where.
        cgroup: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A packet program could not be attached to a device.
#[derive(Debug, thiserror::Error)]
#[error("{program} cannot be attached to the device {device}: {source}; {advice}")]
pub struct DeviceError {
    /// Which program.
    pub program: &'static str,
    /// Where.
    pub device: String,
    /// Why.
    pub source: io::Error,
    /// What to do.
    pub advice: &'static str,
}

impl DeviceError {
    /// Whether the device is no more.
    pub fn is_gone(&self) -> bool {
        matches!(errno(&self.source), Some(libc::ENODEV | libc::ENXIO))
    }
}

/// Why not everything was removed.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// An agent runs: it would pin and attach everything again.
    #[error(transparent)]
    PinLock(#[from] PinLockError),
    /// A pin or a directory cannot be removed.
    #[error("{path} cannot be removed: {source}; run `svclb cleanup` as root again", path = .path.display())]
    Remove {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A filesystem that svclb needs is not mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// `/proc/mounts` cannot be read.
    #[error("/proc/mounts cannot be read: {0}; mount /proc")]
    Proc(#[source] io::Error),
    /// No cgroup v2.
    #[error(
        "cgroup v2 is not mounted; mount it with `mount -t cgroup2 none /sys/fs/cgroup`, or name a cgroup with --cgroup"
    )]
    NoCgroup2,
    /// What is mounted is a part of the hierarchy.
    #[error(
        "{0} is the cgroup of a container and not the machine's root, so only the container's own sockets \
         would be translated; give the container the host's cgroups (Docker: --cgroupns=host; Kubernetes: \
         a hostPath volume of /sys/fs/cgroup), or name a cgroup with --cgroup"
    )]
    PrivateCgroup(PathBuf),
    /// No bpffs.
    #[error("no bpffs is mounted; mount one with `mount -t bpf bpf /sys/fs/bpf`")]
    NoBpffs,
}
