//! A node with one Service, in maps of its own.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, process};

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use svclb_common::maps::Sizes;
use svclb_common::{Addr16, Counter, DeviceFlags, DeviceValue, Proto};
use svclb_core::apply::Maps as _;
use svclb_core::conntrack::Timeouts;
use svclb_core::model::{
    Conditions, Endpoint, EndpointPort, EndpointSlice, Event, Family as IpFamily, NodeConfig,
    Object, ObjectName, Service, ServicePort, ServiceType, TrafficPolicy,
};
use svclb_core::op::Op;
use svclb_core::planner::Planner;
use svclb_core::writer::Writer;
use svclb_dataplane::{
    Dataplane, Flow, FlowsAt, Forwarding, LeftToKernel, Options, Pinned, PortRange, TestRun,
    cleanup, find_bpffs, find_cgroup2,
};

use super::frames::Family;

pub(crate) const NODE_PORT: u16 = 30_080;
pub(crate) const TARGET: u16 = 8080;

const SIZES: Sizes = Sizes {
    peers: 1024,
    ..Sizes::DEFAULT
};

/// Where packets of clients come in.
pub(crate) const HOOKS: [&str; 3] = [DIRECT_HOOKS[0], DIRECT_HOOKS[1], "svclb_ingress"];
/// The same where the programs send packets on past the kernel (`--forwarding direct`).
pub(crate) const DIRECT_HOOKS: [&str; 2] = ["svclb_xdp", "svclb_ingress_direct"];
/// Where replies leave.
pub(crate) const EGRESS: &str = "svclb_egress";

/// The verdict that a frame goes on: `XDP_PASS`, or `TC_ACT_UNSPEC` for the next program.
#[expect(
    non_snake_case,
    reason = "they read as the constants that they are for each hook"
)]
pub(crate) fn PASS(hook: &str) -> i32 {
    if hook == HOOKS[0] { 2 } else { -1 }
}

/// The verdict that it goes nowhere: `XDP_DROP`, or `TC_ACT_SHOT`.
#[expect(non_snake_case, reason = "as above")]
pub(crate) fn DROP(hook: &str) -> i32 {
    if hook == HOOKS[0] { 1 } else { 2 }
}

/// The verdict that it leaves by another device: `XDP_REDIRECT`, or `TC_ACT_REDIRECT`.
#[expect(non_snake_case, reason = "as above")]
pub(crate) fn SENT(hook: &str) -> i32 {
    if hook == HOOKS[0] { 4 } else { 7 }
}

/// Fields go in this order: the programs first.
pub(crate) struct World {
    dataplane: Dataplane,
    place: Place,
}

/// A cgroup and a pin directory of a world's own. They go with it, also if it comes to nothing.
struct Place {
    pin_dir: PathBuf,
    cgroup: PathBuf,
}

impl Place {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("svclb-packets-{}-{number}", process::id());
        let cgroup = find_cgroup2().unwrap().join(&name);
        fs::create_dir(&cgroup).expect("this test loads eBPF programs and so must run as root");
        let pin_dir = find_bpffs().unwrap().join(&name);
        Self { pin_dir, cgroup }
    }
}

/// The `number`th of many other Services, with a backend of its own.
fn another(number: u32) -> [Object; 2] {
    let [_, a, b, c] = number.to_be_bytes();
    let name: std::sync::Arc<str> = format!("other-{number}").into();
    let mut service = Service {
        name: ObjectName::new("default", std::sync::Arc::clone(&name)),
        cluster_ips: vec![[10, 97 + a, b, c].into()],
        kind: ServiceType::ClusterIp,
        ..service(TrafficPolicy::Cluster)
    };
    service.ports.truncate(1);
    let mut slice = slice(Family::V4, &["node1"]);
    slice.name = ObjectName::new("default", format!("{name}-1"));
    slice.service = name;
    slice.endpoints[0].addr = [10, 128 + a, b, c].into();
    [Object::Service(service), Object::EndpointSlice(slice)]
}

fn service(policy: TrafficPolicy) -> Service {
    let port = |name: &str, proto| ServicePort {
        name: name.into(),
        port: 80,
        proto,
        node_port: NODE_PORT,
    };
    Service {
        name: ObjectName::new("default", "web"),
        created: 0,
        kind: ServiceType::NodePort,
        cluster_ips: vec!["10.96.0.10".parse().unwrap(), "fd00::10".parse().unwrap()],
        external_ips: Vec::new(),
        ingress_ips: Vec::new(),
        source_ranges: Vec::new(),
        ports: vec![port("tcp", Proto::TCP), port("udp", Proto::UDP)],
        affinity_seconds: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: policy,
        health_check_node_port: 0,
        local_source: None,
    }
}

/// The Service's endpoints of a family, one on each of the nodes.
fn slice(family: Family, nodes: &[&str]) -> EndpointSlice {
    let port = |name: &str, proto| EndpointPort {
        name: name.into(),
        port: TARGET,
        proto,
    };
    EndpointSlice {
        name: ObjectName::new("default", format!("web-{family:?}")),
        service: "web".into(),
        family: match family {
            Family::V4 => IpFamily::V4,
            Family::V6 => IpFamily::V6,
        },
        ports: vec![port("tcp", Proto::TCP), port("udp", Proto::UDP)],
        endpoints: [family.backend(), family.second_backend()]
            .into_iter()
            .zip(nodes)
            .map(|(addr, node)| Endpoint {
                addr,
                conditions: Conditions::default(),
                node: Some((*node).into()),
                hints: None,
            })
            .collect(),
    }
}

impl World {
    /// A NodePort Service with a backend on this node.
    pub(crate) fn new() -> Self {
        Self::among(1)
    }

    /// The same, one of so many Services.
    pub(crate) fn among(services: u32) -> Self {
        Self::of(service(TrafficPolicy::Cluster), "node1", services)
    }

    pub(crate) fn with_local_policy_and_no_endpoint_here() -> Self {
        Self::of(service(TrafficPolicy::Local), "node2", 1)
    }

    /// A Service that clients of these ranges alone reach at its balancer's addresses.
    pub(crate) fn limited_to(ranges: &[&str]) -> Self {
        let balanced = Service {
            kind: ServiceType::LoadBalancer,
            ingress_ips: vec![Family::V4.balancer(), Family::V6.balancer()],
            source_ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
            ..service(TrafficPolicy::Cluster)
        };
        Self::of(balanced, "node1", 1)
    }

    /// A world that can remember so many flows.
    pub(crate) fn of_few_flows(flows: u32) -> Self {
        let sizes = Sizes {
            flows: 2 * flows,
            ..SIZES
        };
        Self::sized(service(TrafficPolicy::Cluster), &["node1"], 1, sizes)
    }

    /// The Service has two backends in each family, on this node.
    pub(crate) fn with_two_backends() -> Self {
        let service = service(TrafficPolicy::Cluster);
        Self::sized(service, &["node1", "node1"], 1, SIZES)
    }

    /// The Service has two backends in each family, on another node.
    pub(crate) fn with_two_backends_elsewhere() -> Self {
        Self::behind_a_wire(&["node2", "node2"], DeviceFlags::ATTACHED, 9000)
    }

    /// The backend is on another node, behind a device that takes packets of so many bytes.
    pub(crate) fn with_the_backend_elsewhere(mtu: u32) -> Self {
        Self::with_the_backend_behind(DeviceFlags::ATTACHED, mtu)
    }

    /// The backend is behind a device, on a node that no object tells.
    pub(crate) fn with_the_backend_behind(flags: DeviceFlags, mtu: u32) -> Self {
        Self::behind_a_wire(&["node2"], flags, mtu)
    }

    fn behind_a_wire(nodes: &[&str], flags: DeviceFlags, mtu: u32) -> Self {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        for (file, text) in [
            ("ipv4/conf/all/forwarding", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv6/conf/default/accept_dad", "0"),
        ] {
            fs::write(format!("/proc/sys/net/{file}"), text).unwrap();
        }
        let link = "02:00:00:00:00:63";
        let mut lines = vec![
            "link set lo up".to_owned(),
            // As long as any: the limit is what the map says.
            "link add wire type veth peer name far".to_owned(),
            "link set far up".to_owned(),
            "link set wire mtu 9000 up".to_owned(),
        ];
        for family in [Family::V4, Family::V6] {
            let (node, router, backend) = (family.node(), family.router(), family.backend());
            let (one, all) = if node.is_ipv4() { (24, 0) } else { (125, 0) };
            lines.push(format!("address add {node}/{one} dev wire"));
            lines.push(format!("neighbour add {router} lladdr {link} dev wire"));
            let any = if node.is_ipv4() { "0.0.0.0" } else { "::" };
            lines.push(format!("route add {any}/{all} via {router} dev wire"));
            lines.push(format!("route add {backend} via {router} dev wire"));
        }
        for line in lines {
            let status = Command::new("ip").args(line.split(' ')).status().unwrap();
            assert!(status.success(), "ip {line}");
        }
        let world = Self::sized(service(TrafficPolicy::Cluster), nodes, 1, SIZES);
        let [v4, v6] = [Family::V4, Family::V6].map(|family| Addr16::from_ip(family.node()));
        let index = if_nametoindex("wire").unwrap();
        let value = DeviceValue {
            v4,
            v6,
            mtu,
            flags: DeviceFlags::XDP_TARGET.union(flags),
            ..DeviceValue::default()
        };
        world
            .dataplane
            .devices()
            .unwrap()
            .put(index, &value)
            .unwrap();
        world
    }

    fn of(service: Service, node_of_backend: &str, services: u32) -> Self {
        Self::sized(service, &[node_of_backend], services, SIZES)
    }

    fn sized(service: Service, nodes: &[&str], services: u32, sizes: Sizes) -> Self {
        let place = Place::new();
        let dataplane = Dataplane::open(&Options {
            pin_dir: place.pin_dir.clone(),
            cgroup: place.cgroup.clone(),
            sizes,
            source_ports: PortRange::new(50_000, 50_999).unwrap(),
            external_cluster_ips: true,
            pod_devices: true,
            mark: 0x4000,
            conntrack: Timeouts::default(),
            packets: true,
            forwarding: Forwarding::Direct,
        })
        .unwrap_or_else(|error| panic!("{error}: {error:?}"));
        // The loopback device, by which test-run has frames come in: link addresses are zeros.
        let devices = dataplane.devices().unwrap();
        devices.put(1, &DeviceValue::default()).unwrap();
        let mut planner = Planner::new("node1");
        planner.set_node_config(NodeConfig {
            node_port_ips: vec![Family::V4.node(), Family::V6.node()],
            external_ips: true,
            ..NodeConfig::default()
        });
        planner.observe(Event::Apply(Object::Service(service)));
        for family in [Family::V4, Family::V6] {
            let slice = slice(family, nodes);
            planner.observe(Event::Apply(Object::EndpointSlice(slice)));
        }
        for number in 1..services {
            for object in another(number) {
                planner.observe(Event::Apply(object));
            }
        }
        planner.observe(Event::Synced);
        let mut writer = Writer::adopt(dataplane.maps().unwrap(), dataplane.port_rules()).unwrap();
        let report = writer.commit(&planner.next_round(usize::MAX).unwrap());
        assert!(report.failed.is_empty(), "{report:?}");
        Self { dataplane, place }
    }

    /// An agent starts, removes every Service, and is followed by another one.
    pub(crate) fn forget_services(&self) {
        let start = || {
            let maps = self.dataplane.maps().unwrap();
            let mut writer = Writer::adopt(maps, self.dataplane.port_rules()).unwrap();
            let _cleared = writer.clear_ports().unwrap();
            writer
        };
        let mut writer = start();
        assert!(writer.remove_others(&BTreeSet::new()).failed.is_empty());
        assert!(writer.settle().unwrap() > 0);
        assert_eq!(start().fill().slots, 0);
    }

    /// Gives the device by which frames come in and leave addresses of the node.
    pub(crate) fn with_addresses_on_the_device(flags: DeviceFlags) -> Self {
        let world = Self::new();
        let [v4, v6] = [Family::V4, Family::V6].map(|family| Addr16::from_ip(family.node()));
        let value = DeviceValue {
            v4,
            v6,
            flags: DeviceFlags::ATTACHED.union(flags),
            ..DeviceValue::default()
        };
        world.dataplane.devices().unwrap().put(1, &value).unwrap();
        world
    }

    /// Frees the ids of all backends, as after their quarantine.
    pub(crate) fn forget_backends(&self) {
        let mut maps = self.dataplane.maps().unwrap();
        let known = maps.snapshot().unwrap().backends;
        let ops: Vec<_> = known.into_keys().map(Op::DeleteBackend).collect();
        maps.perform(&ops).unwrap();
    }

    /// Forgets the flows that are over, and tells how many were.
    pub(crate) fn sweep(&self, timeouts: &Timeouts) -> usize {
        self.dataplane
            .flows()
            .unwrap()
            .sweep(timeouts, false)
            .unwrap()
            .removed
    }

    /// Has flows go on that the kernel's own conntrack translates.
    pub(crate) fn leave_flows_to_kernel(&self) -> LeftToKernel {
        self.dataplane.leave_flows_to_kernel(FlowsAt::All).unwrap()
    }

    /// The UDP flows whose backends are checked.
    pub(crate) fn udp_flows(&self) -> Vec<Flow> {
        let flows = self.dataplane.flows().unwrap();
        flows.sweep(&Timeouts::default(), true).unwrap().udp
    }

    pub(crate) fn run(&self, program: &str, frame: &[u8]) -> TestRun {
        self.dataplane.test_run(program, frame, 1).unwrap()
    }

    pub(crate) fn try_run(&self, program: &str, frame: &[u8]) -> std::io::Result<TestRun> {
        self.dataplane.test_run(program, frame, 1)
    }

    fn pinned(&self) -> Pinned {
        Pinned::open(&self.place.pin_dir).unwrap()
    }

    /// How many entries `FLOWS` has, two for each flow.
    pub(crate) fn flow_entries(&self) -> usize {
        self.pinned().flow_entries().unwrap()
    }

    /// How many of them are of a client's direction.
    pub(crate) fn client_entries(&self) -> usize {
        self.pinned().flows().unwrap().len()
    }

    pub(crate) fn counted(&self, wanted: Counter) -> u64 {
        let counters = self.pinned().counters().unwrap();
        let found = counters.iter().find(|(counter, _)| *counter == wanted);
        found.map_or(0, |(_, count)| *count)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let removed = cleanup(&self.pin_dir);
        let gone = fs::remove_dir(&self.cgroup);
        if !std::thread::panicking() {
            removed.unwrap();
            gone.unwrap();
        }
    }
}
