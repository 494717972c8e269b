//! What a connect through a ClusterIP costs, and how the agent grows with the Services.
//!
//! Everything is measured in pairs in one run: rounds through the Service and to the same
//! backend directly alternate, and the medians of the rounds are compared.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use serde::Serialize;
use serde_json::Value;
use svclb_tests::manifests::{Manifests, Service, documents};
use svclb_tests::{Agent, AgentOptions, Lab, Pod, Transport};

/// The port of the backends.
const TARGET: u16 = 8080;
/// Services in one file of the folder.
const PER_FILE: u32 = 100;
/// Endpoints of a Service.
const ENDPOINTS: u32 = 10;

#[derive(Parser)]
struct Args {
    /// How many Services are in the maps
    #[arg(long, value_delimiter = ',', default_value = "1,1000,10000")]
    services: Vec<u32>,
    /// Rounds of each kind at each size (all of them leave a port in TIME-WAIT: of 28,000)
    #[arg(long, default_value_t = 24)]
    rounds: u32,
    /// Connects in a round
    #[arg(long, default_value_t = 300)]
    connects: u32,
    /// Changes of an endpoint at each size
    #[arg(long, default_value_t = 20)]
    changes: u32,
    /// Where the results go as JSON
    #[arg(long, default_value = "target/bench/connect.json")]
    json: PathBuf,
}

#[derive(Serialize, Clone, Copy)]
struct Way {
    p50_ns: u64,
    p99_ns: u64,
    asks_per_second: f64,
}

#[derive(Serialize)]
struct Row {
    services: u32,
    endpoints: u32,
    direct: Way,
    service: Way,
    p50_ratio: f64,
    ready_ms: u128,
    resident_kib: u64,
    change_p50_us: u128,
    change_max_us: u128,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let rows = args
        .services
        .iter()
        .map(|services| measure(&args, *services))
        .collect::<Result<Vec<_>>>()?;
    print(&rows);
    if let Some(dir) = args.json.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(&args.json, serde_json::to_vec_pretty(&rows)?)
        .with_context(|| format!("{} can't be written", args.json.display()))?;
    println!("\nas JSON: {}", args.json.display());
    Ok(())
}

fn measure(args: &Args, services: u32) -> Result<Row> {
    eprintln!("{services} Services of {ENDPOINTS} endpoints …");
    let lab = Lab::new("bench")?;
    lab.remove_on_interrupt()?;
    let node = lab.node("node1")?;
    let (one, other, client) = (node.pod("one")?, node.pod("other")?, node.pod("client")?);
    for pod in [&one, &other] {
        pod.serve(Transport::Tcp, TARGET)?;
    }
    let manifests = Manifests::new(lab.dir().join("manifests"))?;
    write(&manifests, services, &one)?;
    let agent = Agent::start(&node, manifests.dir(), AgentOptions::default())?;
    let resident_kib = resident(agent.pid().context("the agent does not run")?)?;

    let through = SocketAddr::new(address(0).into(), 80);
    let direct = one.v4_at(TARGET);
    let mut ways = [Vec::new(), Vec::new()];
    for round in 0..args.rounds {
        // The second one finds warmer caches: they take turns.
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for way in order {
            let to = if way == 0 { direct } else { through };
            ways[way].push(one_round(&client, to, args.connects)?);
        }
    }
    let [direct, service] = ways.map(median);
    let mut changes = (0..args.changes)
        .map(|number| {
            let pod = if number % 2 == 0 { &other } else { &one };
            change(&manifests, &client, through, pod)
        })
        .collect::<Result<Vec<_>>>()?;
    changes.sort_unstable();
    Ok(Row {
        services,
        endpoints: services * ENDPOINTS,
        direct,
        service,
        p50_ratio: service.p50_ns as f64 / direct.p50_ns as f64,
        ready_ms: agent.ready_after().as_millis(),
        resident_kib,
        change_p50_us: changes
            .get(changes.len() / 2)
            .map_or(0, Duration::as_micros),
        change_max_us: changes.last().map_or(0, Duration::as_micros),
    })
}

fn one_round(client: &Pod, to: SocketAddr, connects: u32) -> Result<Way> {
    let begun = Instant::now();
    let tally = client.repeat(Transport::Tcp, to, connects)?;
    ensure!(tally.failed() == 0, "connects failed: {tally:?}");
    Ok(Way {
        p50_ns: tally.connect.p50,
        p99_ns: tally.connect.p99,
        asks_per_second: f64::from(connects) / begun.elapsed().as_secs_f64(),
    })
}

fn median(mut rounds: Vec<Way>) -> Way {
    let middle = rounds.len() / 2;
    rounds.sort_unstable_by_key(|way| way.p99_ns);
    let p99_ns = rounds[middle].p99_ns;
    rounds.sort_unstable_by(|a, b| a.asks_per_second.total_cmp(&b.asks_per_second));
    let asks_per_second = rounds[middle].asks_per_second;
    rounds.sort_unstable_by_key(|way| way.p50_ns);
    Way {
        p50_ns: rounds[middle].p50_ns,
        p99_ns,
        asks_per_second,
    }
}

/// From the rename of the changed file to the first answer of the new endpoint.
fn change(manifests: &Manifests, client: &Pod, through: SocketAddr, to: &Pod) -> Result<Duration> {
    let text = documents(&target(to));
    let begun = Instant::now();
    manifests.write("target.yaml", &text)?;
    while client.ask(Transport::Tcp, through)?.backend != to.name() {
        ensure!(
            begun.elapsed() < Duration::from_secs(10),
            "a change did not arrive in 10 s"
        );
    }
    Ok(begun.elapsed())
}

fn target(pod: &Pod) -> Vec<Value> {
    Service::new("target")
        .at(address(0))
        .tcp(80, TARGET)
        .with(&[pod.v4().into()])
}

/// The Service that is measured in a file of its own, and the others in files of a hundred.
fn write(manifests: &Manifests, services: u32, pod: &Pod) -> Result<()> {
    manifests.write("target.yaml", &documents(&target(pod)))?;
    let others: Vec<_> = (1..services).collect();
    for (number, chunk) in others.chunks(PER_FILE as usize).enumerate() {
        let objects: Vec<_> = chunk
            .iter()
            .flat_map(|index| {
                let endpoints: Vec<IpAddr> = (0..ENDPOINTS)
                    .map(|endpoint| endpoint_address(index * ENDPOINTS + endpoint))
                    .collect();
                Service::new(&format!("filler-{index}"))
                    .at(address(*index))
                    .tcp(80, TARGET)
                    .with(&endpoints)
            })
            .collect();
        manifests.write(&format!("filler-{number:04}.yaml"), &documents(&objects))?;
    }
    Ok(())
}

fn address(index: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 97, 0, 1)) + index)
}

fn endpoint_address(index: u32) -> IpAddr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 200, 0, 1)) + index).into()
}

/// `VmRSS` (proc_pid_status(5)), in KiB.
fn resident(pid: u32) -> Result<u64> {
    fs::read_to_string(format!("/proc/{pid}/status"))?
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmRSS:")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .context("no VmRSS")
}

fn print(rows: &[Row]) {
    println!(
        "{:>8} {:>9} | {:>9} {:>9} {:>6} | {:>9} {:>9} | {:>9} {:>9} | {:>8} {:>8} | {:>9} {:>9}",
        "services",
        "endpoints",
        "direct",
        "service",
        "ratio",
        "direct",
        "service",
        "direct",
        "service",
        "ready",
        "resident",
        "change",
        "change"
    );
    println!(
        "{:>8} {:>9} | {:>9} {:>9} {:>6} | {:>9} {:>9} | {:>9} {:>9} | {:>8} {:>8} | {:>9} {:>9}",
        "",
        "",
        "p50 µs",
        "p50 µs",
        "p50",
        "p99 µs",
        "p99 µs",
        "asks/s",
        "asks/s",
        "ms",
        "MiB",
        "p50 ms",
        "max ms"
    );
    let micros = |ns: u64| ns as f64 / 1000.0;
    let millis = |us: u128| us as f64 / 1000.0;
    for row in rows {
        println!(
            "{:>8} {:>9} | {:>9.2} {:>9.2} {:>6.3} | {:>9.2} {:>9.2} | {:>9.0} {:>9.0} | {:>8} {:>8.1} | {:>9.2} {:>9.2}",
            row.services,
            row.endpoints,
            micros(row.direct.p50_ns),
            micros(row.service.p50_ns),
            row.p50_ratio,
            micros(row.direct.p99_ns),
            micros(row.service.p99_ns),
            row.direct.asks_per_second,
            row.service.asks_per_second,
            row.ready_ms,
            row.resident_kib as f64 / 1024.0,
            millis(row.change_p50_us),
            millis(row.change_max_us),
        );
    }
}
