//! What traffic from outside costs: packets and connects a second to a node port whose backend is
//! on another node, by svclb in each of its modes, and by rule sets such as kube-proxy's.
//!
//! Each way has a node of its own, all in one lab and in front of one backend. Rounds of all ways
//! alternate in one run, and what is printed is each way's median and its ratio to a node that forwards
//! and translates nothing: the backend asked by its own address. (Its answers do not come back by
//! that node, which is the one thing in its favour.)

mod rules;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use serde::Serialize;
use svclb_tests::manifests::{Endpoint, Manifests, Service, documents};
use svclb_tests::{
    Agent, AgentOptions, DIRECT_TC, DIRECT_XDP, KERNEL, Lab, Node, Pod, PodNetwork, Transport,
    UplinkOptions, feed,
};

use crate::rules::Rules;

/// The port at which the backend answers, and one at which it does not.
const TARGET: u16 = 8080;
const NODE_PORT: u16 = 30_080;
/// Where datagrams are counted and not answered.
const SINK: u16 = 9;

#[derive(Parser)]
struct Args {
    /// How many Services there are
    #[arg(long, value_delimiter = ',', default_value = "1,1000")]
    services: Vec<u32>,
    /// Rounds of each way at each size
    #[arg(long, default_value_t = 9)]
    rounds: u32,
    /// Connects in a round, each with a question and its answer
    #[arg(long, default_value_t = 300)]
    connects: u32,
    /// Flows that packets are of in a round
    #[arg(long, default_value_t = 16)]
    flows: u32,
    /// How long packets are sent for in a round, in milliseconds
    #[arg(long, default_value_t = 300)]
    milliseconds: u64,
    /// Where the results go as JSON
    #[arg(long, default_value = "target/bench/outside.json")]
    json: PathBuf,
}

/// A way from the client to the backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Forwarded,
    Kernel,
    DirectTc,
    DirectXdp,
    Iptables,
    Nftables,
}

impl Way {
    const ALL: [Self; 6] = [
        Self::Forwarded,
        Self::Kernel,
        Self::DirectTc,
        Self::DirectXdp,
        Self::Iptables,
        Self::Nftables,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded alone",
            Self::Kernel => "svclb",
            Self::DirectTc => "svclb, direct, tc",
            Self::DirectXdp => "svclb, direct, XDP",
            Self::Iptables => "iptables rules",
            Self::Nftables => "nftables rules",
        }
    }
}

#[derive(Serialize)]
struct Row {
    services: u32,
    way: &'static str,
    packets_per_second: f64,
    packets_ratio: f64,
    asks_per_second: f64,
    connect_p50_ns: u64,
    connect_ratio: f64,
}

#[derive(Clone, Copy, Default)]
struct Round {
    packets: f64,
    asks: f64,
    connect: u64,
}

/// Fields go in this order: the agents first.
struct Bench {
    _agents: Vec<Agent>,
    client: Pod,
    backend: Pod,
    /// That of the backend.
    far: Node,
    /// Where a client asks, and where it sends packets, by each way.
    to: Vec<(SocketAddr, SocketAddr)>,
    _lab: Lab,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut rows = Vec::new();
    for services in &args.services {
        rows.extend(measure(&args, *services)?);
    }
    print(&rows);
    if let Some(dir) = args.json.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(&args.json, serde_json::to_vec_pretty(&rows)?)
        .with_context(|| format!("{} can't be written", args.json.display()))?;
    println!("\nas JSON: {}", args.json.display());
    Ok(())
}

/// The Service that is measured: its first port is answered, its second is not.
fn service(backend: &Pod) -> Result<Vec<serde_json::Value>> {
    let service = Service::new("target")
        .at(Ipv4Addr::new(10, 97, 0, 1))
        .tcp(80, TARGET)
        .udp(81, SINK)
        .node_ports(NODE_PORT - 80);
    let endpoint = Endpoint::new(backend.v4()).on("far");
    Ok(vec![service.object(), service.slice_of(&[endpoint])])
}

fn others(manifests: &Manifests, services: u32) -> Result<()> {
    let numbers: Vec<_> = (1..services).collect();
    for (file, chunk) in numbers.chunks(100).enumerate() {
        let objects: Vec<_> = chunk
            .iter()
            .flat_map(|number| {
                let first = u32::from(Ipv4Addr::new(10, 200, 0, 1)) + number * 10;
                let endpoints: Vec<IpAddr> = (first..first + 10)
                    .map(|ip| Ipv4Addr::from(ip).into())
                    .collect();
                let at = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 97, 0, 1)) + number);
                let service = Service::new(&format!("filler-{number}")).at(at);
                service.tcp(80, TARGET).with(&endpoints)
            })
            .collect();
        manifests.write(&format!("filler-{file:04}.yaml"), &documents(&objects))?;
    }
    Ok(())
}

impl Bench {
    fn new(services: u32) -> Result<Self> {
        let lab = Lab::new("bench")?;
        lab.remove_on_interrupt()?;
        let outside = lab.outside(PodNetwork::Routed)?;
        let node = |name: &str| lab.node_at(&outside, name, UplinkOptions::default());
        let far = node("far")?;
        let backend = far.pod("backend")?;
        backend.serve(Transport::Tcp, TARGET)?;
        let client = outside.client("client")?;
        let manifests = Manifests::new(lab.dir().join("manifests"))?;
        manifests.write("target.yaml", &documents(&service(&backend)?))?;
        others(&manifests, services)?;
        let mut agents = Vec::new();
        let mut to = Vec::new();
        for way in Way::ALL {
            let node = node(&format!("{way:?}").to_lowercase())?;
            if way != Way::Forwarded {
                to.push((
                    (node.v4(), NODE_PORT).into(),
                    (node.v4(), NODE_PORT + 1).into(),
                ));
            }
            match way {
                Way::Forwarded => {
                    outside.route(backend.v4().into(), &node)?;
                    to.push((backend.v4_at(TARGET), backend.v4_at(SINK)));
                }
                Way::Kernel | Way::DirectTc | Way::DirectXdp => {
                    let args = match way {
                        Way::DirectTc => DIRECT_TC,
                        Way::DirectXdp => DIRECT_XDP,
                        _ => KERNEL,
                    };
                    let options = AgentOptions {
                        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
                        ..AgentOptions::default()
                    };
                    agents.push(Agent::start(&node, manifests.dir(), options)?);
                }
                Way::Iptables | Way::Nftables => prepare(&node, way, services, &backend)?,
            }
        }
        Ok(Self {
            _agents: agents,
            client,
            backend,
            far,
            to,
            _lab: lab,
        })
    }

    fn round(&self, way: usize, args: &Args) -> Result<Round> {
        let (to, sink) = self.to[way];
        let begun = Instant::now();
        let tally = self.client.repeat(Transport::Tcp, to, args.connects)?;
        ensure!(tally.failed() == 0, "{}: {tally:?}", Way::ALL[way].name());
        let asks = f64::from(args.connects) / begun.elapsed().as_secs_f64();
        let before = self.arrived()?;
        let begun = Instant::now();
        let time = Duration::from_millis(args.milliseconds);
        self.client.flood(sink, args.flows, time)?;
        let packets = (self.arrived()? - before) as f64 / begun.elapsed().as_secs_f64();
        Ok(Round {
            packets,
            asks,
            connect: tally.connect.p50,
        })
    }

    /// How many packets the backend's device was given.
    fn arrived(&self) -> Result<u64> {
        let host = self.backend.v4().octets()[3];
        let device = format!("v{host}:");
        self.far.run(|| {
            let text = fs::read_to_string("/proc/thread-self/net/dev")?;
            let line = text
                .lines()
                .find_map(|line| line.trim().strip_prefix(&device));
            // The tenth number: packets sent (by the node's end).
            let number = line.and_then(|line| line.split_whitespace().nth(9));
            number
                .context("no such device")?
                .parse()
                .context("no number")
        })
    }
}

/// Writes a rule set into a node.
fn prepare(node: &Node, way: Way, services: u32, backend: &Pod) -> Result<()> {
    let at = |port| SocketAddrV4::new(backend.v4(), port);
    let rules = Rules {
        services,
        node: node.v4(),
        ports: [
            ("tcp", NODE_PORT, at(TARGET)),
            ("udp", NODE_PORT + 1, at(SINK)),
        ],
    };
    node.run(|| match way {
        Way::Iptables => feed(
            &mut Command::new("iptables-legacy-restore"),
            "iptables",
            &rules.iptables()?,
        ),
        _ => feed(
            Command::new("nft").args(["-f", "-"]),
            "nftables",
            &rules.nftables()?,
        ),
    })
}

fn measure(args: &Args, services: u32) -> Result<Vec<Row>> {
    eprintln!("{services} Services …");
    let bench = Bench::new(services)?;
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); Way::ALL.len()];
    for number in 0..=args.rounds {
        for step in 0..Way::ALL.len() {
            // Each is the first of a round once.
            let way = (step + number as usize) % Way::ALL.len();
            let round = bench.round(way, args)?;
            // The first one warms up: neighbours, caches.
            if number > 0 {
                rounds[way].push(round);
            }
        }
    }
    let medians: Vec<Round> = rounds.into_iter().map(median).collect();
    let forwarded = medians[0];
    Ok(Way::ALL
        .iter()
        .zip(&medians)
        .map(|(way, round)| Row {
            services,
            way: way.name(),
            packets_per_second: round.packets,
            packets_ratio: round.packets / forwarded.packets,
            asks_per_second: round.asks,
            connect_p50_ns: round.connect,
            connect_ratio: round.connect as f64 / forwarded.connect as f64,
        })
        .collect())
}

fn median(mut rounds: Vec<Round>) -> Round {
    let middle = rounds.len() / 2;
    rounds.sort_unstable_by(|a, b| a.packets.total_cmp(&b.packets));
    let packets = rounds[middle].packets;
    rounds.sort_unstable_by(|a, b| a.asks.total_cmp(&b.asks));
    let asks = rounds[middle].asks;
    rounds.sort_unstable_by_key(|round| round.connect);
    Round {
        packets,
        asks,
        connect: rounds[middle].connect,
    }
}

fn print(rows: &[Row]) {
    println!(
        "| Services | way | packets/s | × forwarded | connect, p50 µs | × forwarded | asks/s |"
    );
    println!("|---|---|---|---|---|---|---|");
    for row in rows {
        println!(
            "| {} | {} | {:.0} | {:.2} | {:.1} | {:.2} | {:.0} |",
            row.services,
            row.way,
            row.packets_per_second,
            row.packets_ratio,
            row.connect_p50_ns as f64 / 1000.0,
            row.connect_ratio,
            row.asks_per_second
        );
    }
}
