//! What every scenario begins with: a node, three backends, a client, an agent.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use serde_json::Value;
use svclb_tests::manifests::{Manifests, Service};
use svclb_tests::{
    Agent, AgentOptions, Failure, Kind, Lab, Node, Peer, Pod, PodNetwork, Tally, Transport,
    UplinkDevice, has_devices, lacks, record_time, wait_until,
};

/// The machine: read-locked by scenarios that run side by side, write-locked by one that runs alone.
/// A waiting writer keeps further readers out, so that it is not starved.
static MACHINE: RwLock<()> = RwLock::new(());

/// The right to run. Its time, without that of waiting for it, is recorded when it is dropped.
pub(crate) struct Turn {
    _machine: Machine,
    since: Instant,
}

/// What of the machine a scenario holds.
#[expect(dead_code, reason = "held, and never read")]
enum Machine {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// Starts a scenario that may run beside others: all that it uses is in its own lab. How many run at
/// a time is libtest's `--test-threads`.
pub(crate) fn turn() -> Turn {
    // A scenario that failed says so itself; the next one starts afresh.
    let machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    Turn::new(Machine::Shared(machine))
}

/// Starts a scenario that runs alone: it measures time, keeps all processors busy, or reads or
/// changes what all labs share.
pub(crate) fn alone() -> Turn {
    let machine = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    Turn::new(Machine::Alone(machine))
}

impl Turn {
    fn new(machine: Machine) -> Self {
        Self {
            _machine: machine,
            since: Instant::now(),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        record_time(self.since.elapsed());
    }
}

/// The port at which all backends answer, over TCP and UDP.
pub(crate) const TARGET: u16 = 8080;

/// A Service's IPv4 address.
pub(crate) fn v4(host: u8) -> IpAddr {
    IpAddr::from([10, 96, 0, host])
}

/// A Service's IPv6 address.
pub(crate) fn v6(host: u16) -> IpAddr {
    IpAddr::from([0xfd00, 0x10, 0x96, 0, 0, 0, 0, host])
}

/// Port 80 of an address.
pub(crate) fn web(ip: IpAddr) -> SocketAddr {
    (ip, 80).into()
}

/// `web`: both families, port 80 over TCP and UDP.
pub(crate) fn web_service() -> Service {
    Service::new("web")
        .at(v4(10))
        .at(v6(0x10))
        .tcp(80, TARGET)
        .udp(80, TARGET)
}

/// How long a change to the manifests may take: longer than an emulated node may be busy, and shorter
/// than the ten seconds after which a folder is read without an inotify event.
pub(crate) const CHANGE_LIMIT: Duration = Duration::from_secs(8);

/// Fields go in this order: the agent first, the turn last.
pub(crate) struct Scene {
    pub(crate) agent: Agent,
    pub(crate) manifests: Manifests,
    pub(crate) backends: Vec<Pod>,
    pub(crate) client: Pod,
    pub(crate) node: Node,
    pub(crate) lab: Lab,
    _turn: Turn,
}

impl Scene {
    /// `web` with three backends.
    pub(crate) fn web() -> Self {
        Self::new(put_web)
    }

    /// The same on a machine of its own, for what measures time.
    pub(crate) fn web_alone() -> Self {
        Self::started(alone(), put_web)
    }

    /// What `prepare` puts into the folder; it is given the addresses of the three
    /// backends in both families.
    pub(crate) fn new(prepare: impl FnOnce(&Manifests, &[IpAddr])) -> Self {
        Self::started(turn(), prepare)
    }

    fn started(turn: Turn, prepare: impl FnOnce(&Manifests, &[IpAddr])) -> Self {
        let lab = Lab::new("scene").unwrap();
        let node = lab.node("node1").unwrap();
        let backends: Vec<Pod> = ["a", "b", "c"]
            .iter()
            .map(|name| node.pod(name).unwrap())
            .collect();
        for backend in &backends {
            backend.serve(Transport::Tcp, TARGET).unwrap();
            backend.serve(Transport::Udp, TARGET).unwrap();
        }
        let client = node.pod("client").unwrap();
        let manifests = Manifests::new(lab.dir().join("manifests")).unwrap();
        prepare(&manifests, &addresses(&backends));
        let agent = Agent::start(&node, manifests.dir(), AgentOptions::default()).unwrap();
        Self {
            agent,
            manifests,
            backends,
            client,
            node,
            lab,
            _turn: turn,
        }
    }

    /// The addresses of all backends, in both families.
    pub(crate) fn endpoints(&self) -> Vec<IpAddr> {
        addresses(&self.backends)
    }

    /// The addresses of some backends, in both families.
    pub(crate) fn endpoints_of(&self, names: &[&str]) -> Vec<IpAddr> {
        self.backends
            .iter()
            .filter(|pod| names.contains(&pod.name()))
            .flat_map(both)
            .collect()
    }

    /// Who answers the client over TCP, out of many tries.
    pub(crate) fn answering(&self, to: SocketAddr) -> Vec<String> {
        let tally = self.client.repeat(Transport::Tcp, to, 60).unwrap();
        tally.answers.into_keys().collect()
    }

    /// Waits until exactly these answer the client over TCP.
    pub(crate) fn wait_for_answers(&self, to: SocketAddr, backends: &[&str]) {
        let mut last = Vec::new();
        let settled = wait_until(CHANGE_LIMIT, || {
            last = self.answering(to);
            last == backends
        });
        assert!(
            settled,
            "{to} is answered by {last:?} and not by {backends:?}"
        );
    }
}

fn put_web(manifests: &Manifests, endpoints: &[IpAddr]) {
    let objects = web_service().with(endpoints);
    manifests.put("web.yaml", &objects).unwrap();
}

fn both(pod: &Pod) -> [IpAddr; 2] {
    [pod.v4().into(), pod.v6().into()]
}

fn addresses(pods: &[Pod]) -> Vec<IpAddr> {
    pods.iter().flat_map(both).collect()
}

/// How many questions show whether backends are chosen evenly.
pub(crate) const MANY: u32 = 600;

/// All three backends answer this client, each about as often, and nothing goes wrong.
pub(crate) fn assert_even(client: &Peer, kind: impl Into<Kind>, to: SocketAddr) {
    let tally = client.repeat(kind, to, MANY).unwrap();
    assert_eq!(tally.wrong_names, 0, "{tally:?}");
    assert_spread(&tally);
}

/// All three backends gave some of [`MANY`] answers, each about as many, whatever names were shown.
///
/// Of 600 answers each has 200 on average with a standard deviation of 11.5; 140 to 260
/// is more than five of them.
pub(crate) fn assert_spread(tally: &Tally) {
    assert_eq!(tally.failed(), 0, "{tally:?}");
    assert_eq!(tally.answered(), u64::from(MANY), "{tally:?}");
    for name in ["a", "b", "c"] {
        let count = tally.answers.get(name).copied().unwrap_or_default();
        assert!((140..=260).contains(&count), "{tally:?}");
    }
}

/// Whether a refusal is the result of the very call (`bpf_set_retval`, Linux 5.18), as
/// the agent says in its line `ready`. Without it the call goes to a closed port. Where
/// the kernel's own version promises the first, the agent has to use it.
pub(crate) fn refuses_by_errno(scene: &Scene) -> bool {
    agent_refuses_by_errno(&scene.agent)
}

/// The same of an agent on its own.
pub(crate) fn agent_refuses_by_errno(agent: &Agent) -> bool {
    let ready = agent.wait_for_line(&["ready", "refusal="]).unwrap();
    let by_errno = ready.contains("refusal=\"errno\"");
    assert!(by_errno || kernel() < (5, 18), "on {:?}: {ready}", kernel());
    by_errno
}

/// The first two numbers of the kernel's version: only to be sure that a feature which
/// this kernel must have was found.
pub(crate) fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Whether the agent finds connected UDP sockets, which needs the kernel's BTF.
pub(crate) fn finds_udp_sockets() -> bool {
    let finds_udp_sockets = std::path::Path::new("/sys/kernel/btf/vmlinux").exists();
    if !finds_udp_sockets {
        lacks("BTF");
    }
    finds_udp_sockets
}

/// Whether the kernel has no such socket at all; says so if it has not.
pub(crate) fn lacks_sockets(what: &str, result: Result<(), Failure>) -> bool {
    match result {
        Ok(()) => false,
        Err(failure) => {
            assert!(
                [
                    "EPROTONOSUPPORT",
                    "ENOPROTOOPT",
                    "ESOCKTNOSUPPORT",
                    "EINVAL"
                ]
                .contains(&failure.errno.as_str())
                    && failure.during == "socket",
                "{failure:?}"
            );
            lacks(&format!("{what} sockets"));
            true
        }
    }
}

/// Whether the kernel has not all devices that a network is made of; says so if it has not.
pub(crate) fn lacks_devices(network: PodNetwork, uplink: UplinkDevice) -> bool {
    let mut kinds = network.devices().iter().chain(uplink.devices());
    let missing = kinds.find(|kind| !has_devices(kind).unwrap());
    if let Some(kind) = missing {
        lacks(&format!("{kind} devices"));
    }
    missing.is_some()
}

/// A dump without what may differ from one moment to the next: counters.
pub(crate) fn lasting(mut dump: Value) -> Value {
    if let Some(object) = dump.as_object_mut() {
        object.remove("counters");
    }
    dump
}
