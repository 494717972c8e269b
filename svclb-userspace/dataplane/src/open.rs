//! Making or adopting the maps, and loading the programs.

use std::error::Error;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfLoader};
use caps::{CapSet, Capability};
use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};
use nix::unistd::geteuid;
use svclb_common::Meta;
use svclb_common::maps::{self as names, Sizes};
use svclb_core::error_chain::error_chain;

use crate::attach::{self, AttachError, Attachment, PROGRAMS};
use crate::device_map::Devices;
use crate::features::{Features, features};
use crate::flows::Flows;
use crate::kernel_maps::KernelMaps;
use crate::links::Links;
use crate::pin_lock::{PinLock, PinLockError};
use crate::pinned::PinnedError;
use crate::pins::Pins;
use crate::port_bits::PortBits;
use crate::ports::PortRange;
use crate::udp_sockets::{UdpSockets, UdpSocketsError};
use crate::{OBJECT, migration, packets, sys};

/// What the data path is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// A directory in a bpffs, made if it is not there.
    pub pin_dir: PathBuf,
    /// The cgroup whose sockets are translated.
    pub cgroup: PathBuf,
    /// How many entries each map holds, where it is made anew.
    pub sizes: Sizes,
    /// The source ports of flows to backends elsewhere.
    pub source_ports: PortRange,
    /// Whether packets from outside may reach cluster IPs.
    pub external_cluster_ips: bool,
    /// Whether devices are going to be attached to, so that the packet programs are loaded.
    pub packets: bool,
}

/// Why there is no data path. Each says what to do.
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
    KernelTooOld(String),
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

/// The programs, loaded and verified, and the maps that they share with us.
pub struct Dataplane {
    ebpf: Ebpf,
    pins: Pins,
    pin_lock: PinLock,
    links: Links,
    /// By name: programs hold maps too, but who removes a pin makes a map nameless.
    maps: Vec<(&'static str, sys::Map)>,
    cgroup: PathBuf,
    features: Features,
    source_ports: PortRange,
    external_cluster_ips: bool,
    warnings: Vec<String>,
}

impl Dataplane {
    /// Checks the machine, makes or adopts the pinned maps, and loads the programs.
    /// Attaches nothing.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        check_machine(options)?;
        let pins = Pins::new(&options.pin_dir);
        make_dir(pins.dir())?;
        let pin_lock = PinLock::new(pins.dir())?;
        let mut warnings = Vec::new();
        let pins = migration::begin(pins, &mut warnings)?;
        make_pin_dir(&pins)?;
        let sizes = adopted_sizes(&pins, options.sizes, &mut warnings)?;
        let features = features();
        let mut ebpf = load_object(&pins, sizes, features, options)?;
        let socket_programs = PROGRAMS.iter().map(|program| program.name);
        let packet_programs = options.packets.then_some(packets::PROGRAMS);
        for program in socket_programs.chain(packet_programs.into_iter().flatten()) {
            load_program(&mut ebpf, program)?;
        }
        write_meta(&pins, options.source_ports)?;

        #[cfg(feature = "kernel-log")]
        crate::kernel_log::follow(&mut ebpf);
        let hold = |name| Ok((name, sys::Map::open(&pins.map(name))?));
        let held = names::all().map(hold).collect::<io::Result<_>>();
        Ok(Self {
            ebpf,
            pin_lock,
            links: Links::new(pins.clone()),
            maps: held.map_err(maps)?,
            pins,
            cgroup: options.cgroup.clone(),
            features,
            source_ports: options.source_ports,
            external_cluster_ips: options.external_cluster_ips,
            warnings,
        })
    }

    /// Attaches every program, or replaces the one that an earlier agent attached.
    ///
    /// # Errors
    /// [`AttachError`]; programs attached before it stay attached.
    pub fn attach(&mut self) -> Result<Vec<Attachment>, AttachError> {
        PROGRAMS
            .iter()
            .map(|program| {
                let refused = |source: ProgramError| AttachError::Link {
                    program: program.name,
                    cgroup: self.cgroup.clone(),
                    source: io::Error::other(source),
                };
                let missing = || refused(ProgramError::NotLoaded);
                let loaded = self.ebpf.program(program.name).ok_or_else(missing)?;
                let fd = loaded.fd().map_err(refused)?;
                attach::attach(
                    &self.pins,
                    &mut self.links,
                    &self.cgroup,
                    program,
                    fd.as_fd(),
                )
            })
            .collect()
    }

    /// Pins again what somebody unpinned: maps and links, which both are held here. Returns
    /// how many.
    ///
    /// # Errors
    /// [`OpenError::PinDir`], [`OpenError::PinLock`] if another agent is there by now, or
    /// [`OpenError::Maps`].
    pub fn pin_again(&mut self) -> Result<usize, OpenError> {
        make_pin_dir(&self.pins)?;
        self.pin_lock.renew()?;
        let mut pinned = 0;
        for (name, map) in &self.maps {
            let path = self.pins.map(name);
            match sys::Map::open(&path) {
                Ok(there) if there.id == map.id => continue,
                Ok(_) => fs::remove_file(&path).map_err(maps)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(OpenError::Maps(error)),
            }
            sys::pin(map.as_fd(), &path).map_err(maps)?;
            pinned += 1;
        }
        Ok(pinned + self.links.pin_again().map_err(maps)?)
    }

    /// Maps that were made beside those of another layout take their place. Everything that
    /// exists is in them by then, and all programs that use them are attached.
    ///
    /// # Errors
    /// [`OpenError::PinDir`].
    pub fn migrate(&mut self) -> Result<(), OpenError> {
        if self.pins.is_beside() {
            self.pins = migration::end(&self.pins).map_err(|source| OpenError::PinDir {
                path: self.pins.dir().to_owned(),
                source,
            })?;
        }
        Ok(())
    }

    /// The connected UDP sockets of this node.
    ///
    /// # Errors
    /// [`UdpSocketsError`].
    pub fn udp_sockets(&self) -> Result<UdpSockets, UdpSocketsError> {
        UdpSockets::of(&self.pins)
    }

    /// The maps, for the writer.
    ///
    /// # Errors
    /// [`OpenError::Maps`].
    pub fn maps(&self) -> Result<KernelMaps, OpenError> {
        PortBits::open(&self.pins, self.source_ports, self.external_cluster_ips)
            .and_then(|ports| KernelMaps::open(&self.pins, ports))
            .map_err(maps)
    }

    /// The map of devices.
    ///
    /// # Errors
    /// [`OpenError::Maps`].
    pub fn devices(&self) -> Result<Devices, OpenError> {
        Devices::open(&self.pins).map_err(maps)
    }

    /// The flows from outside.
    ///
    /// # Errors
    /// [`OpenError::Maps`].
    pub fn flows(&self) -> Result<Flows, OpenError> {
        Flows::open(&self.pins).map_err(maps)
    }

    pub(crate) const fn pins(&self) -> &Pins {
        &self.pins
    }

    pub(crate) fn program_mut(&mut self, name: &str) -> Option<&mut Program> {
        self.ebpf.program_mut(name)
    }

    pub(crate) const fn links(&mut self) -> &mut Links {
        &mut self.links
    }

    pub(crate) fn packet_program_and_links(
        &mut self,
        name: &str,
    ) -> io::Result<(BorrowedFd<'_>, &mut Links)> {
        Ok((loaded_program(&self.ebpf, name)?, &mut self.links))
    }

    pub(crate) fn packet_program(&self, name: &str) -> io::Result<BorrowedFd<'_>> {
        loaded_program(&self.ebpf, name)
    }

    /// What the kernel offers.
    pub const fn features(&self) -> Features {
        self.features
    }

    /// What the operator should know, a sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

fn check_machine(options: &Options) -> Result<(), OpenError> {
    if OBJECT.is_empty() {
        return Err(OpenError::NoObject);
    }
    if !geteuid().is_root() {
        return Err(OpenError::NotRoot);
    }
    for capability in [
        Capability::CAP_BPF,
        Capability::CAP_PERFMON,
        Capability::CAP_NET_ADMIN,
    ] {
        // What cannot be asked will be seen when it is needed.
        let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(true);
        if !has(capability) {
            return Err(OpenError::Capability(capability));
        }
    }
    let release = sys::kernel_release();
    if version(&release) < (5, 10) {
        return Err(OpenError::KernelTooOld(release));
    }
    if !options.sizes.peers.is_power_of_two() {
        return Err(OpenError::PeersNotPowerOfTwo(options.sizes.peers));
    }
    if filesystem(&options.cgroup) != Some(CGROUP2_SUPER_MAGIC) {
        return Err(OpenError::NotCgroup2(options.cgroup.clone()));
    }
    let existing = options.pin_dir.ancestors().find(|path| path.exists());
    if existing.and_then(filesystem) != Some(BPF_FS_MAGIC) {
        return Err(OpenError::NotBpffs(options.pin_dir.clone()));
    }
    Ok(())
}

fn filesystem(path: &Path) -> Option<FsType> {
    statfs(path).ok().map(|stat| stat.filesystem_type())
}

/// The first two numbers of a kernel release.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn make_pin_dir(pins: &Pins) -> Result<(), OpenError> {
    [pins.dir().to_owned(), pins.maps(), pins.links()]
        .iter()
        .try_for_each(|path| make_dir(path))
}

/// A directory that only root may look into, if it is not there.
pub(crate) fn make_dir(path: &Path) -> Result<(), OpenError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| OpenError::PinDir {
            path: path.to_owned(),
            source,
        })
}

/// The sizes to load with: those of the pinned maps, where there are any.
fn adopted_sizes(
    pins: &Pins,
    wanted: Sizes,
    warnings: &mut Vec<String>,
) -> Result<Sizes, OpenError> {
    let mut sizes = wanted;
    for (name, size) in sizeable(&mut sizes) {
        if let Ok(map) = sys::Map::open(&pins.map(name))
            && map.max_entries != *size
        {
            warnings.push(format!(
                "the pinned map {name} holds {} entries and {size} are asked for; \
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

fn load_object(
    pins: &Pins,
    mut sizes: Sizes,
    features: Features,
    options: &Options,
) -> Result<Ebpf, OpenError> {
    let mut loader = EbpfLoader::new();
    for name in names::all() {
        loader.map_pin_path(name, pins.map(name));
    }
    for (name, size) in sizeable(&mut sizes) {
        loader.map_max_entries(name, *size);
    }
    let set_retval = u32::from(features.set_retval);
    let skc_to_mptcp_sock = u32::from(features.skc_to_mptcp_sock);
    let peers_mask = sizes.peers - 1;
    let cluster_ips_outside = u32::from(options.external_cluster_ips);
    let [first, _] = options.source_ports.ends();
    let (source_port_first, source_ports) = (u32::from(first), options.source_ports.count());
    loader
        .override_global("HAS_SET_RETVAL", &set_retval, true)
        .override_global("HAS_SKC_TO_MPTCP_SOCK", &skc_to_mptcp_sock, true)
        .override_global("HOST_NETNS_COOKIE", &features.host_netns_cookie, true)
        .override_global("CLUSTER_IPS_OUTSIDE", &cluster_ips_outside, true)
        .override_global("SOURCE_PORT_FIRST", &source_port_first, true)
        .override_global("SOURCE_PORTS", &source_ports, true)
        .override_global("PEERS_MASK", &peers_mask, true)
        .load(OBJECT)
        .map_err(|error| {
            let cause = system_error(&error);
            short_of(cause).unwrap_or_else(|| OpenError::Object(error_chain(&error)))
        })
}

fn load_program(ebpf: &mut Ebpf, program: &'static str) -> Result<(), OpenError> {
    /// The verifier gives up when a signal arrives (`bpf_check`), and has to be asked again.
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
    loaded.map_err(|source| {
        short_of(system_error(&source)).unwrap_or_else(|| OpenError::Program {
            program,
            source: Box::new(source),
        })
    })
}

fn loaded_program<'a>(ebpf: &'a Ebpf, name: &str) -> io::Result<BorrowedFd<'a>> {
    let loaded = ebpf.program(name).ok_or(ProgramError::NotLoaded);
    let fd = loaded.and_then(Program::fd).map_err(io::Error::other)?;
    Ok(fd.as_fd())
}

/// What the system said, below what was made of it.
fn system_error(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.raw_os_error();
        }
        cause = error.source();
    }
    None
}

/// What there is too little of, if that is the reason.
fn short_of(errno: Option<i32>) -> Option<OpenError> {
    match errno? {
        libc::EMFILE | libc::ENFILE => Some(OpenError::Descriptors),
        libc::ENOMEM => Some(OpenError::Memory),
        _ => None,
    }
}

/// What the system said of the maps.
fn maps(error: io::Error) -> OpenError {
    short_of(error.raw_os_error()).unwrap_or(OpenError::Maps(error))
}

fn write_meta(pins: &Pins, source_ports: PortRange) -> Result<(), OpenError> {
    let meta = Meta {
        source_ports: source_ports.ends(),
        ..Meta::CURRENT
    };
    sys::Map::open(&pins.map(names::META))
        .and_then(|map| map.update(sys::bytes(&0_u32), sys::bytes(&meta)))
        .map_err(maps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_distribution_kernels_are_read() {
        assert_eq!(version("5.10.0-34-amd64"), (5, 10));
        assert_eq!(version("6.18.44-fc-v595"), (6, 18));
        assert_eq!(version("4.19"), (4, 19));
        assert_eq!(version(""), (0, 0));
        assert!(version("5.9.16") < (5, 10));
    }
}
