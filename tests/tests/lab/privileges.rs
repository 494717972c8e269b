//! With the capabilities that `deploy/unprivileged` gives it, and no others, the agent does its work;
//! and it gives up those that it needs only at its start.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use svclb_tests::manifests::Manifests;
use svclb_tests::{
    Agent, AgentOptions, Kind, Lab, Outside, Pod, PodNetwork, SOON, Transport, UplinkOptions,
    repository, wait_until,
};

use super::scene::{TARGET, Turn, finds_udp_sockets, turn, v4, v6, web, web_service};

/// `capabilities(7)`, by the numbers of include/uapi/linux/capability.h, of those that an agent
/// keeps.
const KEPT: [u32; 7] = [1, 2, 10, 12, 19, 21, 39];

/// The capabilities that the overlay adds, as `setpriv` names them.
fn of_the_overlay() -> Vec<String> {
    let path = repository().join("deploy/unprivileged/daemonset.yaml");
    let text = fs::read_to_string(path).unwrap();
    let (_, added) = text.split_once("add:\n").unwrap();
    let (added, _) = added.split_once("volumeMounts:").unwrap();
    let names = added
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- "));
    names.map(str::to_lowercase).collect()
}

/// Fields go in this order.
struct Scene {
    agent: Agent,
    manifests: Manifests,
    backends: [Pod; 2],
    inside: Pod,
    client: Pod,
    node_port: std::net::SocketAddr,
    _outside: Outside,
    _lab: Lab,
    _turn: Turn,
}

impl Scene {
    /// An agent that was given these capabilities alone, or all that there are.
    fn new(capabilities: Option<&[String]>) -> Self {
        let turn = turn();
        let lab = Lab::new("privileges").unwrap();
        let outside = lab.outside(PodNetwork::Bridged).unwrap();
        let uplink = UplinkOptions::default();
        let node = lab.node_at(&outside, "node1", uplink).unwrap();
        let backends = ["a", "b"].map(|name| node.pod(name).unwrap());
        for backend in &backends {
            backend.serve(Transport::Tcp, TARGET).unwrap();
            backend.serve(Transport::Udp, TARGET).unwrap();
        }
        let manifests = Manifests::new(lab.dir().join("manifests")).unwrap();
        let objects = objects(&backends[..1]);
        manifests.put("web.yaml", &objects).unwrap();
        let wrapper = capabilities.map_or_else(Vec::new, |capabilities| {
            let mut sets = "--bounding-set=-all".to_owned();
            for capability in capabilities {
                sets = format!("{sets},+{capability}");
            }
            vec!["setpriv".to_owned(), sets, "--".to_owned()]
        });
        let options = AgentOptions {
            wrapper,
            ..AgentOptions::default()
        };
        Self {
            agent: Agent::start(&node, manifests.dir(), options).unwrap(),
            manifests,
            backends,
            inside: node.pod("client").unwrap(),
            client: outside.client("client").unwrap(),
            node_port: (node.v4(), 30_080).into(),
            _outside: outside,
            _lab: lab,
            _turn: turn,
        }
    }

    /// Clients inside and outside are served, changes are made, and an audit finds nothing amiss.
    fn does_its_work(&self) {
        let udp = Kind::new(Transport::Udp).unconnected();
        for ip in [v4(10), v6(0x10)] {
            for kind in [Kind::new(Transport::Tcp), udp] {
                assert_eq!(self.inside.ask(kind, web(ip)).unwrap().backend, "a");
            }
        }
        let answer = self.client.ask(Transport::Tcp, self.node_port).unwrap();
        assert_eq!(answer.client.ip(), self.client.v4());
        self.agent.ask_for_audit().unwrap();
        let objects = objects(&self.backends[1..]);
        self.manifests.put("web.yaml", &objects).unwrap();
        let changed = wait_until(SOON, || {
            let answer = self.client.ask(Transport::Tcp, self.node_port);
            answer.is_ok_and(|answer| answer.backend == "b")
        });
        assert!(changed, "{:?}", self.agent.log());
        let repaired = self.agent.metric("svclb_drift_repaired_total").unwrap();
        assert!(repaired < 0.5, "{:?}", self.agent.log());
    }

    /// A set of the agent's main thread.
    fn capabilities(&self, set: &str) -> u64 {
        capabilities(&self.agent.pid().unwrap().to_string(), set)
    }
}

/// A set of a process's main thread, as /proc shows it.
fn capabilities(process: &str, set: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(set));
    u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
}

fn objects(backends: &[Pod]) -> Vec<serde_json::Value> {
    let ips = backends
        .iter()
        .flat_map(|pod| [pod.v4().into(), pod.v6().into()]);
    web_service()
        .node_ports(30_000)
        .with(&ips.collect::<Vec<_>>())
}

#[test]
fn with_the_capabilities_of_the_overlay_it_does_all_of_its_work() {
    let capabilities = of_the_overlay();
    assert_eq!(capabilities.len(), 6, "{capabilities:?}");
    let scene = Scene::new(Some(&capabilities));
    let socket = scene.inside.socket(Transport::Udp, false).unwrap();
    socket.connect(web(v4(10))).unwrap();
    scene.does_its_work();
    if finds_udp_sockets() {
        let destroyed = wait_until(SOON, || socket.send("hello").is_err());
        assert!(destroyed, "{:?}", scene.agent.log());
    }
}

#[test]
fn without_those_for_namespaces_it_does_the_rest_and_says_so() {
    let mut capabilities = of_the_overlay();
    capabilities.retain(|name| !["sys_admin", "sys_ptrace"].contains(&&**name));
    let scene = Scene::new(Some(&capabilities));
    scene.does_its_work();
    if finds_udp_sockets() {
        let reported = scene.agent.wait_for_line(&["UDP sockets", "cannot be"]);
        assert!(reported.is_some(), "{:?}", scene.agent.log());
    }
}

#[test]
fn without_one_that_it_needs_it_names_it() {
    let scene = Scene::new(None);
    for capability in ["bpf", "perfmon", "net_admin"] {
        let set = format!("--bounding-set=-{capability}");
        let wrapper = ["setpriv", &set, "--"];
        let output = scene.agent.run_once_under(&wrapper, &[], 0).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{stderr}");
        let name = format!("CAP_{}", capability.to_uppercase());
        assert!(
            stderr.contains(&name) && stderr.contains("deploy/unprivileged"),
            "{stderr}"
        );
    }
}

#[test]
fn once_started_it_has_no_more_than_it_needs_and_its_pins_are_roots_alone() {
    let scene = Scene::new(None);
    let kept = KEPT.iter().fold(0, |all, number| all | 1_u64 << number);
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        let has = scene.capabilities(set);
        assert_eq!(has & !kept, 0, "{set} {has:x}");
    }
    // A sandbox around all of this may have less to give.
    let given = capabilities("self", "CapEff:");
    assert_eq!(scene.capabilities("CapEff:"), kept & given);
    scene.does_its_work();
    let pins = scene.agent.pin_dir();
    for dir in [pins.to_owned(), pins.join("maps"), pins.join("links")] {
        let metadata = fs::metadata(&dir).unwrap();
        assert_eq!(
            (metadata.uid(), metadata.mode() & 0o777),
            (0, 0o700),
            "{dir:?}"
        );
        for pin in fs::read_dir(dir).unwrap() {
            assert_eq!(pin.unwrap().metadata().unwrap().mode() & 0o077, 0);
        }
    }
}
