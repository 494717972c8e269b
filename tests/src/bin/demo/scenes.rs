//! What the demo shows, one function a chapter. Each fails where svclb does not keep
//! what it promises.

use std::fs;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use svclb_tests::{Kind, Tally, Transport};

use crate::screen::{Ink, Screen, micros};
use crate::stage::{Stage, backend};

const EACH: u32 = 300;

fn at(text: &str) -> Result<SocketAddr> {
    text.parse().with_context(|| format!("no address: {text}"))
}

fn sound(what: &str, tally: &Tally) -> Result<()> {
    ensure!(
        tally.failed() == 0 && tally.wrong_names == 0,
        "{what}: {} of {} failed {:?}, {} saw another address than they asked",
        tally.failed(),
        tally.failed() + tally.answered(),
        tally.failures,
        tally.wrong_names
    );
    Ok(())
}

fn bars(screen: &Screen, stage: &Stage, tally: &Tally) -> String {
    let count = |name: &str| tally.answers.get(name).copied().unwrap_or_default();
    stage
        .backends
        .iter()
        .enumerate()
        .map(|(index, pod)| screen.bar(index, count(pod.name()), tally.answered(), 12))
        .collect()
}

/// Every Service, and who answered.
pub(crate) fn distribution(screen: &mut Screen, stage: &Stage) -> Result<()> {
    screen.chapter(&format!("{EACH} questions to each Service: who answered"));
    let names: String = stage
        .backends
        .iter()
        .map(|pod| format!("{:<17}", pod.name()))
        .collect();
    let head = format!("{:<24}{:<24}{names}", "", "");
    screen.line(&screen.ink(Ink::Dim, head.trim_end()));
    for (name, to, transport) in [
        ("httpd-svc", "10.96.1.1:8080", Transport::Tcp),
        ("example/backend-service", "10.96.2.50:5000", Transport::Tcp),
        ("dual-stack", "10.96.3.1:80", Transport::Tcp),
        ("dual-stack", "[fd00:10:96::301]:80", Transport::Tcp),
        ("legacy-db", "10.96.4.1:5432", Transport::Tcp),
        ("kube-system/kube-dns", "10.96.0.10:53", Transport::Udp),
        ("kube-system/kube-dns", "10.96.0.10:53", Transport::Tcp),
        ("nodeport-svc", "10.96.6.1:80", Transport::Tcp),
        ("loadbalancer-svc", "10.96.6.2:80", Transport::Tcp),
        ("external-ips-svc", "10.96.6.3:80", Transport::Tcp),
    ] {
        let tally = stage.client.repeat(transport, at(to)?, EACH)?;
        sound(name, &tally)?;
        let shown = if transport == Transport::Udp {
            format!("{to} UDP")
        } else {
            to.to_owned()
        };
        screen.line(&format!(
            "{name:<24}{shown:<24}{}",
            bars(screen, stage, &tally).trim_end()
        ));
    }
    let direct = stage.backends[0].v4_at(80);
    let direct = stage.client.repeat(Transport::Tcp, direct, 1_000)?;
    let service = stage
        .client
        .repeat(Transport::Tcp, at("10.96.1.1:8080")?, 1_000)?;
    screen.line(&format!(
        "median connect: {} to httpd-svc, {} to a pod directly",
        micros(service.connect.p50),
        micros(direct.connect.p50)
    ));
    Ok(())
}

/// A client outside the cluster, whose packets are translated as they come in.
pub(crate) fn outside(screen: &mut Screen, stage: &Stage) -> Result<()> {
    let log = stage.agent.log();
    let by = log
        .iter()
        .find_map(|line| {
            let (_, device) = line.split_once("device=eth0 ")?;
            let (_, by) = device.split_once("by=")?;
            Some(by.trim_matches('"'))
        })
        .context("the agent does not say how packets are translated")?;
    screen.chapter(&format!("From outside the cluster, through {by}"));
    let balanced = at("192.0.2.80:80")?;
    stage.outside.route(balanced.ip(), &stage.node)?;
    let node_port = SocketAddr::new(stage.node.v4().into(), 32_223);
    for (name, to) in [("nodeport-svc", node_port), ("loadbalancer-svc", balanced)] {
        let tally = stage.outsider.repeat(Transport::Tcp, to, EACH)?;
        sound(name, &tally)?;
        screen.line(&format!(
            "{name:<24}{:<24}{}",
            to.to_string(),
            bars(screen, stage, &tally).trim_end()
        ));
    }
    let answer = stage.outsider.ask(Transport::Tcp, balanced)?;
    ensure!(
        answer.client.ip() == stage.outsider.v4(),
        "the backend saw {} and not its client",
        answer.client
    );
    screen.good(&format!(
        "{} sees the client's own address, {}",
        answer.backend,
        answer.client.ip()
    ));
    Ok(())
}

/// The program sees the address that it used.
pub(crate) fn names(screen: &mut Screen, stage: &Stage) -> Result<()> {
    screen.chapter("The program sees the Service, the backend sees the client");
    for (title, kind, to) in [
        (
            "TCP, IPv4",
            Kind::new(Transport::Tcp),
            at("10.96.1.1:8080")?,
        ),
        (
            "TCP, IPv6",
            Kind::new(Transport::Tcp),
            at("[fd00:10:96::301]:80")?,
        ),
        (
            "UDP, connected",
            Kind::new(Transport::Udp),
            at("10.96.0.10:53")?,
        ),
        (
            "UDP, sendto",
            Kind::new(Transport::Udp).unconnected(),
            at("10.96.0.10:53")?,
        ),
    ] {
        let answer = stage.client.ask(kind, to)?;
        let (call, shown) = match (answer.peer_name, answer.from) {
            (Some(name), _) => ("getpeername", name),
            (None, Some(from)) => ("recvfrom", from),
            (None, None) => bail!("{title}: no address to show"),
        };
        ensure!(shown == to, "{title}: {call} shows {shown} and not {to}");
        screen.line(&format!(
            "{title:<15}{call} says {}, {} sees {}",
            screen.ink(Ink::Bold, &shown.to_string()),
            answer.backend,
            answer.client.ip()
        ));
    }
    Ok(())
}

/// A client stays where it was.
pub(crate) fn affinity(screen: &mut Screen, stage: &Stage) -> Result<()> {
    screen.chapter("myapp-svc has ClientIP affinity: each client sticks to one backend");
    let to = at("10.96.0.80:80")?;
    let node_host = (&*stage.node, "the node's host".to_owned());
    let pods = [&stage.client, &stage.backends[0], &stage.backends[1]];
    let peers = pods.map(|pod| (&**pod, pod.name().to_owned()));
    for (peer, name) in peers.into_iter().chain([node_host]) {
        let tally = peer.repeat(Transport::Tcp, to, 100)?;
        sound("myapp-svc", &tally)?;
        ensure!(
            tally.answers.len() == 1,
            "{name} does not stick to one backend: {:?}",
            tally.answers
        );
        let line = format!("{name:<24}{}", bars(screen, stage, &tally));
        screen.line(line.trim_end());
    }
    Ok(())
}

/// No endpoint: refused at once.
pub(crate) fn refusal(screen: &mut Screen, stage: &Stage) -> Result<()> {
    screen.chapter("no-endpoints has no endpoints: refused at once, no time-out");
    let to = at("10.96.5.1:80")?;
    let mut best = u64::MAX;
    for _ in 0..20 {
        match stage.client.ask(Transport::Tcp, to) {
            Err(failure) if failure.errno == "ECONNREFUSED" => best = best.min(failure.nanos),
            other => bail!("{to} should be refused, but: {other:?}"),
        }
    }
    screen.good(&format!(
        "connect to {to}: ECONNREFUSED in {}",
        micros(best)
    ));
    Ok(())
}

/// What is no business of a proxy.
pub(crate) fn left_alone(screen: &mut Screen, stage: &Stage) -> Result<()> {
    screen.chapter("What is no Service address is left alone");
    let dump = stage.agent.dump("all")?.to_string();
    for name in ["headless", "docs"] {
        ensure!(
            !dump.contains(&format!("\"{name}\"")),
            "{name} is in the maps and should not be"
        );
    }
    screen.good("headless (no cluster IP) and docs (ExternalName) are in no map");
    let pod = &stage.backends[1];
    let answer = stage.client.ask(Transport::Tcp, pod.v4_at(80))?;
    ensure!(
        answer.backend == pod.name() && answer.peer_name == Some(pod.v4_at(80)),
        "a direct connection to {} was changed: {answer:?}",
        pod.name()
    );
    screen.good(&format!(
        "{} itself: connected, getpeername says {}",
        pod.v4_at(80),
        pod.v4_at(80)
    ));
    Ok(())
}

/// What the kernel holds.
pub(crate) fn dump(screen: &mut Screen, stage: &Stage) -> Result<()> {
    screen.chapter("svclb dump services");
    let output = stage.agent.svclb("dump", &["services"])?;
    ensure!(
        output.status.success(),
        "svclb dump failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        screen.line(line);
    }
    Ok(())
}

/// A backend comes and goes under load.
pub(crate) fn change(screen: &mut Screen, stage: &mut Stage) -> Result<()> {
    screen.chapter("httpd-svc gains and loses an endpoint while the client keeps connecting");
    let to = at("10.96.1.1:8080")?;
    let file = stage.manifests.dir().join("httpd.yaml");
    let before = fs::read_to_string(&file).context("cannot read httpd.yaml")?;
    let extra = backend(&stage.node, "backend-d")?;
    let after = format!(
        "{}\n  - addresses:\n      - {}\n    nodeName: node1\n",
        before.trim_end(),
        extra.v4()
    );
    stage.backends.push(extra);
    stage
        .client
        .start_load(Transport::Tcp, to, Duration::from_micros(200))?;
    let mut total = 0;
    total += watch(screen, stage, "three endpoints")?;
    for (text, there, title) in [
        (&after, true, "backend-d added"),
        (&before, false, "backend-d removed"),
    ] {
        stage.manifests.write("httpd.yaml", text)?;
        let (noticed, answered) = settle(stage, there)?;
        total += answered;
        screen.line(&screen.ink(
            Ink::Dim,
            &format!(
                "httpd.yaml rewritten; in effect within {} ms",
                noticed.as_millis()
            ),
        ));
        total += watch(screen, stage, title)?;
    }
    let last = stage.client.stop_load()?;
    sound("httpd-svc", &last)?;
    total += last.answered();
    screen.good(&format!("{total} connects, none failed"));
    Ok(())
}

/// Waits until backend-d answers, or does not: how long it took, and how many answered.
fn settle(stage: &Stage, there: bool) -> Result<(Duration, u64)> {
    let start = Instant::now();
    let mut answered = 0;
    while start.elapsed() < Duration::from_secs(5) {
        sleep(Duration::from_millis(10));
        let tally = stage.client.take_load()?;
        sound("httpd-svc", &tally)?;
        answered += tally.answered();
        if tally.answers.contains_key("backend-d") == there && tally.answered() > 10 {
            return Ok((start.elapsed(), answered));
        }
    }
    bail!("the change to httpd.yaml took no effect in 5 s")
}

/// Half a second of load.
fn watch(screen: &Screen, stage: &Stage, title: &str) -> Result<u64> {
    sleep(Duration::from_millis(500));
    let tally = stage.client.take_load()?;
    sound("httpd-svc", &tally)?;
    screen.line(&format!(
        "{title:<20}{}",
        bars(screen, stage, &tally).trim_end()
    ));
    Ok(tally.answered())
}

/// The data path needs no agent.
pub(crate) fn agent_away(screen: &mut Screen, stage: &mut Stage) -> Result<()> {
    screen.chapter("The agent is stopped: what it pinned goes on");
    let (status, after) = stage.agent.terminate()?;
    ensure!(status.success(), "svclb run ended with {status}");
    screen.good(&format!(
        "SIGTERM: svclb ended after {} ms",
        after.as_millis()
    ));
    let tally = stage
        .client
        .repeat(Transport::Tcp, at("10.96.1.1:8080")?, EACH)?;
    sound("httpd-svc without its agent", &tally)?;
    screen.good(&format!("{EACH} more connects to httpd-svc, none failed"));
    screen.line(&format!(
        "{:<20}{}",
        "no agent",
        bars(screen, stage, &tally).trim_end()
    ));
    Ok(())
}
