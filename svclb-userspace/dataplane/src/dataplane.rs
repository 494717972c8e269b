//! [`Dataplane`]: the programs, and the maps that they share with the agent.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use aya::programs::ProgramError;
use aya::{Ebpf, VerifierLogLevel};
use svclb_common::{Hook, PortBe, maps as names};
use svclb_core::ports::{PortBit, PortRules};

use crate::attach::cgroup::{self, Attachment};
use crate::attach::device::{self, DeviceAttachment, DevicePrograms};
use crate::attach::links::Links;
use crate::error::{AttachError, DeviceError, OpenError};
use crate::features::{Features, features};
use crate::kernel_flows::{self, FlowsAt, LeftToKernel};
use crate::maps::devices::Devices;
use crate::maps::flows::Flows;
use crate::maps::kernel_maps::KernelMaps;
use crate::maps::{meta, ports};
use crate::migration::flows::{CarriedOver, Earlier};
use crate::options::{Forwarding, Options};
use crate::pin_lock::PinLock;
use crate::pins::{Pins, make_dir};
use crate::programs::{PROGRAMS, packet_programs};
use crate::reserved_ports::{Ports, ReservedPorts};
use crate::source_ports::{PortRange, ephemeral_node_ports, ephemeral_ports};
use crate::test_run::{self, TestFrame, TestRun};
use crate::udp_sockets::{UdpSockets, UdpSocketsError};
use crate::{load, migration, preflight, sys};

/// The programs, loaded and verified, and the maps that they share with us.
pub struct Dataplane {
    ebpf: Ebpf,
    pins: Pins,
    pin_lock: PinLock,
    links: Links,
    /// By name. The programs hold the maps too, but a map whose pin was removed can be pinned again
    /// by its descriptor alone.
    maps: Vec<(&'static str, sys::Map)>,
    cgroup: PathBuf,
    features: Features,
    source_ports: PortRange,
    /// Those that programs of earlier agents may choose from, and those that any of them reserved.
    earlier_source_ports: Ports,
    reserved_ports: ReservedPorts,
    /// Whether packets may reach cluster IPs.
    cluster_ips: bool,
    /// Whether packets are translated.
    packets: bool,
    forwarding: Forwarding,
    /// The flows of an earlier agent's programs, until these are replaced.
    earlier_flows: Option<Earlier>,
    warnings: Vec<String>,
}

impl Dataplane {
    /// Checks the machine, makes or adopts the pinned maps, and loads the programs.
    /// Attaches nothing.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        preflight::check(options)?;
        let pins = Pins::new(&options.pin_dir);
        make_dir(pins.dir())?;
        let pin_lock = PinLock::new(pins.dir())?;
        let earlier = meta::read(&pins)?;
        let earlier_source_ports = earlier.as_ref().and_then(meta::source_ports);
        let earlier_version = earlier.as_ref().map(|meta| meta.abi_version);
        let mut warnings = Vec::new();
        let pins = migration::begin(pins, &mut warnings)?;
        pins.make_dirs()?;
        let sizes = load::adopted_sizes(&pins, options.sizes, &mut warnings)?;
        let features = features();
        let mut ebpf =
            load::load_object(&pins, sizes, features, options, VerifierLogLevel::default())?;
        let socket_programs = PROGRAMS.iter().map(|program| program.name);
        let packet_programs: &[_] = if options.packets {
            packet_programs(options.forwarding)
        } else {
            &[]
        };
        for program in socket_programs.chain(packet_programs.iter().copied()) {
            load::load_program(&mut ebpf, program)?;
        }
        // First: without a record, the range in META is taken for one that was reserved.
        let reserved_ports =
            ReservedPorts::open(&pins, earlier_source_ports).map_err(OpenError::maps)?;
        let mut earlier_ports = reserved_ports.read().map_err(OpenError::maps)?;
        earlier_ports.extend(earlier_source_ports.iter().flat_map(|range| range.ports()));
        // Until this agent's programs are attached, those of the agent before choose from its range.
        meta::write(&pins, earlier_source_ports).map_err(OpenError::maps)?;

        #[cfg(feature = "kernel-log")]
        crate::kernel_log::forward(&mut ebpf);
        let hold = |name| Ok((name, sys::Map::open(&pins.map(name))?));
        let held = names::all().map(hold).collect::<io::Result<_>>();
        let earlier_flows =
            migration::earlier_flows(&pins, earlier_version).map_err(OpenError::maps)?;
        Ok(Self {
            ebpf,
            pin_lock,
            links: Links::new(pins.clone()),
            maps: held.map_err(OpenError::maps)?,
            pins,
            cgroup: options.cgroup.clone(),
            features,
            source_ports: options.source_ports,
            earlier_source_ports: earlier_ports,
            reserved_ports,
            cluster_ips: options.external_cluster_ips || options.pod_devices,
            packets: options.packets,
            forwarding: options.forwarding,
            earlier_flows,
            warnings,
        })
    }

    /// Keeps sockets of the calling thread's network namespace off the source ports, unless they
    /// ask for one by its number. Those of an earlier agent's range stay reserved: its programs
    /// choose from them until they are replaced.
    ///
    /// # Errors
    /// The system's error; then nothing is reserved that was not before.
    pub fn reserve_source_ports(&self) -> io::Result<()> {
        self.reserved_ports.reserve(&self.kept_ports())
    }

    /// The source ports, and the NodePorts among those that the kernel gives sockets.
    fn kept_ports(&self) -> Vec<PortRange> {
        let node_ports = ephemeral_ports().ok().and_then(ephemeral_node_ports);
        node_ports.into_iter().chain([self.source_ports]).collect()
    }

    /// Gives back the ports that earlier agents reserved for another range, and no port that others
    /// had reserved. By then all programs must be attached, and [`Self::migrate`] be done. A port
    /// that a flow uses stays reserved until the next agent's call.
    ///
    /// # Errors
    /// The system's error; then nothing is given back.
    pub fn give_back_source_ports(&self) -> io::Result<()> {
        meta::write(&self.pins, Some(self.source_ports))?;
        let flows = sys::Map::open(&self.pins.map(names::FLOWS))?;
        let used = ports::of_flows(&flows)?;
        let used = used.iter().filter(|bit| bit.hook == Hook::INGRESS);
        let used = used.map(|bit| bit.port.get()).collect();
        self.reserved_ports
            .give_back_all_but(&self.kept_ports(), &used)
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
                cgroup::attach(
                    &self.pins,
                    &mut self.links,
                    &self.cgroup,
                    program,
                    fd.as_fd(),
                )
            })
            .collect()
    }

    /// Pins maps and links again whose pins were removed. Returns how many.
    ///
    /// # Errors
    /// [`OpenError::PinDir`], [`OpenError::PinLock`] if another agent is there by now, or
    /// [`OpenError::Maps`].
    pub fn pin_again(&mut self) -> Result<usize, OpenError> {
        self.pins.make_dirs()?;
        self.pin_lock.renew()?;
        let mut pinned = 0;
        let maps = self.maps.iter();
        let maps = maps.map(|(name, map)| (self.pins.map(name), map));
        let record = (self.pins.reserved_ports(), self.reserved_ports.map());
        for (path, map) in maps.chain([record]) {
            match sys::Map::open(&path) {
                Ok(there) if there.id == map.id => continue,
                Ok(_) => fs::remove_file(&path).map_err(OpenError::maps)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(OpenError::Maps(error)),
            }
            sys::pin(map.as_fd(), &path).map_err(OpenError::maps)?;
            pinned += 1;
        }
        Ok(pinned + self.links.pin_again().map_err(OpenError::maps)?)
    }

    /// Has flows of an earlier agent's programs go on: those in a map of another layout, and those that the
    /// programs forwarded where now the kernel does. Before these are attached, so that no packet of
    /// such a flow is one of none; and after, for flows that were opened meanwhile. What cannot
    /// go on before may go on after.
    ///
    /// # Errors
    /// The system's error.
    pub fn carry_flows_over(&self) -> io::Result<CarriedOver> {
        let Some(earlier) = &self.earlier_flows else {
            return Ok(CarriedOver::default());
        };
        let flows = sys::Map::open(&self.pins.map(names::FLOWS))?;
        earlier.carry_over(&flows, self.forwarding)
    }

    /// Has flows go on that the kernel's own conntrack translates at these frontends, as kube-proxy's
    /// rules told it to: the packet programs leave them to the kernel. Before the programs see their
    /// packets, or the frontend is written, so that none of them is one of none; and after, for flows that
    /// were opened meanwhile.
    ///
    /// # Errors
    /// The system's error, also where the kernel has no ctnetlink; what was entered before it stays.
    pub fn leave_flows_to_kernel(&self, at: FlowsAt<'_>) -> io::Result<LeftToKernel> {
        if !self.packets {
            return Ok(LeftToKernel::default());
        }
        kernel_flows::enter(&self.pins, &self.port_rules(), at)
    }

    /// Puts maps that were made beside those of another layout in their place. By then they must be
    /// filled, and all programs that use them attached.
    ///
    /// # Errors
    /// [`OpenError::PinDir`].
    pub fn migrate(&mut self) -> Result<(), OpenError> {
        self.earlier_flows = None;
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
        let kept = self.earlier_source_ports.iter();
        let kept = kept.map(|port| PortBit::ingress(PortBe::new(*port)));
        KernelMaps::open(&self.pins, kept.collect()).map_err(OpenError::maps)
    }

    /// Which bits of `PORTS` are needed, by the settings of this data path.
    pub const fn port_rules(&self) -> PortRules {
        let [first, last] = self.source_ports.ends();
        PortRules {
            source_ports: first..=last,
            cluster_ips: self.cluster_ips,
        }
    }

    /// The map of devices.
    ///
    /// # Errors
    /// [`OpenError::Maps`].
    pub fn devices(&self) -> Result<Devices, OpenError> {
        Devices::open(&self.pins).map_err(OpenError::maps)
    }

    /// The flows from outside.
    ///
    /// # Errors
    /// [`OpenError::Maps`].
    pub fn flows(&self) -> Result<Flows, OpenError> {
        Flows::open(&self.pins).map_err(OpenError::maps)
    }

    /// Attaches the packet programs to a device of the caller's network namespace, or puts them
    /// in the place of those that an earlier agent attached.
    ///
    /// # Errors
    /// [`DeviceError`]; what was attached before it stays, other than XDP in another mode.
    pub fn attach_device(
        &mut self,
        name: &str,
        index: u32,
        programs: DevicePrograms,
    ) -> Result<DeviceAttachment, DeviceError> {
        device::attach(&mut self.ebpf, &mut self.links, name, index, programs)
    }

    /// Detaches the packet programs from a device, which may be gone. (Where they are filters, before
    /// Linux 6.6, [`detach_filters`](crate::detach_filters) does.)
    ///
    /// # Errors
    /// The first pin that cannot be removed.
    pub fn detach_device(&mut self, index: u32) -> io::Result<()> {
        device::detach(&mut self.links, index)
    }

    /// Detaches the packet programs from all devices but these.
    ///
    /// # Errors
    /// The first pin that cannot be removed.
    pub fn keep_devices(&mut self, keep: &[u32]) -> io::Result<()> {
        device::keep(&self.pins, &mut self.links, keep)
    }

    /// Runs a packet program (`svclb_ingress`, `svclb_egress`, `svclb_xdp`…) on a frame that
    /// never was on a wire, as if it came in by the loopback device: for tests and benchmarks.
    /// Repeated runs get what the run before left.
    ///
    /// # Errors
    /// The system's error.
    pub fn test_run(&self, program: &str, frame: &[u8], repeat: u32) -> io::Result<TestRun> {
        let frame = TestFrame {
            bytes: frame,
            ..TestFrame::default()
        };
        self.test_run_at(program, &frame, repeat)
    }

    /// The same for a frame at a device, with a mark.
    ///
    /// # Errors
    /// The system's error.
    pub fn test_run_at(
        &self,
        program: &str,
        frame: &TestFrame<'_>,
        repeat: u32,
    ) -> io::Result<TestRun> {
        let loaded = self.ebpf.program(program);
        let loaded = loaded.ok_or_else(|| io::Error::other(ProgramError::NotLoaded))?;
        test_run::run(loaded, frame, repeat)
    }

    /// What the kernel offers.
    pub const fn features(&self) -> Features {
        self.features
    }

    /// The source ports that flows to backends on other nodes are given.
    pub const fn source_ports(&self) -> PortRange {
        self.source_ports
    }

    /// Warnings for the operator, a sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}
