//! A node: the real programs and maps, and as much of a kernel as lies between their hooks.

use std::collections::{HashMap as StdHashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{fs, process, thread};

use aya::maps::{HashMap, Map, MapData};
use nix::net::if_::if_nametoindex;
use svclb_common::maps::Sizes;
use svclb_common::{
    Addr16, BackendValue, DeviceFlags, DeviceValue, FlowValue, FrontendKey, PortBe, Proto, maps,
};
use svclb_core::conntrack::Timeouts;
use svclb_core::model::{Event, NodeConfig, Object};
use svclb_core::planner::Planner;
use svclb_core::serving::ServingIndex;
use svclb_core::writer::Writer;
use svclb_dataplane::{
    Dataplane, Flows, Forwarding, KernelMaps, Options, PortRange, TestFrame, TestRun, cleanup,
    find_bpffs, find_cgroup2,
};

use super::objects::{self, SERVICES, View};
use super::packet::Packet;

/// How many pods each node has.
pub(crate) const PODS: usize = 3;

/// The link address of every device.
const LINK: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// How the nodes forward.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    Kernel,
    DirectTc,
    DirectXdp,
}

/// A device of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Device {
    Uplink,
    Pod(usize),
}

/// Where a packet goes on from a node.
#[derive(Debug)]
pub(crate) enum Next {
    /// To the node's own sockets.
    Host(Vec<u8>),
    /// To a pod.
    Pod(usize, Vec<u8>),
    /// Into the network.
    Network(Vec<u8>),
    Dropped,
    /// Of two CPUs that had the packet at once, each made another one of it.
    Apart,
}

/// A packet at a hook, for the report of a failure.
pub(crate) type Trace = Vec<(usize, &'static str, Vec<u8>)>;

/// The verdict by which a hook drops a packet: `XDP_DROP` or `TC_ACT_SHOT`.
fn dropped(hook: &str) -> i32 {
    if hook == "svclb_xdp" { 1 } else { 2 }
}

/// One of the source translations of a network plugin: the tuple that leaves, and where replies go.
type Masqueraded = StdHashMap<(Proto, SocketAddr, SocketAddr), (SocketAddr, u64)>;

pub(crate) struct Node {
    pub(crate) number: usize,
    pub(crate) view: View,
    mode: Mode,
    uplink: u32,
    pods: [u32; PODS],
    planner: Planner,
    writer: Writer<KernelMaps>,
    flows: Flows,
    entries:
        HashMap<MapData, [u8; size_of::<svclb_common::FlowKey>()], [u8; size_of::<FlowValue>()]>,
    masqueraded: Masqueraded,
    /// What the host's sockets sent: protocol, to, and from.
    own: HashSet<(Proto, SocketAddr, SocketAddr)>,
    /// Whether no agent runs: the programs go on with what it wrote.
    pub(crate) is_away: bool,
    unheard: Vec<Event>,
    dataplane: Dataplane,
    _place: Place,
}

/// A cgroup and a pin directory. They go with it.
struct Place {
    pin_dir: PathBuf,
    cgroup: PathBuf,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _removed = cleanup(&self.pin_dir);
        let _gone = fs::remove_dir(&self.cgroup);
    }
}

/// Makes the devices of all nodes in the calling thread's namespace, which has to be its own. Each node has
/// maps of its own, so they share them.
pub(crate) fn make_devices() {
    let mut lines = vec![
        "link set lo up".to_owned(),
        "link add uplink address 02:00:00:00:00:01 type veth peer name far".to_owned(),
        "link set far up".to_owned(),
        "link set uplink up".to_owned(),
    ];
    for pod in 0..PODS {
        lines.push(format!(
            "link add pod{pod} address 02:00:00:00:00:01 type veth peer name peer{pod}"
        ));
        lines.push(format!("link set pod{pod} up"));
    }
    for (router, any, prefix) in [
        ("192.0.2.250", "0.0.0.0/0", 24),
        ("2001:db8:2::250", "::/0", 64),
    ] {
        lines.push(format!("address add {router}/{prefix} dev uplink"));
        let next = objects::router(router.contains(':'));
        lines.push(format!(
            "neighbor add {next} lladdr 02:00:00:00:00:63 dev uplink"
        ));
        for node in 0..2 {
            let node = objects::node_ip(node, next.is_ipv6());
            lines.push(format!(
                "neighbor add {node} lladdr 02:00:00:00:00:64 dev uplink"
            ));
        }
        lines.push(format!("route add {any} via {next} dev uplink"));
    }
    for file in ["ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"] {
        fs::write(format!("/proc/sys/net/{file}"), "1").unwrap();
    }
    for line in lines {
        let status = Command::new("ip").args(line.split(' ')).status().unwrap();
        assert!(status.success(), "ip {line}");
    }
}

impl Node {
    pub(crate) fn new(number: usize, mode: Mode) -> Self {
        let name = format!("svclb-network-{}-{mode:?}-{number}", process::id());
        let cgroup = find_cgroup2().unwrap().join(&name);
        fs::create_dir(&cgroup).expect("this test loads eBPF programs and so must run as root");
        let pin_dir = find_bpffs().unwrap().join(&name);
        let place = Place { pin_dir, cgroup };
        let dataplane = Dataplane::open(&Options {
            pin_dir: place.pin_dir.clone(),
            cgroup: place.cgroup.clone(),
            sizes: Sizes {
                peers: 1024,
                flows: 1 << 16,
                ..Sizes::DEFAULT
            },
            source_ports: PortRange::new(
                objects::SOURCE_PORTS.start,
                objects::SOURCE_PORTS.end - 1,
            )
            .unwrap(),
            external_cluster_ips: false,
            pod_devices: true,
            mark: 0x4000,
            conntrack: Timeouts::default(),
            packets: true,
            forwarding: match mode {
                Mode::Kernel => Forwarding::Kernel,
                Mode::DirectTc | Mode::DirectXdp => Forwarding::Direct,
            },
        })
        .unwrap_or_else(|error| panic!("{error}: {error:?}"));
        let [uplink, pods @ ..] =
            ["uplink", "pod0", "pod1", "pod2"].map(|name| if_nametoindex(name).unwrap());
        let [v4, v6] = [false, true].map(|is_v6| Addr16::from_ip(objects::node_ip(number, is_v6)));
        let devices = dataplane.devices().unwrap();
        let of_node = DeviceValue {
            v4,
            v6,
            link: LINK,
            flags: DeviceFlags::ATTACHED,
            ..DeviceValue::default()
        };
        devices.put(DeviceValue::NODE, &of_node).unwrap();
        devices.put(uplink, &of_node).unwrap();
        for pod in pods {
            let of_pod = DeviceValue {
                link: LINK,
                flags: DeviceFlags::ATTACHED.union(DeviceFlags::PODS),
                ..DeviceValue::default()
            };
            devices.put(pod, &of_pod).unwrap();
        }
        let mut planner = Planner::new(&objects::node_name(number));
        planner.set_node_config(NodeConfig {
            node_port_ips: vec![
                objects::node_ip(number, false),
                objects::node_ip(number, true),
            ],
            external_ips: true,
            ..NodeConfig::default()
        });
        let writer = Writer::adopt(dataplane.maps().unwrap(), dataplane.port_rules()).unwrap();
        let data = MapData::from_pin(place.pin_dir.join("maps").join(maps::FLOWS));
        let data = data.unwrap_or_else(|error| panic!("{error}"));
        let mut node = Self {
            number,
            view: View::default(),
            mode,
            uplink,
            pods,
            planner,
            writer,
            flows: dataplane.flows().unwrap(),
            entries: HashMap::try_from(Map::HashMap(data)).unwrap(),
            masqueraded: Masqueraded::new(),
            own: HashSet::new(),
            is_away: false,
            unheard: Vec::new(),
            dataplane,
            _place: place,
        };
        for service in 0..SERVICES {
            node.hear(Event::Apply(Object::Service(objects::service(service))));
        }
        node.hear(Event::Synced);
        node
    }

    /// The agent hears of a change, or will when it is back.
    fn hear(&mut self, event: Event) {
        self.unheard.push(event);
    }

    /// Which endpoints each Service has from now on.
    pub(crate) fn set_endpoints(&mut self, view: &View) {
        for event in view.events() {
            self.hear(event);
        }
        if !self.is_away {
            self.catch_up(view);
        }
    }

    /// The agent carries out what it has heard.
    pub(crate) fn catch_up(&mut self, view: &View) {
        for event in self.unheard.drain(..) {
            self.planner.observe(event);
        }
        while let Some(round) = self.planner.next_round(usize::MAX) {
            let report = self.writer.commit(&round);
            assert!(report.failed.is_empty(), "{report:?}");
        }
        self.writer.settle().unwrap();
        self.view = view.clone();
        self.sweep();
    }

    /// As the agent sweeps: flows that are over, and those of UDP whose backend does not serve.
    pub(crate) fn sweep(&self) {
        if self.is_away {
            return;
        }
        let swept = self.flows.sweep(&Timeouts::default(), true).unwrap();
        let mut index = ServingIndex::new(&self.planner);
        let parts = |at: SocketAddr| (Addr16::from_ip(at.ip()), PortBe::new(at.port()));
        let mut gone = swept.udp;
        gone.retain(|flow| {
            let (frontend, backend) = (parts(flow.frontend), parts(flow.backend));
            let frontend = FrontendKey::of_socket(frontend.0, frontend.1, Proto::UDP);
            let backend = BackendValue::new(backend.0, backend.1, Proto::UDP);
            !index.serves(&frontend, &backend)
        });
        self.flows.remove(&gone).unwrap();
    }

    /// Removes what is over once nothing is remembered for any time, and tells how many entries are left.
    pub(crate) fn left_over(&self) -> usize {
        let at_once = Timeouts {
            tcp_opening: Duration::ZERO,
            tcp_established: Duration::ZERO,
            tcp_half_closed: Duration::ZERO,
            tcp_closed: Duration::ZERO,
            tcp_reset: Duration::ZERO,
            udp: Duration::ZERO,
            udp_stream: Duration::ZERO,
        };
        self.flows.sweep(&at_once, false).unwrap();
        self.entries.keys().count()
    }

    /// Lets time pass: what was seen last, was so long ago, or when the machine was started.
    pub(crate) fn age(&mut self, by: Duration) {
        const LAST_SEEN: std::ops::Range<usize> = {
            let at = std::mem::offset_of!(FlowValue, last_seen_ns);
            at..at + 8
        };
        let all: Vec<_> = self.entries.iter().map(Result::unwrap).collect();
        for (key, mut value) in all {
            let last = u64::from_ne_bytes(value[LAST_SEEN].try_into().unwrap());
            // The machine may have been started less long ago.
            let last = last.saturating_sub(u64::try_from(by.as_nanos()).unwrap());
            value[LAST_SEEN].copy_from_slice(&last.to_ne_bytes());
            self.entries.insert(key, value, 0).unwrap();
        }
        let seconds = by.as_secs();
        self.masqueraded.retain(|_, (_, age)| {
            *age += seconds;
            *age < 24 * 3600
        });
    }

    /// Forgets all flows.
    pub(crate) fn reset(&mut self) {
        let keys: Vec<_> = self.entries.keys().map(Result::unwrap).collect();
        for key in keys {
            self.entries.remove(&key).unwrap();
        }
        self.masqueraded.clear();
        self.own.clear();
    }

    /// Whether a pod is masqueraded to what a socket of the host would send from: the kernel would give that
    /// another port.
    pub(crate) fn is_masqueraded(&self, proto: Proto, to: SocketAddr, from: SocketAddr) -> bool {
        self.masqueraded.contains_key(&(proto, to, from))
    }

    /// A packet comes in by a device. `twice`: two CPUs have it at once.
    pub(crate) fn comes_in(
        &mut self,
        device: Device,
        bytes: Vec<u8>,
        twice: bool,
        trace: &mut Trace,
    ) -> Next {
        let hooks: &[&'static str] = match (self.mode, device) {
            (Mode::Kernel, _) | (_, Device::Pod(_)) => &["svclb_ingress"],
            (Mode::DirectTc, Device::Uplink) => &["svclb_ingress_direct"],
            (Mode::DirectXdp, Device::Uplink) => &["svclb_xdp", "svclb_ingress_direct"],
        };
        let mut bytes = bytes;
        let mut mark = 0;
        for hook in hooks {
            trace.push((self.number, hook, bytes.clone()));
            let run = if twice {
                let [mut one, other] = self.twice(hook, device, &bytes);
                // One that comes while the other one's flow is being opened anew may be dropped, as a copy.
                if one.verdict == dropped(hook) {
                    one = other.clone();
                }
                let is_one = (one.verdict, &one.frame) == (other.verdict, &other.frame);
                if !is_one && other.verdict != dropped(hook) {
                    trace.push((self.number, "one CPU", one.frame));
                    trace.push((self.number, "the other", other.frame));
                    return Next::Apart;
                }
                one
            } else {
                self.run(hook, device, &bytes, mark)
            };
            let is_xdp = *hook == "svclb_xdp";
            bytes = run.frame;
            mark |= run.mark;
            match (is_xdp, run.verdict) {
                (true, 2) | (false, -1) => {}
                (true, 1) | (false, 2) => return Next::Dropped,
                // Sent, or sent back. What XDP sends passes no other program.
                (true, 3 | 4) => return Next::Network(bytes),
                (false, 7) => {
                    let Some(packet) = Packet::read(&bytes) else {
                        // An ICMP error about it goes back.
                        return match device {
                            Device::Uplink => Next::Network(bytes),
                            Device::Pod(pod) => Next::Pod(pod, bytes),
                        };
                    };
                    return match (device, self.pod(packet.to.ip())) {
                        (Device::Pod(_), Some(pod)) => {
                            self.leaves(Device::Pod(pod), bytes, mark, trace)
                        }
                        _ => self.leaves(Device::Uplink, bytes, mark, trace),
                    };
                }
                verdict => panic!("{hook}: {verdict:?}"),
            }
        }
        self.forward(device, bytes, mark, trace)
    }

    /// The host itself sends a packet.
    pub(crate) fn sends(&mut self, packet: &Packet, trace: &mut Trace) -> Next {
        self.own.insert((packet.proto, packet.to, packet.from));
        if let Some(pod) = self.pod(packet.to.ip()) {
            return self.leaves(Device::Pod(pod), packet.bytes(), 0, trace);
        }
        self.leaves(Device::Uplink, packet.bytes(), 0, trace)
    }

    /// Routes a packet, as a kernel does, whose network plugin masquerades what pods send out of the cluster.
    fn forward(&mut self, by: Device, bytes: Vec<u8>, mark: u32, trace: &mut Trace) -> Next {
        let Some(mut packet) = Packet::read(&bytes) else {
            return Next::Dropped;
        };
        let mut bytes = bytes;
        let reply = (packet.proto, packet.from, packet.to);
        if let Some((pod, age)) = self.masqueraded.get_mut(&reply) {
            *age = 0;
            packet.to = *pod;
            bytes = packet.bytes();
        }
        if let Some(pod) = self.pod(packet.to.ip()) {
            return self.leaves(Device::Pod(pod), bytes, mark, trace);
        }
        if packet.to.ip() == objects::node_ip(self.number, packet.to.is_ipv6()) {
            return Next::Host(bytes);
        }
        if matches!(by, Device::Pod(_))
            && objects::is_server(packet.to)
            && packet.label.connection != 0
            && !packet.label.is_reply
        {
            packet.from = self.masquerade(&packet);
            bytes = packet.bytes();
        }
        self.leaves(Device::Uplink, bytes, mark, trace)
    }

    /// The source that a pod's packet is given where it leaves the cluster.
    fn masquerade(&mut self, packet: &Packet) -> SocketAddr {
        let known = self
            .masqueraded
            .iter_mut()
            .find(|((proto, to, _), (pod, _))| {
                *proto == packet.proto && *to == packet.to && *pod == packet.from
            });
        if let Some(((_, _, own), (_, age))) = known {
            *age = 0;
            return *own;
        }
        let ip = objects::node_ip(self.number, packet.to.is_ipv6());
        loop {
            let own = SocketAddr::new(ip, objects::masquerading_port());
            let key = (packet.proto, packet.to, own);
            if self.own.contains(&key) {
                continue;
            }
            if let std::collections::hash_map::Entry::Vacant(entry) = self.masqueraded.entry(key) {
                entry.insert((packet.from, 0));
                return own;
            }
        }
    }

    /// A packet leaves by a device.
    fn leaves(&mut self, device: Device, bytes: Vec<u8>, mark: u32, trace: &mut Trace) -> Next {
        const HOOK: &str = "svclb_egress";
        trace.push((self.number, HOOK, bytes.clone()));
        let run = self.run(HOOK, device, &bytes, mark);
        match (run.verdict, device) {
            (-1, Device::Uplink) => Next::Network(run.frame),
            (-1, Device::Pod(pod)) => Next::Pod(pod, run.frame),
            (2, _) => Next::Dropped,
            (verdict, _) => panic!("{HOOK}: {verdict}"),
        }
    }

    fn run(&self, hook: &str, device: Device, bytes: &[u8], mark: u32) -> TestRun {
        let device = match device {
            Device::Uplink => self.uplink,
            Device::Pod(pod) => self.pods[pod],
        };
        // The kernel would take it for a packet to another machine.
        let mut bytes = bytes.to_vec();
        bytes[..6].copy_from_slice(&LINK);
        bytes[6..12].fill(0);
        let frame = TestFrame {
            bytes: &bytes,
            device,
            mark,
        };
        self.dataplane.test_run_at(hook, &frame, 1).unwrap()
    }

    fn twice(&self, hook: &str, device: Device, bytes: &[u8]) -> [TestRun; 2] {
        let arrived = AtomicU32::new(0);
        let one = || {
            arrived.fetch_add(1, Ordering::SeqCst);
            while arrived.load(Ordering::SeqCst) < 2 {
                std::hint::spin_loop();
            }
            self.run(hook, device, bytes, 0)
        };
        thread::scope(|scope| {
            let other = scope.spawn(one);
            let first = one();
            [first, other.join().unwrap()]
        })
    }

    /// Which pod of this node has an address.
    fn pod(&self, ip: IpAddr) -> Option<usize> {
        (0..PODS).find(|pod| objects::pod_ip(self.number, *pod, ip.is_ipv6()) == ip)
    }
}
