//! The agent: `source → planner → writer`, and nothing between them but this loop.

mod connections;
mod conntrack;
mod devices;
mod failing;
mod health;
mod health_checks;
mod http;
mod metrics;
mod node_ports;
mod packets;
mod udp_backends;
mod udp_socket_reaper;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use conntrack::Conntrack;
use devices::Devices;
use failing::Failing;
use health::Health;
use health_checks::HealthChecks;
use metrics::Metrics;
pub(crate) use node_ports::NodePortAddresses;
pub(crate) use packets::DeviceChoice;
use packets::Packets;
use svclb_core::conntrack::Timeouts;
use svclb_core::log_once::LogOnce;
use svclb_core::model::{Event, Node, NodeConfig};
use svclb_core::planner::{Conflict, Planner};
use svclb_core::writer::{QUARANTINE, Retired, Writer};
use svclb_dataplane::{Attachment, Dataplane, GracePeriod, KernelMaps, OpenError, XdpMode};
use svclb_source::{FolderOptions, GuardTimeouts, KubeEvent, KubeOptions, Status, event_recorder};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{debug, error, info, warn};
pub(crate) use udp_socket_reaper::UdpSocketReaper;

/// How many Services are planned and written in one round: what else arrives is not kept waiting long.
const ROUND: usize = 1024;
/// How many batches a source may be ahead.
const AHEAD: usize = 16;

/// Where Services come from.
pub(crate) enum Source {
    /// A folder.
    Manifests(PathBuf),
    /// A cluster.
    Kubernetes {
        kubeconfig: Option<PathBuf>,
        apiserver: Option<String>,
    },
}

/// All that the agent is made of.
pub(crate) struct Config {
    pub(crate) node_name: Arc<str>,
    pub(crate) source: Source,
    pub(crate) dataplane: Dataplane,
    pub(crate) udp_socket_reaper: UdpSocketReaper,
    pub(crate) pin_dir: PathBuf,
    pub(crate) metrics_addr: SocketAddr,
    pub(crate) healthz_addr: SocketAddr,
    pub(crate) times: Times,
    pub(crate) node_port_addresses: NodePortAddresses,
    pub(crate) external_ips: bool,
    pub(crate) device_choice: DeviceChoice,
    pub(crate) xdp: XdpMode,
}

/// Since when, how often, and after how long.
pub(crate) struct Times {
    pub(crate) started: Instant,
    pub(crate) audit_interval: Duration,
    pub(crate) conntrack: Timeouts,
}

/// Runs until a signal, or until the source fails.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("no signal handler")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("no signal handler")?;
    let mut hangup = signal(SignalKind::hangup()).context("no signal handler")?;
    let status = Status::default();
    // A folder need not have a Node; a cluster has one for every node of its own.
    let needs_node = matches!(config.source, Source::Kubernetes { .. });
    let health = Health::new(status.clone(), needs_node);
    let metrics = Arc::new(Metrics::new(&config.pin_dir));
    http::serve(
        config.healthz_addr,
        http::health_routes(health.clone()),
        "--healthz-addr",
    );
    http::serve(
        config.metrics_addr,
        http::metrics_routes(Arc::clone(&metrics)),
        "--metrics-addr",
    );

    let node_name = Arc::clone(&config.node_name);
    let (event_recorder, kube_events) = event_recorder();
    let device_map = config.dataplane.devices()?;
    let mut agent = Agent::new(
        config.dataplane,
        HealthChecks::new(health_checks::everywhere(), health.clone(), event_recorder),
        health,
        metrics,
        config.udp_socket_reaper,
        config.times,
        NodeContext {
            node_name: config.node_name,
            devices: devices::watch().await?,
            node_port_addresses: config.node_port_addresses,
            external_ips: config.external_ips,
            located: None,
            packets: Packets::new(config.device_choice, config.xdp, device_map),
            own: Vec::new(),
        },
    )?;
    let (sender, mut events) = mpsc::channel(AHEAD);
    let mut source = tokio::spawn(watch_source(
        config.source,
        node_name,
        agent.writer.fill().frontends > 0,
        sender,
        status.clone(),
        kube_events,
    ));
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => agent.audited = None,
            Some(batch) = events.recv() => {
                agent.observe(batch);
                while let Ok(batch) = events.try_recv() {
                    agent.observe(batch);
                }
            }
            completion = agent.next_completion() => agent.handle(completion),
            _ = tick.tick() => agent.tick(&status)?,
            ended = &mut source => {
                return ended.context("the source stopped by a defect of its own")?;
            }
        }
        agent.catch_up()?;
    }
    info!("stopping: the data path goes on; `svclb cleanup` removes it");
    Ok(())
}

async fn watch_source(
    source: Source,
    node_name: Arc<str>,
    serves: bool,
    sender: mpsc::Sender<Vec<Event>>,
    status: Status,
    event_recorder: mpsc::Receiver<KubeEvent>,
) -> anyhow::Result<()> {
    match source {
        Source::Manifests(dir) => {
            let options = FolderOptions {
                dir,
                node_name,
                serves,
                guard_timeouts: GuardTimeouts::default(),
            };
            svclb_source::manifests(options, sender, status).await?;
        }
        Source::Kubernetes {
            kubeconfig,
            apiserver,
        } => {
            let options = KubeOptions {
                kubeconfig,
                apiserver,
                node_name,
                serves,
                guard_timeouts: GuardTimeouts::default(),
            };
            svclb_source::kubernetes(options, sender, status, event_recorder).await?;
        }
    }
    Ok(())
}

/// A grace period that is passing, and what may be deleted after it.
struct Passing {
    wait: JoinHandle<std::io::Result<()>>,
    retired: Retired,
}

/// What the agent knows of its node, and where it knows it from.
struct NodeContext {
    node_name: Arc<str>,
    devices: watch::Receiver<Devices>,
    node_port_addresses: NodePortAddresses,
    external_ips: bool,
    /// The Node object that the planner's addresses were chosen with.
    located: Option<Node>,
    packets: Packets,
    /// The node's own addresses: those that its object names, and then those of NodePorts.
    own: Vec<IpAddr>,
}

struct Agent {
    planner: Planner,
    node_context: NodeContext,
    writer: Writer<KernelMaps>,
    dataplane: Dataplane,
    grace: GracePeriod,
    passing: Option<Passing>,
    /// Whether the last deletion of old slots succeeded.
    collects: bool,
    failing: Failing,
    log_once: LogOnce,
    udp_socket_reaper: UdpSocketReaper,
    conntrack: Conntrack,
    audit_interval: Duration,
    /// When the maps were last compared; `None` to do it now.
    audited: Option<Instant>,
    started: Instant,
    ready: bool,
    health: Health,
    health_checks: HealthChecks,
    metrics: Arc<Metrics>,
}

impl Agent {
    fn new(
        dataplane: Dataplane,
        health_checks: HealthChecks,
        health: Health,
        metrics: Arc<Metrics>,
        udp_socket_reaper: UdpSocketReaper,
        times: Times,
        node_context: NodeContext,
    ) -> anyhow::Result<Self> {
        let maps = dataplane.maps()?;
        let conntrack = Conntrack::new(dataplane.flows()?, times.conntrack);
        let grace = maps.grace();
        let writer = Writer::adopt(maps).context("the pinned maps cannot be read back")?;
        let fill = writer.fill();
        if fill.frontends > 0 {
            info!(
                frontends = fill.frontends,
                slots = fill.slots,
                "adopted what is in the maps; it goes on being served"
            );
        }
        Ok(Self {
            planner: Planner::new(&node_context.node_name),
            node_context,
            writer,
            dataplane,
            grace,
            passing: None,
            collects: true,
            failing: Failing::default(),
            log_once: LogOnce::default(),
            udp_socket_reaper,
            conntrack,
            audit_interval: times.audit_interval,
            audited: Some(Instant::now()),
            started: times.started,
            ready: false,
            health_checks,
            health,
            metrics,
        })
    }

    fn observe(&mut self, batch: Vec<Event>) {
        for event in batch {
            self.planner.observe(event);
        }
    }

    /// Tells the planner where NodePorts answer, if the node or its devices changed.
    fn locate(&mut self) {
        let known = &mut self.node_context;
        let node = self.planner.cluster().node();
        // The watcher ends with the agent.
        let moved = known.devices.has_changed().unwrap_or_default();
        if !moved && known.located.as_ref() == Some(node) {
            return;
        }
        let node = node.clone();
        let node_port_ips = known
            .node_port_addresses
            .choose(&node, &known.devices.borrow_and_update());
        debug!(?node_port_ips, "NodePorts answer at these addresses");
        known.own.clone_from(&node.internal_ips);
        known.own.extend(&node_port_ips);
        known.located = Some(node);
        self.planner.set_node_config(NodeConfig {
            node_port_ips,
            external_ips: known.external_ips,
        });
        if self.ready {
            self.follow_devices(false);
        }
    }

    /// Attaches the packet programs to the devices that there are; how many should have been
    /// attached.
    fn follow_devices(&mut self, again: bool) -> usize {
        let known = &mut self.node_context;
        let devices = known.devices.borrow().clone();
        known
            .packets
            .follow(&mut self.dataplane, &devices, &known.own, again)
    }

    /// Attaches the packet programs to pods' devices too, for Services with source ranges.
    fn meet_pods(&mut self) {
        if self.node_context.packets.take_pods() && self.ready {
            self.follow_devices(false);
        }
    }

    /// Writes what changed, and makes the first full sync complete.
    fn catch_up(&mut self) -> anyhow::Result<()> {
        self.locate();
        let mut wanted = (!self.ready).then(BTreeSet::new);
        while let Some(mut round) = self.planner.next_round(ROUND) {
            if round.plans.iter().any(|plan| !plan.sources.is_empty()) {
                self.meet_pods();
            }
            let begun = Instant::now();
            let report = self.writer.commit(&round);
            self.metrics.round(begun.elapsed(), report.performed);
            if let Some(wanted) = &mut wanted {
                wanted.extend(round.plans.iter().map(|plan| plan.record));
            } else if report.performed > 0 {
                debug!(
                    services = round.plans.len() + round.removed.len(),
                    writes = report.performed,
                    microseconds = begun.elapsed().as_micros(),
                    "written"
                );
            }
            for conflict in &round.conflicts {
                log_conflict(conflict, &mut self.log_once, self.started.elapsed());
            }
            self.health_checks.update(
                std::mem::take(&mut round.health_checks),
                &mut self.log_once,
                self.started.elapsed(),
            );
            self.udp_socket_reaper.changes.written(&round);
            self.conntrack.changes.written(&round);
            self.failing.update(&round, report.failed);
        }
        let attached = match wanted {
            Some(wanted) if self.planner.cluster().is_synced() => Some(self.become_ready(&wanted)?),
            _ => None,
        };
        let node = self.planner.cluster().known_node();
        self.health
            .synced(self.ready, self.failing.sentence(), node);
        // Whoever reads `ready` may ask for health at once.
        if let Some(attached) = attached {
            self.tell_ready(&attached);
        }
        self.begin_grace();
        self.udp_socket_reaper.start();
        if self.ready {
            self.conntrack.start();
        }
        Ok(())
    }

    /// Everything that exists is in the maps: what is not wanted goes, and the programs come.
    fn become_ready(
        &mut self,
        wanted: &BTreeSet<svclb_common::ServiceRecord>,
    ) -> anyhow::Result<Vec<Attachment>> {
        for failed in self.writer.remove_others(wanted).failed {
            error!(service = %failed.record, "cannot be removed: {}", failed.reason);
        }
        let attached = self.dataplane.attach()?;
        if self.writer.fill().sources > 0 {
            self.meet_pods();
        }
        self.follow_devices(true);
        self.dataplane.migrate()?;
        self.ready = true;
        self.metrics.ready(self.started.elapsed());
        self.udp_socket_reaper.ready();
        Ok(attached)
    }

    fn tell_ready(&self, attached: &[Attachment]) {
        let replaced = attached
            .iter()
            .filter(|how| matches!(how, Attachment::Replaced(_)))
            .count();
        info!(
            services = self.planner.cluster().service_count(),
            endpoints = self.planner.cluster().endpoint_count(),
            frontends = self.writer.fill().frontends,
            programs = attached.len(),
            replaced,
            refusal = if self.dataplane.features().set_retval {
                "errno"
            } else {
                "loopback"
            },
            milliseconds = self.started.elapsed().as_millis(),
            "ready"
        );
    }

    /// Lets a grace period pass if something waits for one and none is passing.
    fn begin_grace(&mut self) {
        if self.passing.is_some() {
            return;
        }
        let retired = self.writer.retire();
        self.udp_socket_reaper.changes.grace(!retired.is_empty());
        self.conntrack.changes.grace(!retired.is_empty());
        if !retired.is_empty() {
            let grace = self.grace.clone();
            self.passing = Some(Passing {
                wait: tokio::task::spawn_blocking(move || grace.wait()),
                retired,
            });
        }
    }

    /// Resolves when something that runs on another thread is done.
    async fn next_completion(&mut self) -> Completion {
        tokio::select! {
            waited = grace_over(&mut self.passing) => Completion::GraceOver(waited),
            worked = self.udp_socket_reaper.next_completion() => Completion::Worked(worked),
            swept = self.conntrack.next_completion() => Completion::Swept(swept),
            Ok(()) = self.node_context.devices.changed() => Completion::Moved,
        }
    }

    fn handle(&mut self, completion: Completion) {
        match completion {
            Completion::GraceOver(waited) => self.collect(waited),
            Completion::Swept(swept) => {
                if let Some(entries) = self.conntrack.take(swept, &self.planner) {
                    self.metrics.flows(entries);
                }
            }
            // Noticed by `locate`.
            Completion::Moved => self.node_context.devices.mark_changed(),
            Completion::Worked(worked) => {
                let destroyed = self.udp_socket_reaper.handle(worked, &self.planner);
                self.metrics.destroyed(destroyed);
            }
        }
    }

    fn collect(&mut self, waited: std::io::Result<()>) {
        let Some(passing) = self.passing.take() else {
            return;
        };
        let result = match waited {
            Ok(()) => self.writer.collect(passing.retired).map_err(Into::into),
            Err(error) => {
                self.writer.keep(passing.retired);
                Err(anyhow::Error::from(error))
            }
        };
        self.udp_socket_reaper.changes.grace_over();
        self.conntrack.changes.grace_over();
        match result {
            Ok(_) => self.collects = true,
            Err(error) => {
                // They stay in the maps, unreachable, and are tried again.
                if std::mem::replace(&mut self.collects, false) {
                    warn!("old slots cannot be deleted now: {error:#}");
                }
            }
        }
    }

    /// Compares maps and programs with what they should be, and repairs what differs: a
    /// deleted element, a detached program, a second writer.
    fn audit(&mut self) -> anyhow::Result<()> {
        self.audited = Some(Instant::now());
        match self.writer.audit() {
            Ok(0) => {}
            Ok(services) => {
                warn!(
                    services,
                    "the maps were not as svclb left them; what differs is written again"
                );
                self.metrics.drifted(services);
                self.planner.retry_all();
                for failed in self.writer.remove_others(&self.planner.wanted()).failed {
                    error!(service = %failed.record, "cannot be removed: {}", failed.reason);
                }
            }
            Err(error) => warn!("the maps cannot be compared with what was written: {error}"),
        }
        match self.dataplane.pin_again() {
            Ok(0) => {}
            Ok(pins) => {
                warn!(
                    pins,
                    "pins were removed; they are there again, and nothing was detached"
                );
                self.metrics.drifted(pins);
            }
            // Two agents would undo each other's writes.
            Err(error @ OpenError::PinLock(_)) => return Err(error.into()),
            Err(error) => warn!("what is not pinned cannot be pinned again: {error}"),
        }
        let mut anew = self.follow_devices(true);
        match self.dataplane.attach() {
            Ok(attached) => {
                let is_new = |how: &&Attachment| matches!(how, Attachment::New(_));
                anew += attached.iter().filter(is_new).count();
            }
            Err(error) => warn!("the programs cannot be attached again: {error}"),
        }
        if anew > 0 {
            warn!(
                programs = anew,
                "programs were detached; they are attached again"
            );
            self.metrics.drifted(anew);
        }
        Ok(())
    }

    fn tick(&mut self, status: &Status) -> anyhow::Result<()> {
        let due = self
            .audited
            .is_none_or(|last| last.elapsed() >= self.audit_interval);
        // What is retired and not collected yet is in the maps and rightly so.
        if self.ready && due && self.passing.is_none() {
            self.audit()?;
        }
        if self.ready {
            if let Err(error) = self.writer.free(self.started.elapsed(), QUARANTINE) {
                warn!("ids cannot be freed now: {error}");
            }
            for name in self.failing.due() {
                self.planner.retry(name);
            }
        }
        let cluster = self.planner.cluster();
        self.metrics.state(
            cluster.service_count(),
            self.writer.fill(),
            self.failing.len(),
            self.planner.waiting().count(),
            status,
        );
        Ok(())
    }
}

/// What was waited for.
enum Completion {
    GraceOver(std::io::Result<()>),
    Worked(udp_socket_reaper::Worked),
    Swept(std::io::Result<svclb_dataplane::Swept>),
    /// The node's devices or addresses changed.
    Moved,
}

/// Resolves when the grace period that is passing is over.
async fn grace_over(passing: &mut Option<Passing>) -> std::io::Result<()> {
    match passing {
        Some(passing) => (&mut passing.wait).await.map_err(std::io::Error::other)?,
        None => std::future::pending().await,
    }
}

fn log_conflict(conflict: &Conflict, log_once: &mut LogOnce, now: Duration) {
    let Conflict {
        frontend, waiting, ..
    } = conflict;
    match &conflict.holder {
        Some(holder) => {
            let line = format!(
                "Service {waiting} waits for {frontend}, which the older Service {holder} has"
            );
            if log_once.first(&line, now) {
                warn!("{line}");
            }
        }
        None => {
            let line = format!("Service {waiting} no longer waits for {frontend}");
            if log_once.first(&line, now) {
                info!("{line}");
            }
        }
    }
}
