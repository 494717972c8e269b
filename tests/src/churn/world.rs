//! Two nodes with agents, clients in pods and outside, and Services that never rest.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::{Backend, Churn, Done, Results};
use crate::manifests::{Endpoint, Manifests, Service};
use crate::peer::PeerSocket;
use crate::{
    Agent, AgentOptions, DIRECT_TC, DIRECT_XDP, KERNEL, Kind, Lab, Node, Outside, Pod, PodNetwork,
    Target, Transport, UplinkOptions, Way, ip, wait_until,
};

/// The node port of the first Service; the others follow.
const NODE_PORT: u16 = 30_080;
/// The backends' port for the Service whose endpoints stay.
const ANCHORED: u16 = 9_000;
const ANCHOR_PORT: u16 = 30_000;

/// How much of everything.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many Services change.
    pub services: u8,
    /// How many changes are made in a second.
    pub changes: u32,
    /// How long a server outlives its endpoint.
    pub grace: Duration,
    /// How long the client outside waits after each question: each is a flow that is remembered.
    pub outside_pause: Duration,
    /// Whether the clients ask with what processor time is left, and not as fast as they can.
    pub clients_yield: bool,
    /// `--xdp` of the agents, which then forward packets themselves.
    pub xdp: Option<String>,
    /// Makes a run again.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            services: 40,
            changes: 100,
            grace: Duration::from_secs(2),
            outside_pause: Duration::from_millis(2),
            clients_yield: false,
            xdp: None,
            seed: 1,
        }
    }
}

/// Fields go in this order: the agents first, the lab last.
pub struct World {
    agents: Vec<Agent>,
    churn: Churn,
    options: Options,
    /// A client on each node, and one outside.
    clients: Vec<Pod>,
    nodes: Vec<Node>,
    outside: Outside,
    _lab: Lab,
}

fn v4(host: u8) -> [u8; 4] {
    [10, 96, 1, host]
}

fn v6(host: u8) -> [u16; 8] {
    [0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x100 + u16::from(host)]
}

/// Makes netfilter's conntrack, which the masquerading needs, forget what is over: else its table
/// is full after a quarter of a million connections, and it drops packets.
fn forget_soon(node: &Node) -> Result<()> {
    let timeouts = [
        "tcp_timeout_time_wait",
        "tcp_timeout_close",
        "tcp_timeout_last_ack",
        "udp_timeout",
        "udp_timeout_stream",
    ];
    node.run(|| {
        let set = |name| ip::sysctl(&format!("net/netfilter/nf_conntrack_{name}"), "3");
        timeouts.into_iter().try_for_each(set)
    })
}

/// A sticky Service with an endpoint on each node.
fn anchor() -> Service {
    Service::new("anchor")
        .at(v4(0))
        .at(v6(0))
        .tcp(80, ANCHORED)
        .node_ports(ANCHOR_PORT - 80)
        .sticky(10_000)
}

impl World {
    /// Everything made, and both agents ready.
    ///
    /// # Errors
    /// Whatever fails of it.
    pub fn new(options: Options) -> Result<Self> {
        let lab = Lab::new("churn")?;
        let outside = lab.outside(PodNetwork::Bridged)?;
        let uplink = UplinkOptions {
            masquerade: true,
            ..UplinkOptions::default()
        };
        let nodes = ["node1", "node2"]
            .iter()
            .map(|name| lab.node_at(&outside, name, uplink))
            .collect::<Result<Vec<_>>>()?;
        let mut backends = Vec::new();
        let mut clients = Vec::new();
        for node in &nodes {
            forget_soon(node)?;
            for number in 1..=3 {
                let pod = node.pod(&format!("{}-{number}", node.name()))?;
                let node = node.name().to_owned();
                backends.push(Backend { pod, node });
            }
            clients.push(node.pod(&format!("{}-client", node.name()))?);
        }
        clients.push(outside.client("outside")?);
        if options.clients_yield {
            clients
                .iter()
                .try_for_each(|client| client.yield_processor())?;
        }
        let manifests = Manifests::new(lab.dir().join("manifests"))?;
        let ends: Vec<_> = [&backends[0], &backends[3]]
            .iter()
            .map(|backend| Endpoint::new(backend.pod.v4()).on(&backend.node))
            .collect();
        for backend in &backends {
            backend.pod.serve(Transport::Tcp, ANCHORED)?;
        }
        manifests.put(
            "anchor.yaml",
            &[anchor().object(), anchor().slice_of(&ends)],
        )?;
        let rng = fastrand::Rng::with_seed(options.seed);
        let mut churn = Churn::new(manifests, backends, options.grace, rng);
        for number in 1..=options.services {
            let target = ANCHORED + u16::from(number);
            let service = Service::new(&format!("churned-{number}"))
                .at(v4(number))
                .at(v6(number))
                .tcp(80, target)
                .udp(80, target)
                .node_ports(NODE_PORT - 80 + u16::from(number));
            churn.add(service, target)?;
        }
        let mut world = Self {
            agents: Vec::new(),
            churn,
            options,
            clients,
            nodes,
            outside,
            _lab: lab,
        };
        for node in &world.nodes {
            let way: Way = match world.options.xdp.as_deref() {
                None => KERNEL,
                Some("native") => DIRECT_XDP,
                Some(_) => DIRECT_TC,
            };
            let args = way.iter().map(|arg| (*arg).to_owned()).collect();
            let dir = world.churn.manifests.dir();
            world.agents.push(Agent::start(
                node,
                dir,
                AgentOptions {
                    args,
                    ..AgentOptions::default()
                },
            )?);
        }
        Ok(world)
    }

    /// The agents, one on each node.
    pub fn agents(&mut self) -> &mut [Agent] {
        &mut self.agents
    }

    /// How long the slowest of the agents took to be ready.
    pub fn slowest_start(&self) -> Duration {
        let starts = self.agents.iter().map(Agent::ready_after);
        starts.max().unwrap_or_default()
    }

    /// How long a server outlives its endpoint from now on.
    pub fn set_grace(&mut self, grace: Duration) {
        self.churn.grace = grace;
    }

    /// Every client asks every Service from now on: over TCP and UDP, both families.
    ///
    /// # Errors
    /// If a client is gone.
    pub fn start_loads(&self) -> Result<()> {
        let udp = Kind::new(Transport::Udp);
        for (index, client) in self.clients.iter().enumerate() {
            let mut targets = Vec::new();
            for number in 1..=self.options.services {
                let port = Some(ANCHORED + u16::from(number));
                let node = &self.nodes[usize::from(number) % 2];
                let node_port = NODE_PORT + u16::from(number);
                let at: [SocketAddr; 2] = if index == 2 {
                    [(node.v4(), node_port).into(), (node.v6(), node_port).into()]
                } else {
                    [(v4(number), 80).into(), (v6(number), 80).into()]
                };
                for to in at {
                    for kind in [Kind::new(Transport::Tcp), udp, udp.unconnected()] {
                        targets.push(Target { kind, to, port });
                    }
                }
            }
            let pause = if index == 2 {
                self.options.outside_pause
            } else {
                Duration::ZERO
            };
            client.start_loads(targets, pause)?;
        }
        Ok(())
    }

    /// Adds what the clients got since the last time.
    ///
    /// # Errors
    /// If a client is gone.
    pub fn take_results(&self, results: &mut Results) -> Result<()> {
        for client in &self.clients {
            results.add(client.name(), &client.take_load()?);
        }
        Ok(())
    }

    /// The same, and silences them.
    ///
    /// # Errors
    /// If a client is gone.
    pub fn stop_loads(&self, results: &mut Results) -> Result<()> {
        for client in &self.clients {
            results.add(client.name(), &client.stop_load()?);
        }
        Ok(())
    }

    /// Changes Services for so long.
    ///
    /// # Errors
    /// If a change cannot be made.
    pub fn churn_for(&mut self, time: Duration) -> Result<()> {
        let each = Duration::from_secs(1) / self.options.changes.max(1);
        self.churn.run_until(Instant::now() + time, each)
    }

    /// A random time up to this.
    pub fn some(&mut self, longest: Duration) -> Duration {
        longest.mul_f64(self.churn.rng.f64())
    }

    /// What was done so far.
    pub fn done(&self) -> &Done {
        &self.churn.done
    }

    /// Kills an agent while Services change, lets them change without it for up to `away`, and
    /// starts it again: now and then it is killed again before it is ready.
    ///
    /// # Errors
    /// If it does not become ready in the end.
    pub fn crash(&mut self, agent: usize, away: Duration) -> Result<()> {
        let before = self.some(away);
        self.churn_for(before)?;
        self.churn.all_run_since = None;
        self.agents[agent].kill()?;
        let away = self.some(away);
        self.churn_for(away)?;
        self.agents[agent].spawn()?;
        if self.churn.rng.u8(..4) == 0 {
            let early = self.some(Duration::from_millis(200));
            self.churn_for(early)?;
            self.agents[agent].kill()?;
            self.agents[agent].spawn()?;
        }
        let deadline = Instant::now() + Agent::STARTS_IN;
        while !self.agents[agent].is_ready() {
            let log = || self.agents[agent].log().join("\n");
            ensure!(Instant::now() < deadline, "not ready again:\n{}", log());
            if let Some(status) = self.agents[agent].exit_status() {
                bail!(
                    "svclb ended with {status}:\n{}",
                    self.agents[agent].log().join("\n")
                );
            }
            self.churn_for(Duration::from_millis(10))?;
        }
        self.churn.all_run_since = Some(Instant::now());
        Ok(())
    }

    /// Whether the maps of every agent become what they should be while nothing changes.
    ///
    /// # Errors
    /// What they have otherwise.
    pub fn settles_in(&self, limit: Duration) -> Result<()> {
        for agent in &self.agents {
            let mut differs = Ok(None);
            let settled = wait_until(limit, || {
                differs = agent
                    .dump("services")
                    .and_then(|dump| self.churn.differs(&dump));
                matches!(differs, Ok(None))
            });
            if !settled {
                bail!("the maps are not as they should be: {:?}", differs?);
            }
        }
        Ok(())
    }

    /// A client in a pod, and one outside, of the Service that never changes.
    ///
    /// # Errors
    /// If they cannot be made.
    pub fn held_clients(&self) -> Result<HeldClients> {
        let node_port = (self.nodes[0].v4(), ANCHOR_PORT).into();
        let inside = (self.nodes[0].pod("holder")?, (v4(0), 80).into());
        let outside = (self.outside.client("holder")?, node_port);
        Ok(HeldClients(vec![inside, outside]))
    }
}

/// Clients whose connections are to stay, and what they ask.
pub struct HeldClients(Vec<(Pod, SocketAddr)>);

impl HeldClients {
    /// Connects each of them.
    ///
    /// # Errors
    /// If one of them cannot be.
    pub fn connect(&self) -> Result<Held<'_>> {
        let mut held = Vec::new();
        for (pod, to) in &self.0 {
            let to = *to;
            let backend = pod.ask(Transport::Tcp, to)?.backend;
            let socket = pod.socket(Transport::Tcp, false)?;
            socket.connect(to)?;
            held.push(Connection {
                pod,
                socket,
                to,
                backend,
            });
        }
        Ok(Held(held))
    }
}

struct Connection<'a> {
    pod: &'a Pod,
    socket: PeerSocket<'a>,
    to: SocketAddr,
    backend: String,
}

/// Connections that are to stay.
pub struct Held<'a>(Vec<Connection<'a>>);

impl Held<'_> {
    /// That each goes on under its name, and that new ones of the same client are given the same
    /// backend.
    ///
    /// # Errors
    /// What is otherwise.
    pub fn stand(&self) -> Result<()> {
        for Connection {
            pod,
            socket,
            to,
            backend,
        } in &self.0
        {
            socket.send("still there?")?;
            let results = socket.receive()?;
            ensure!(results.backend == *backend, "{backend} became {results:?}");
            ensure!(socket.peer_name()? == *to, "{to} lost its name");
            let tally = pod.repeat(Transport::Tcp, *to, 5)?;
            ensure!(
                tally.failed() == 0 && tally.answers.keys().eq([backend]),
                "{} was given {backend} at {to}, and now {tally:?}",
                pod.name()
            );
        }
        Ok(())
    }
}
