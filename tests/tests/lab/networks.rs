//! Networks as people have them: what clients outside, pods and hosts get of Services there, and what
//! of others' traffic has to be left alone. `docs/networks.md` says which scenario tests what.

mod beside_kube_proxy;
mod each;
mod firewall;
mod frames;
mod kube_proxys_rules;
mod obstacles;
mod own_flows;
mod raw;
mod reach;
mod same_tuple;
mod source_ports;
mod stray;
mod takeover;
mod tunnels;
mod uplinks;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;

use svclb_tests::manifests::{Endpoint, Manifests, Service};
use svclb_tests::{
    Agent, AgentOptions, Answer, DIRECT_TC, Failure, KERNEL, Kind, Lab, Node, Outside, Peer,
    PeerSocket, Pod, PodNetwork, SOON, Transport, UplinkOptions, Way, wait_until,
};

use super::scene::{TARGET, Turn, turn, v4, v6, web};

/// Where port 80 of `web` is at nodes.
const NODE_PORT: u16 = 30_080;
/// Where a load balancer announces it; the first node gets what is for there.
const BALANCED: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x203, 0, 0x113, 0, 0, 0, 0x10)),
];
const TRANSPORTS: [Transport; 2] = [Transport::Tcp, Transport::Udp];

/// The ways to forward that differ in what else of the node they go through.
const MODES: [Way; 2] = [KERNEL, DIRECT_TC];

/// Two nodes with a backend each, and a client outside. Fields go in this order.
struct World {
    agents: Vec<Agent>,
    manifests: Manifests,
    backends: Vec<Pod>,
    nodes: Vec<Node>,
    client: Pod,
    outside: Outside,
    lab: Lab,
    _turn: Turn,
}

/// As most clusters have it: pods' addresses are known to nobody outside.
fn hidden_pods() -> UplinkOptions {
    UplinkOptions {
        masquerade: true,
        ..UplinkOptions::default()
    }
}

/// `web`, with every kind of address.
fn service() -> Service {
    let service = Service::new("web")
        .at(v4(10))
        .at(v6(0x10))
        .tcp(80, TARGET)
        .udp(80, TARGET)
        .node_ports(NODE_PORT - 80);
    BALANCED.into_iter().fold(service, Service::balanced_at)
}

impl World {
    /// Without agents and Services.
    fn new(network: PodNetwork, options: UplinkOptions) -> Self {
        let turn = turn();
        let lab = Lab::new("networks").unwrap();
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
        for (backend, transport) in backends.iter().flat_map(|pod| TRANSPORTS.map(|t| (pod, t))) {
            backend.serve(transport, TARGET).unwrap();
        }
        let client = outside.client("client").unwrap();
        for ip in BALANCED {
            outside.route(ip, &nodes[0]).unwrap();
        }
        let manifests = Manifests::new(lab.dir().join("manifests")).unwrap();
        Self {
            agents: Vec::new(),
            manifests,
            backends,
            nodes,
            client,
            outside,
            lab,
            _turn: turn,
        }
    }

    /// With `web`, whose backends are these, and agents on both nodes.
    fn serving(network: PodNetwork, options: UplinkOptions, names: &[&str], args: &[&str]) -> Self {
        let mut world = Self::new(network, options);
        world.put(&service(), names);
        world.start(args);
        world
    }

    /// Starts the agents, or others in their place.
    fn start(&mut self, args: &[&str]) {
        self.agents.clear();
        self.agents = self
            .nodes
            .iter()
            .map(|node| self.agent(node, args))
            .collect();
    }

    /// Starts the agent of a node.
    fn agent(&self, node: &Node, args: &[&str]) -> Agent {
        let options = AgentOptions {
            args: args.iter().map(ToString::to_string).collect(),
            ..AgentOptions::default()
        };
        Agent::start(node, self.manifests.dir(), options).unwrap()
    }

    /// A Service with these backends, in both families.
    fn put(&self, service: &Service, names: &[&str]) {
        let chosen = || {
            let all = self.backends.iter().zip(&self.nodes);
            all.filter(|(pod, _)| names.contains(&pod.name()))
        };
        let mut objects = vec![service.object()];
        for is_v6 in [false, true] {
            let like = if is_v6 { v6(0) } else { v4(0) };
            let endpoints: Vec<_> = chosen()
                .map(|(pod, node)| Endpoint::new(pod.ip_like(like)).on(node.name()))
                .collect();
            if !endpoints.is_empty() {
                objects.push(service.slice_of(&endpoints));
            }
        }
        let file = format!("{}.yaml", service.name());
        self.manifests.put(&file, &objects).unwrap();
    }

    /// Port 30080 of a node, in both families.
    fn node_ports(&self, node: usize) -> [SocketAddr; 2] {
        self.nodes_at(node, NODE_PORT)
    }

    /// A port of a node, in both families.
    fn nodes_at(&self, node: usize, port: u16) -> [SocketAddr; 2] {
        let node = &self.nodes[node];
        [(node.v4(), port).into(), (node.v6(), port).into()]
    }

    /// Port 80 where the balancer announces it.
    fn balanced(&self) -> [SocketAddr; 2] {
        BALANCED.map(web)
    }

    /// Waits until the client outside is answered by exactly these.
    fn wait_for_answers(&self, to: SocketAddr, names: &[&str]) {
        let mut last = None;
        let settled = wait_until(SOON, || {
            let tally = self.client.repeat(Transport::Tcp, to, 24).unwrap();
            let is_so = tally.answers.keys().eq(names) && tally.failed() == 0;
            last = Some(tally);
            is_so
        });
        assert!(settled, "{to} is not answered by {names:?} but: {last:?}");
    }
}

/// Runs a command of the shell in a node's network.
fn runs(node: &Node, command: &str) {
    let mut shell = Command::new("sh");
    let status = node.run(|| Ok(shell.args(["-c", command]).status()?));
    assert!(status.unwrap().success(), "{command}");
}

/// Every way to use TCP and UDP.
fn kinds() -> [Kind; 3] {
    let udp = Kind::new(Transport::Udp);
    [Kind::new(Transport::Tcp), udp, udp.unconnected()]
}

/// Asks until each of these has answered, and fails at the first question that gets no answer. Each
/// answer is looked at.
fn asks_all(
    peer: &Peer,
    kind: Kind,
    to: SocketAddr,
    names: &[&str],
    look: impl Fn(&Answer),
) -> Result<(), String> {
    let mut answering = BTreeSet::new();
    // Of two, each is chosen in 40 questions but for once in a trillion.
    for _ in 0..40 {
        let answer = peer.ask(kind, to);
        let answer = answer.map_err(|failure| format!("{to} {kind:?}: {failure}"))?;
        if let Some(from) = answer.from.filter(|from| *from != to) {
            return Err(format!("{to} {kind:?}: an answer from {from}"));
        }
        look(&answer);
        answering.insert(answer.backend);
        if answering.iter().eq(names) {
            return Ok(());
        }
    }
    Err(format!("{to} {kind:?}: only {answering:?} of {names:?}"))
}

/// A socket at a port of its own, connected.
fn connected(
    peer: &Peer,
    transport: Transport,
    from: SocketAddr,
    to: SocketAddr,
) -> Result<PeerSocket<'_>, Failure> {
    let socket = peer.socket(transport, to.is_ipv6())?;
    socket.bind(from)?;
    socket.connect(to)?;
    Ok(socket)
}

/// What a socket's next question gets: who answers.
fn asks_on(socket: &PeerSocket<'_>, text: &str) -> Result<String, Failure> {
    socket.send(text)?;
    let answer = socket.receive()?;
    assert_eq!(answer.echoed, text);
    Ok(answer.backend)
}
