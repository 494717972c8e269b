//! The agent's loop.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use svclb_common::ServiceRecord;
use svclb_core::conntrack::Timeouts;
use svclb_core::model::{Event, LocalSource};
use svclb_core::planner::Round;
use svclb_core::serving::ChangedServices;
use svclb_dataplane::{
    Attachment, CarriedOver, Dataplane, Forwarding, Traffic, XdpMode, forwarding_obstacles,
};
use svclb_source::{
    ApiTimeouts, FolderOptions, GuardTimeouts, KubeEvent, KubeOptions, Status, event_recorder,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use super::audit::AuditSchedule;
use super::conntrack::{self, Conntrack};
use super::context::NodeContext;
use super::devices::{self, DeviceChoices, DevicePrograms};
use super::health::{self, CheckPorts, Health};
use super::http::{self, server::Limits};
use super::kernel_flows::KernelFlows;
use super::metrics::Metrics;
use super::node_ports::NodePortAddresses;
use super::obstacles;
use super::reconcile::{Committed, Reconciler};
use super::udp_socket_reaper::{self, UdpSocketReaper};

/// How many batches of events a source may be ahead of the planner.
const AHEAD: usize = 16;

/// Where Services come from.
pub(crate) enum Source {
    /// A folder of manifests.
    Manifests(PathBuf),
    /// A cluster's API server.
    Kubernetes {
        kubeconfig: Option<PathBuf>,
        apiserver: Option<String>,
    },
}

/// What the agent is started with.
pub(crate) struct Config {
    pub(crate) node_name: Arc<str>,
    pub(crate) source: Source,
    pub(crate) dataplane: Dataplane,
    pub(crate) udp_socket_reaper: UdpSocketReaper,
    pub(crate) pin_dir: PathBuf,
    pub(crate) listen: Listen,
    pub(crate) times: Times,
    pub(crate) node_port_addresses: NodePortAddresses,
    pub(crate) external_ips: bool,
    pub(crate) device_choices: DeviceChoices,
    pub(crate) local_source: LocalSource,
    pub(crate) forwarding: Forwarding,
    pub(crate) xdp: XdpMode,
    /// The mark of translated packets; `None` if no packet is translated.
    pub(crate) mark: Option<u32>,
}

/// The addresses of the agent's HTTP listeners.
pub(crate) struct Listen {
    pub(crate) metrics: SocketAddr,
    pub(crate) healthz: SocketAddr,
    /// For the kubelet's probes.
    pub(crate) probes: SocketAddr,
    /// How many connections clients outside the node may have at once, of all listeners that
    /// they reach.
    pub(crate) connections: usize,
}

/// The start of the process, intervals and timeouts.
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
    // A folder need not have a Node object; a cluster has one for each of its nodes.
    let needs_node = matches!(config.source, Source::Kubernetes { .. });
    let health = Health::new(status.clone(), needs_node);
    let metrics = Arc::new(Metrics::new(&config.pin_dir));
    let public = Limits {
        shared: Some(Arc::new(Semaphore::new(config.listen.connections))),
        ..Limits::default()
    };
    http::serve(
        config.listen.healthz,
        http::health_routes(health.clone()),
        public.clone(),
        "--healthz-addr",
    );
    // A listener of its own: clients outside can occupy that of /healthz.
    http::serve(
        config.listen.probes,
        http::probe_routes(health.clone()),
        Limits::default(),
        "--probe-addr",
    );
    http::serve(
        config.listen.metrics,
        http::metrics_routes(Arc::clone(&metrics)),
        Limits::default(),
        "--metrics-addr",
    );

    let (event_recorder, kube_events) = event_recorder();
    let devices = devices::watch().await?;
    let lacks_pod_devices =
        config.device_choices.has_devices() && !config.device_choices.has_pod_devices();
    if lacks_pod_devices && config.local_source == LocalSource::Masquerade {
        warn!(
            "--local-source masquerade has no effect with --pod-devices off, since packets are given the \
             node's address as they leave by a pod's device; give --pod-devices auto"
        );
    }
    let forwarding = forwarding(config.device_choices.has_devices(), config.forwarding);
    let device_programs = DevicePrograms::new(
        config.device_choices,
        config.forwarding,
        config.xdp,
        config.dataplane.devices()?,
    );
    let checked = device_programs.check(&devices.borrow());
    checked.map_err(anyhow::Error::msg)?;
    let Times {
        started,
        audit_interval,
        conntrack,
    } = config.times;
    let mut agent = Agent {
        reconciler: Reconciler::new(
            &config.dataplane,
            &config.node_name,
            event_recorder.clone(),
            started,
        )?,
        conntrack: Conntrack::new(
            config.dataplane.flows()?,
            conntrack,
            config.dataplane.source_ports().count(),
        ),
        kernel_flows: KernelFlows::default(),
        udp_socket_reaper: config.udp_socket_reaper,
        node_context: NodeContext::new(
            devices,
            device_programs,
            config.node_port_addresses,
            config.external_ips,
            config.local_source,
        ),
        audit_schedule: AuditSchedule::new(audit_interval),
        dataplane: config.dataplane,
        check_ports: CheckPorts::new(
            health::all_addresses(),
            health.clone(),
            event_recorder,
            public,
        ),
        health,
        metrics,
        started,
        forwarding,
        lacks_pod_devices,
        mark: config.mark,
        ready: false,
    };
    let (sender, mut events) = mpsc::channel(AHEAD);
    let mut source = tokio::spawn(watch_source(
        config.source,
        config.node_name,
        agent.reconciler.fill().frontends > 0,
        sender,
        status.clone(),
        kube_events,
    ));
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut has_more = false;
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => agent.audit_schedule.request(),
            // Before the events: there may be events at every turn.
            _ = tick.tick() => agent.tick(&status),
            completion = agent.next_completion() => agent.handle(completion),
            Some(batch) = events.recv() => agent.reconciler.observe(batch),
            ended = &mut source => {
                return ended.context("the source stopped by a defect of its own")?;
            }
            // Not a ready future: without a pause tokio reports nothing more as ready after a
            // while (its cooperative budget).
            () = tokio::task::yield_now(), if has_more => {}
        }
        // Whatever it was that woke the loop, so that nothing can keep events waiting.
        for _ in 0..AHEAD {
            let Ok(batch) = events.try_recv() else { break };
            agent.reconciler.observe(batch);
        }
        agent.audit_if_due()?;
        has_more = agent.catch_up()?;
    }
    info!("stopping: the data path goes on; `svclb cleanup` removes it");
    Ok(())
}

/// Who sends on what the packet programs translated, and past what.
const fn forwarding(has_devices: bool, forwarding: Forwarding) -> &'static str {
    match forwarding {
        _ if !has_devices => "none: packets are not translated",
        Forwarding::Kernel => "kernel",
        Forwarding::Direct => {
            "direct: translated packets pass by the node's firewall, policy routing and IPsec"
        }
    }
}

async fn watch_source(
    source: Source,
    node_name: Arc<str>,
    serves: bool,
    sender: mpsc::Sender<Vec<Event>>,
    status: Status,
    kube_events: mpsc::Receiver<KubeEvent>,
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
                api_timeouts: ApiTimeouts::default(),
            };
            svclb_source::kubernetes(options, sender, status, kube_events).await?;
        }
    }
    Ok(())
}

/// What the loop works on.
pub(super) struct Agent {
    pub(super) reconciler: Reconciler,
    pub(super) dataplane: Dataplane,
    pub(super) node_context: NodeContext,
    pub(super) audit_schedule: AuditSchedule,
    udp_socket_reaper: UdpSocketReaper,
    pub(super) conntrack: Conntrack,
    kernel_flows: KernelFlows,
    health: Health,
    check_ports: CheckPorts,
    pub(super) metrics: Arc<Metrics>,
    started: Instant,
    /// Who sends on what the packet programs translated, for the operator.
    forwarding: &'static str,
    /// Whether an operator is to be told that a Service needs pods' devices.
    lacks_pod_devices: bool,
    mark: Option<u32>,
    /// Whether the first full sync is in the maps.
    pub(super) ready: bool,
}

/// Work on another thread or task that is done.
enum Completion {
    GracePeriod(std::io::Result<()>),
    UdpSockets(udp_socket_reaper::Done),
    Conntrack(conntrack::Done),
    /// The node's devices or their addresses changed.
    Devices,
}

impl Agent {
    /// Waits for the next [`Completion`].
    async fn next_completion(&mut self) -> Completion {
        tokio::select! {
            ended = self.reconciler.grace_period_end() => Completion::GracePeriod(ended),
            done = self.udp_socket_reaper.next_completion() => Completion::UdpSockets(done),
            done = self.conntrack.next_completion() => Completion::Conntrack(done),
            () = self.node_context.devices_changed() => Completion::Devices,
        }
    }

    fn handle(&mut self, completion: Completion) {
        match completion {
            Completion::GracePeriod(ended) => {
                self.reconciler.collect(ended);
                self.udp_socket_reaper.changes.grace_period_ended();
                self.conntrack.schedule.changes.grace_period_ended();
            }
            Completion::Conntrack(done) => {
                let planner = &self.reconciler.planner;
                if let Some(entries) = self.conntrack.handle(done, planner, Instant::now()) {
                    self.metrics.flows(entries);
                }
            }
            // `catch_up` takes the change in.
            Completion::Devices => {}
            Completion::UdpSockets(done) => {
                let planner = &self.reconciler.planner;
                let destroyed = self.udp_socket_reaper.handle(done, planner);
                self.metrics.destroyed(destroyed);
            }
        }
    }

    /// Writes the next round of what changed. Returns whether there may be more, which the caller
    /// has to write without waiting for anything else. The first time that the source is synced,
    /// this writes everything and completes the first full sync.
    fn catch_up(&mut self) -> anyhow::Result<bool> {
        if self.node_context.update(&mut self.reconciler.planner) && self.ready {
            self.node_context.sync_devices(&mut self.dataplane, false);
        }
        let mut wanted = BTreeSet::new();
        let mut traffic = Traffic::default();
        let mut has_more = false;
        while let Some(round) = self.reconciler.next_round() {
            let committed = self.write(round);
            if self.ready {
                Reconciler::log(&committed);
                // One at each turn of the loop: signals and the end of a grace period do not wait
                // for all of them.
                has_more = true;
                break;
            }
            wanted.extend(committed.round.plans.iter().map(|plan| plan.record));
            for plan in &committed.round.plans {
                obstacles::add(&mut traffic, plan);
            }
        }
        let is_first_sync = !self.ready && self.reconciler.planner.cluster().is_synced();
        let attached = if is_first_sync {
            Some(self.become_ready(&wanted)?)
        } else {
            None
        };
        if let Some(failures) = self.reconciler.failed_writes.changed() {
            self.metrics.failing(&failures);
            self.health.set_failures(failures);
        }
        let node = self.reconciler.planner.cluster().known_node();
        self.health.update(self.ready, node);
        self.health.step(Instant::now());
        if !has_more {
            self.health.up_to_date();
        }
        // Only now: a reader of the line `ready` may ask for the health at once.
        if let Some(attached) = attached {
            self.log_ready(&attached);
            self.look_for_obstacles(traffic);
        }
        // An audit that is due runs when the one that is under way has ended.
        if !self.is_audit_due()
            && let Some(begins) = self.reconciler.begin_grace_period()
        {
            self.udp_socket_reaper.changes.grace_period(begins);
            self.conntrack.schedule.changes.grace_period(begins);
        }
        let now = Instant::now();
        self.udp_socket_reaper.start(now);
        self.conntrack.start(self.ready, now);
        Ok(has_more)
    }

    /// Writes a round, and passes on what changed with it.
    fn write(&mut self, round: Round) -> Committed {
        // The address of a pod's socket is unknown before there is a packet: the socket programs leave
        // such connections to the packet programs.
        if self.lacks_pod_devices && round.plans.iter().any(|plan| !plan.sources.is_empty()) {
            self.lacks_pod_devices = false;
            warn!(
                "a Service has source ranges, and pods do not reach its load balancer addresses with \
                 --pod-devices off; give --pod-devices auto"
            );
        }
        // Before the first full sync no packet is translated: flows are looked for at its end.
        let new = if self.ready {
            self.reconciler.new_frontends(&round)
        } else {
            BTreeSet::new()
        };
        let (reconciler, dataplane) = (&mut self.reconciler, &self.dataplane);
        let commit = || reconciler.commit(round);
        let mut committed = self.kernel_flows.look_around(dataplane, &new, commit);
        self.metrics.round(committed.took, committed.writes);
        self.health.step(Instant::now());
        self.check_ports.update(
            std::mem::take(&mut committed.round.health_checks),
            &mut self.reconciler.log_once,
            self.started.elapsed(),
        );
        self.udp_socket_reaper.changes.written(&committed.round);
        self.conntrack.schedule.changes.written(&committed.round);
        committed
    }

    /// Completes the first full sync, once everything that exists is in the maps: removes what is
    /// not wanted, and attaches the programs.
    fn become_ready(
        &mut self,
        wanted: &BTreeSet<ServiceRecord>,
    ) -> anyhow::Result<Vec<Attachment>> {
        self.reconciler.remove_others(wanted);
        self.carry_flows_over();
        self.kernel_flows.look_at_all(&self.dataplane);
        let attached = self.dataplane.attach()?;
        // Those that were opened while the kernel's were read, which takes a second where it has many.
        self.carry_flows_over();
        self.node_context.sync_devices(&mut self.dataplane, true);
        // Those that were opened meanwhile.
        let CarriedOver {
            without_room,
            taken,
            ..
        } = self.carry_flows_over();
        if without_room > 0 {
            warn!(
                "{without_room} flows of the programs before are cut, since the map FLOWS has no room for \
                 them; give a larger --max-flows"
            );
        }
        if taken > 0 {
            info!(
                flows = taken,
                "flows of the programs before are cut: their ports are others' by now"
            );
        }
        self.kernel_flows.look_at_all(&self.dataplane);
        self.kernel_flows.log();
        self.reconciler.programs_replaced();
        self.dataplane.migrate()?;
        if let Err(error) = self.dataplane.give_back_source_ports() {
            warn!("source ports of an earlier range cannot be given back: {error}");
        }
        self.ready = true;
        self.metrics.ready(self.started.elapsed());
        self.udp_socket_reaper.ready();
        self.conntrack
            .schedule
            .changes
            .request(ChangedServices::all());
        Ok(attached)
    }

    /// Has the flows of an earlier agent's programs go on with these.
    fn carry_flows_over(&self) -> CarriedOver {
        match self.dataplane.carry_flows_over() {
            Ok(done) => {
                if done.entered > 0 {
                    info!(flows = done.entered, "flows of the programs before go on");
                }
                done
            }
            Err(error) => {
                warn!("flows of the programs before may be cut: {error}");
                CarriedOver::default()
            }
        }
    }

    /// Says what of the node keeps this traffic from being forwarded. It takes as long as
    /// the firewall has rules, and nothing waits for it.
    fn look_for_obstacles(&self, mut traffic: Traffic) {
        let Some(mark) = self.mark else {
            return;
        };
        traffic.bridges = self.node_context.bridges();
        traffic.uplinks = self.node_context.uplinks();
        obstacles::leave_out_own(&mut traffic);
        let _running = tokio::task::spawn_blocking(move || {
            for obstacle in forwarding_obstacles(mark, &traffic) {
                warn!("{obstacle}");
            }
        });
    }

    fn log_ready(&self, attached: &[Attachment]) {
        let replaced = attached
            .iter()
            .filter(|how| matches!(how, Attachment::Replaced(_)))
            .count();
        let cluster = self.reconciler.planner.cluster();
        let (devices, pod_devices) = self.node_context.count_devices();
        info!(
            services = cluster.service_count(),
            endpoints = cluster.endpoint_count(),
            frontends = self.reconciler.fill().frontends,
            programs = attached.len(),
            replaced,
            devices,
            pod_devices,
            forwarding = self.forwarding,
            refusal = if self.dataplane.features().set_retval {
                "errno"
            } else {
                "loopback"
            },
            milliseconds = self.started.elapsed().as_millis(),
            "ready"
        );
    }

    /// What is due every second.
    fn tick(&mut self, status: &Status) {
        if self.ready {
            self.reconciler.tick();
        }
        let planner = &self.reconciler.planner;
        self.metrics.state(
            planner.cluster().service_count(),
            self.reconciler.fill(),
            planner.waiting().count(),
            status,
        );
    }
}
