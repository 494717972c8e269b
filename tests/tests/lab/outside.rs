//! Clients outside the cluster: packets that come in by a node's uplink.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use svclb_tests::bpftool::{PinnedMap, detach_link};
use svclb_tests::manifests::{Endpoint, Manifests, Service};
use svclb_tests::{
    Agent, AgentOptions, DIRECT_TC, DIRECT_XDP, KERNEL, Kind, Lab, Node, Outside, Pod, PodNetwork,
    SOON, Transport, UplinkOptions, Way, lacks, wait_until,
};

use super::scene::{TARGET, Turn, kernel, turn, v4, v6, web};

const NODE_PORT: u16 = 30_080;
const BALANCED: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x203, 0, 0x113, 0, 0, 0, 0x10)),
];
const NETWORKS: [PodNetwork; 3] = [PodNetwork::Bridged, PodNetwork::Routed, PodNetwork::Vxlan];
/// All ways to forward. Before Linux 5.13 the far end of a veth takes what XDP sends only if
/// it has a program of its own.
pub(crate) fn ways() -> &'static [Way] {
    if kernel() < (5, 13) {
        lacks("veths that take what XDP sends");
        return &[KERNEL, DIRECT_TC];
    }
    &[KERNEL, DIRECT_TC, DIRECT_XDP]
}

/// A kind of network: that of pods, and nodes' uplinks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site(pub(crate) PodNetwork, pub(crate) UplinkOptions);

impl From<PodNetwork> for Site {
    /// As most clusters have it.
    fn from(network: PodNetwork) -> Self {
        let options = UplinkOptions {
            masquerade: true,
            ..UplinkOptions::default()
        };
        Self(network, options)
    }
}

/// Two nodes with a backend each, an agent each, and a client outside. Fields go in this order.
struct Scene {
    agents: Vec<Agent>,
    manifests: Manifests,
    backends: Vec<Pod>,
    nodes: Vec<Node>,
    client: Pod,
    outside: Outside,
    _lab: Lab,
    _turn: Turn,
}

fn service() -> Service {
    let service = Service::new("web")
        .at(v4(10))
        .at(v6(0x10))
        .tcp(80, TARGET)
        .udp(80, TARGET)
        .node_ports(30_000);
    BALANCED.into_iter().fold(service, Service::balanced_at)
}

impl Scene {
    fn new(site: impl Into<Site>, way: Way, service: &Service) -> Self {
        let Site(network, options) = site.into();
        let turn = turn();
        let lab = Lab::new("outside").unwrap();
        let outside = lab.outside(network).unwrap();
        let nodes: Vec<_> = ["node1", "node2"]
            .iter()
            .map(|name| lab.node_at(&outside, name, options).unwrap())
            .collect();
        let backends: Vec<_> = nodes
            .iter()
            .zip(["a", "b"])
            .map(|(node, name)| node.pod(name).unwrap())
            .collect();
        for backend in &backends {
            backend.serve(Transport::Tcp, TARGET).unwrap();
            backend.serve(Transport::Udp, TARGET).unwrap();
        }
        let client = outside.client("client").unwrap();
        for ip in BALANCED {
            outside.route(ip, &nodes[0]).unwrap();
        }
        let manifests = Manifests::new(lab.dir().join("manifests")).unwrap();
        let scene = Self {
            agents: Vec::new(),
            manifests,
            backends,
            nodes,
            client,
            outside,
            _lab: lab,
            _turn: turn,
        };
        scene.put(service, &["a", "b"]);
        scene.started(way)
    }

    fn started(mut self, way: Way) -> Self {
        for node in &self.nodes {
            let options = AgentOptions {
                args: way.iter().map(|arg| (*arg).to_owned()).collect(),
                ..AgentOptions::default()
            };
            let agent = Agent::start(node, self.manifests.dir(), options).unwrap();
            self.agents.push(agent);
        }
        self
    }

    /// The Service with these backends.
    fn put(&self, service: &Service, names: &[&str]) {
        let mut objects = vec![service.object()];
        for is_v6 in [false, true] {
            let endpoints: Vec<_> = self
                .backends
                .iter()
                .zip(&self.nodes)
                .filter(|(pod, _)| names.contains(&pod.name()))
                .map(|(pod, node)| {
                    let ip: IpAddr = if is_v6 {
                        pod.v6().into()
                    } else {
                        pod.v4().into()
                    };
                    Endpoint::new(ip).on(node.name())
                })
                .collect();
            if !endpoints.is_empty() {
                objects.push(service.slice_of(&endpoints));
            }
        }
        self.manifests.put("web.yaml", &objects).unwrap();
    }

    fn backend(&self, name: &str) -> &Pod {
        self.backends.iter().find(|pod| pod.name() == name).unwrap()
    }

    /// A node's NodePort, in both families.
    fn node_port(&self, node: usize) -> [SocketAddr; 2] {
        let node = &self.nodes[node];
        [(node.v4(), NODE_PORT).into(), (node.v6(), NODE_PORT).into()]
    }

    /// Waits until the client outside is answered by exactly these.
    fn wait_for_answers(&self, to: SocketAddr, names: &[&str]) {
        if names.is_empty() {
            // One question at a time: one without an answer takes two seconds.
            let gone = wait_until(SOON, || self.client.ask(Transport::Tcp, to).is_err());
            assert!(gone, "{to} is still answered");
            return;
        }
        let mut last = None;
        let settled = wait_until(SOON, || {
            let tally = self.client.repeat(Transport::Tcp, to, 24).unwrap();
            let answering: Vec<_> = tally.answers.keys().cloned().collect();
            let is_so = answering == names && tally.failed() == 0;
            last = Some(tally);
            is_so
        });
        assert!(settled, "{to} is not answered by {names:?} but: {last:?}");
    }
}

fn kinds() -> [Kind; 3] {
    let udp = Kind::new(Transport::Udp);
    [Kind::new(Transport::Tcp), udp, udp.unconnected()]
}

#[test]
fn a_client_outside_reaches_every_backend_by_any_node_and_local_ones_see_its_address() {
    for network in NETWORKS {
        for way in ways() {
            let scene = Scene::new(network, way, &service());
            let own: [IpAddr; 2] = [scene.client.v4().into(), scene.client.v6().into()];
            let ways = scene.node_port(0).into_iter().chain(BALANCED.map(web));
            for to in ways.chain(scene.node_port(1)) {
                let here = if scene.node_port(1).contains(&to) {
                    "b"
                } else {
                    "a"
                };
                for kind in kinds() {
                    let mut answering = std::collections::BTreeSet::new();
                    // One of two, again and again: by chance once in a trillion.
                    for _ in 0..40 {
                        let answer = scene.client.ask(kind, to).unwrap_or_else(|failure| {
                            panic!("{network:?}, {way:?}, {to} {kind:?}: {failure}")
                        });
                        if answer.backend == here {
                            assert!(own.contains(&answer.client.ip()), "{to}: {answer:?}");
                        }
                        answering.insert(answer.backend);
                        if answering.len() == 2 {
                            break;
                        }
                    }
                    assert_eq!(
                        answering.len(),
                        2,
                        "{network:?} {way:?} {to} {kind:?}: {answering:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn with_external_policy_local_only_this_nodes_backends_answer_and_they_see_the_client() {
    keeps_to_local_backends(PodNetwork::Vxlan.into());
}

pub(crate) fn keeps_to_local_backends(site: Site) {
    for way in ways() {
        let local = service().external_local();
        let scene = Scene::new(site, way, &local);
        let own: [IpAddr; 2] = [scene.client.v4().into(), scene.client.v6().into()];
        for (node, name) in [(0, "a"), (1, "b")] {
            for to in scene.node_port(node) {
                scene.wait_for_answers(to, &[name]);
                let answer = scene.client.ask(Transport::Udp, to).unwrap();
                assert!(own.contains(&answer.client.ip()), "{answer:?}");
            }
        }
        // The other node has none: packets are dropped, not refused, so that a balancer's health check
        // times out.
        scene.put(&local, &["b"]);
        scene.wait_for_answers(scene.node_port(1)[0], &["b"]);
        for to in [scene.node_port(0)[0], web(BALANCED[0])] {
            scene.wait_for_answers(to, &[]);
            let failure = scene.client.ask(Transport::Tcp, to).unwrap_err();
            assert!(failure.is_time_out(), "{failure:?}");
        }
    }
}

#[test]
fn without_endpoints_clients_outside_are_refused_at_once() {
    refuses(PodNetwork::Routed.into());
}

pub(crate) fn refuses(site: Site) {
    for way in ways() {
        let scene = Scene::new(site, way, &service());
        scene.put(&service(), &[]);
        for to in scene.node_port(0).into_iter().chain(BALANCED.map(web)) {
            let refused = wait_until(SOON, || {
                let failure = scene.client.ask(Transport::Tcp, to);
                failure.is_err_and(|failure| failure.to_string() == "connect: ECONNREFUSED")
            });
            assert!(refused, "{to} over TCP");
            let failure = scene.client.ask(Transport::Udp, to).unwrap_err();
            assert_eq!(
                failure.to_string(),
                "receive: ECONNREFUSED",
                "{to} over UDP"
            );
        }
    }
}

#[test]
fn source_ranges_change_without_a_moment_in_which_all_or_none_may_come() {
    let scene = Scene::new(PodNetwork::Routed, KERNEL, &service());
    let unlisted = scene.outside.client("unlisted").unwrap();
    let own = |client: &Pod| {
        [
            format!("{}/32", client.v4()),
            format!("{}/128", client.v6()),
        ]
    };
    let limited = own(&scene.client).iter().fold(service(), Service::allows);
    scene.put(&limited, &["a", "b"]);
    let is_shut_to = |client: &Pod| {
        let shut = wait_until(SOON, || {
            let result = client.ask(Transport::Tcp, web(BALANCED[0]));
            result.is_err_and(|failure| failure.is_time_out())
        });
        assert!(shut);
    };
    is_shut_to(&unlisted);
    for to in BALANCED.map(web) {
        for client in [&scene.client, &unlisted] {
            let pause = Duration::from_millis(1);
            client.start_load(Transport::Udp, to, pause).unwrap();
        }
        for number in 0..40 {
            let other = format!("192.0.2.{number}/32");
            scene.put(&limited.clone().allows(other), &["a", "b"]);
            std::thread::sleep(Duration::from_millis(25));
        }
        let (known, unknown) = (&scene.client, &unlisted);
        let [known, unknown] = [known, unknown].map(|client| client.stop_load().unwrap());
        assert!(known.failed() == 0 && known.answers.len() == 2, "{known:?}");
        assert!(
            unknown.answers.is_empty() && unknown.failed() > 0,
            "{unknown:?}"
        );
    }
    // Dropped packets make no flow; an established flow stays when its client leaves the ranges.
    let socket = scene.client.socket(Transport::Tcp, false).unwrap();
    socket.connect(web(BALANCED[0])).unwrap();
    let other = own(&unlisted).iter().fold(service(), Service::allows);
    scene.put(&other, &["a", "b"]);
    is_shut_to(&scene.client);
    socket.send("still there?").unwrap();
    socket.receive().unwrap();
}

#[test]
fn a_pod_reaches_itself_by_an_address_with_source_ranges() {
    for network in NETWORKS {
        reaches_itself(network.into());
    }
}

pub(crate) fn reaches_itself(site: Site) {
    // Its packets come in and go out by one device, and its answers, which would never leave
    // it for its own address, go to the node's.
    let scene = Scene::new(site, KERNEL, &service());
    let pod = scene.backend("a");
    let own = [format!("{}/32", pod.v4()), format!("{}/128", pod.v6())];
    scene.put(&own.iter().fold(service(), Service::allows), &["a"]);
    for to in BALANCED.map(web) {
        for kind in kinds() {
            // It asked at its socket until the change came.
            let mut last = None;
            let by_packets = wait_until(SOON, || {
                last = Some(pod.ask(kind, to));
                let seen = last.as_ref().and_then(|answer| answer.as_ref().ok());
                seen.is_some_and(|answer| {
                    let client = answer.client.ip();
                    answer.backend == "a" && client != pod.ip_like(client)
                })
            });
            assert!(by_packets, "{site:?} {to} {kind:?}: {last:?}");
        }
    }
}

#[test]
fn a_client_outside_with_affinity_stays_with_its_backend() {
    has_affinity(PodNetwork::Bridged.into());
}

pub(crate) fn has_affinity(site: Site) {
    let sticky = service().sticky(100);
    let scene = Scene::new(site, KERNEL, &sticky);
    let other = scene.outside.client("other").unwrap();
    for client in [&scene.client, &other] {
        for to in scene.node_port(0).into_iter().chain(BALANCED.map(web)) {
            for transport in [Transport::Tcp, Transport::Udp] {
                let tally = client.repeat(transport, to, 15).unwrap();
                assert_eq!(
                    (tally.answers.len(), tally.failed()),
                    (1, 0),
                    "{to} {tally:?}"
                );
            }
        }
    }
}

#[test]
fn a_connection_from_outside_goes_on_while_its_service_changes_and_the_agent_is_away() {
    goes_on(PodNetwork::Vxlan.into());
}

pub(crate) fn goes_on(site: Site) {
    let mut scene = Scene::new(site, KERNEL, &service());
    let to = web(BALANCED[0]);
    let connections: Vec<_> = (0..8)
        .map(|_| {
            let socket = scene.client.socket(Transport::Tcp, false).unwrap();
            socket.connect(to).unwrap();
            socket.send("who?").unwrap();
            (socket.receive().unwrap().backend, socket)
        })
        .collect();
    let go_on = || {
        for (backend, socket) in &connections {
            socket.send("still there?").unwrap();
            assert_eq!(socket.receive().unwrap().backend, *backend);
        }
    };
    scene.put(&service(), &["b"]);
    scene.wait_for_answers(to, &["b"]);
    go_on();
    scene.agents[0].kill().unwrap();
    go_on();
    assert_eq!(scene.client.ask(Transport::Tcp, to).unwrap().backend, "b");
    scene.agents[0].run().unwrap();
    go_on();
    scene.manifests.remove("web.yaml").unwrap();
    scene.wait_for_answers(to, &[]);
    go_on();
}

#[test]
fn datagrams_of_one_socket_outside_move_with_the_backends() {
    moves_datagrams(PodNetwork::Routed.into());
}

pub(crate) fn moves_datagrams(site: Site) {
    for way in ways() {
        let scene = Scene::new(site, way, &service());
        for to in [scene.node_port(0)[0], web(BALANCED[1])] {
            scene.put(&service(), &["a"]);
            let socket = scene.client.socket(Transport::Udp, to.is_ipv6()).unwrap();
            socket.connect(to).unwrap();
            let answers = |name: &str| {
                let settled = wait_until(SOON, || {
                    let sent = socket.send("who?").is_ok();
                    sent && socket.receive().is_ok_and(|answer| answer.backend == name)
                });
                assert!(settled, "{to} is not answered by {name}");
            };
            for name in ["a", "b", "a"] {
                scene.put(&service(), &[name]);
                answers(name);
            }
            scene.put(&service(), &[]);
            let reported = wait_until(SOON, || {
                socket.send("who?").is_err() || socket.receive().is_err()
            });
            assert!(reported);
            scene.put(&service(), &["b"]);
            answers("b");
        }
    }
}

#[test]
fn the_dump_names_the_flows_of_clients_outside() {
    let scene = Scene::new(PodNetwork::Bridged, KERNEL, &service());
    let to = web(BALANCED[0]);
    scene.wait_for_answers(to, &["a", "b"]);
    let dump = scene.agents[0].dump("conntrack").unwrap();
    let flows = dump["conntrack"].as_array().unwrap();
    let client = scene.client.v4().to_string();
    let of = |pod: &Pod| {
        let backend = pod.v4_at(TARGET).to_string();
        let flow = flows.iter().find(|flow| flow["backend"] == *backend);
        flow.unwrap_or_else(|| panic!("no flow to {backend}: {dump}"))
    };
    for flow in [of(scene.backend("a")), of(scene.backend("b"))] {
        assert_eq!(flow["frontend"], to.to_string());
        assert!(flow["client"].as_str().unwrap().starts_with(&client));
    }
    // Its address here, and the node's elsewhere.
    let seen_as = |name: &str| {
        let seen_as = of(scene.backend(name))["seen_as"].as_str().unwrap();
        seen_as.parse::<SocketAddr>().unwrap().ip()
    };
    assert_eq!(seen_as("a"), scene.client.v4());
    assert_ne!(seen_as("b"), scene.client.v4());
}

#[test]
fn with_no_devices_the_agent_detaches_its_packet_programs_and_serves_sockets() {
    let mut scene = Scene::new(PodNetwork::Bridged, KERNEL, &service());
    scene.wait_for_answers(scene.node_port(0)[0], &["a", "b"]);
    scene.agents[0].set_args(&["--devices", "none"]);
    scene.agents[0].run().unwrap();
    for to in scene.node_port(0) {
        let failure = scene.client.ask(Transport::Tcp, to).unwrap_err();
        assert_eq!(failure.errno, "ECONNREFUSED");
        assert!(scene.backend("a").ask(Transport::Tcp, to).is_ok());
    }
    scene.agents[0].set_args(&["--devices", "auto"]);
    scene.agents[0].run().unwrap();
    scene.wait_for_answers(scene.node_port(0)[0], &["a", "b"]);
}

#[test]
fn nothing_is_left_on_the_devices_after_cleanup() {
    for way in ways() {
        let mut scene = Scene::new(PodNetwork::Bridged, way, &service());
        let node = scene.nodes[0].clone();
        let reserved = || {
            let mut text = String::new();
            node.run(|| {
                text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports")?;
                Ok(())
            })
            .unwrap();
            text
        };
        assert!(reserved().contains("50000-60999"));
        let shown = |command: &[&str]| {
            let mut text = String::new();
            node.run(|| {
                let output = std::process::Command::new(command[0])
                    .args(&command[1..])
                    .output()?;
                text = String::from_utf8_lossy(&output.stdout).into_owned();
                Ok(())
            })
            .unwrap();
            text
        };
        scene.agents[0].cleanup().unwrap();
        assert!(!reserved().contains("50000"), "{}", reserved());
        assert!(!shown(&["ip", "-d", "link"]).contains("xdp"));
        for side in ["ingress", "egress"] {
            let filters = shown(&["tc", "filter", "show", "dev", "eth0", side]);
            assert!(!filters.contains("svclb"), "{filters}");
        }
        let failure = scene.client.ask(Transport::Tcp, scene.node_port(0)[0]);
        assert_eq!(failure.unwrap_err().errno, "ECONNREFUSED");
    }
}

#[test]
fn packet_programs_that_were_detached_are_attached_again_and_counted() {
    let scene = Scene::new(PodNetwork::Bridged, KERNEL, &service());
    let to = scene.node_port(0)[0];
    assert!(scene.client.ask(Transport::Tcp, to).is_ok());
    let entries = fs::read_dir(scene.nodes[0].pin_dir().join("links")).unwrap();
    let links: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("gress-"))
        .collect();
    for link in &links {
        detach_link(link).unwrap();
    }
    if links.is_empty() {
        // Before Linux 6.6 they are filters.
        let mut tc = Command::new("tc");
        tc.args(["qdisc", "del", "dev", "eth0", "clsact"]);
        assert!(scene.nodes[0].run(|| Ok(tc.status()?)).unwrap().success());
    }
    assert!(scene.client.ask(Transport::Tcp, to).is_err());

    let repaired = scene.agents[0].repairs_of_an_audit().unwrap();
    assert!(scene.client.ask(Transport::Tcp, to).is_ok());
    let taken = links.len().max(2) as f64;
    assert!((repaired - taken).abs() < 0.5, "{repaired} of {taken}");
}

#[test]
fn flows_that_were_forwarded_go_on_when_the_kernel_forwards_and_back_also_from_an_earlier_layout() {
    for is_earlier in [false, true] {
        let mut scene = Scene::new(PodNetwork::Routed, DIRECT_TC, &service());
        scene.put(&service(), &["b"]);
        // The backend is on the other node.
        for to in scene.node_port(0) {
            scene.wait_for_answers(to, &["b"]);
        }
        let mut sockets = Vec::new();
        for to in scene.node_port(0) {
            for transport in [Transport::Tcp, Transport::Udp] {
                let socket = scene.client.socket(transport, to.is_ipv6()).unwrap();
                socket.connect(to).unwrap();
                sockets.push(socket);
            }
        }
        let all_go_on = || {
            for socket in &sockets {
                socket.send("still there?").unwrap();
                assert_eq!(socket.receive().unwrap().backend, "b");
            }
        };
        all_go_on();
        for way in [KERNEL, DIRECT_TC, KERNEL] {
            scene.agents[0].kill().unwrap();
            if is_earlier {
                let maps = scene.nodes[0].pin_dir().join("maps");
                with_the_layout_of_version_3(&maps);
            }
            scene.agents[0].set_args(way);
            scene.agents[0].run().unwrap();
            all_go_on();
            if is_earlier {
                let log = scene.agents[0].log().join("\n");
                assert!(log.contains("layout version 3"), "{log}");
                // There are no others: these programs make no flows of the earlier kind.
                break;
            }
        }
    }
}

/// Has the pinned maps look like those of an agent with layout version 3: its flows had neither a device
/// nor an acknowledgement nor a link address.
fn with_the_layout_of_version_3(maps: &Path) {
    let flows = PinnedMap::at(maps.join("FLOWS")).elements().unwrap();
    assert!(flows.len() >= 8, "{flows:?}");
    let earlier = PinnedMap::replace(&maps.join("FLOWS"), 40, 56).unwrap();
    for (key, value) in flows {
        let value = [&value[..48], &value[56..64]].concat();
        earlier.update(&key, &value).unwrap();
    }
    let meta = PinnedMap::at(maps.join("META"));
    let (key, mut value) = meta.elements().unwrap().remove(0);
    value[4] = "0x03".to_owned();
    meta.update(&key, &value).unwrap();
}
