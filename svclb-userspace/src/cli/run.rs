//! `svclb run`

use std::fs;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use svclb_common::maps::Sizes;
use svclb_core::conntrack::Timeouts;
use svclb_dataplane::{
    Dataplane, Forwarding, KUBE_PROXY_MARK, Options, PortRange, XdpMode, choose_mark,
    choose_source_ports, ephemeral_ports, root_cgroup,
};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use super::args::{LogFormat, Run, Switch};
use super::{descriptors, pin_dir};
use crate::agent::{self, DeviceChoices, PodDevices, Source, UdpSocketReaper};
use crate::capabilities;

/// The source ports, by what was given and what the kernel gives sockets.
fn source_ports(given: Option<PortRange>) -> anyhow::Result<PortRange> {
    let ephemeral =
        ephemeral_ports().context("the ports that the kernel gives sockets are unknown")?;
    let chosen = choose_source_ports(given, ephemeral).map_err(anyhow::Error::msg)?;
    if given.is_none() && chosen != PortRange::default() {
        info!(
            "the source ports of traffic to other nodes are {chosen}: the usual ones are more than half of \
             those that the kernel gives sockets ({ephemeral})"
        );
    }
    Ok(chosen)
}

/// The mark of translated packets, by what was given and what the firewall does to them.
fn mark(given: Option<u32>, device_choices: &DeviceChoices) -> u32 {
    if let Some(given) = given {
        return given;
    }
    if !device_choices.has_devices() {
        return KUBE_PROXY_MARK;
    }
    let (chosen, masquerading) = choose_mark();
    if !masquerading.is_empty() {
        info!(
            "translated packets carry the mark {chosen:#x}: by the usual one, {KUBE_PROXY_MARK:#x}, {} gives \
             them the node's address, as left-over rules of kube-proxy do; they can be cleaned up with \
             `kube-proxy --cleanup`",
            masquerading.join(", and so ")
        );
    }
    chosen
}

pub(crate) fn run(args: Run) -> anyhow::Result<()> {
    let started = Instant::now();
    init_log(&args)?;
    let descriptors = descriptors::raise_limit().unwrap_or_else(|error| {
        warn!("the limit of file descriptors cannot be raised: {error}");
        descriptors::USUAL
    });
    let node_name: Arc<str> = match args.node_name {
        Some(name) => name.into(),
        None => hostname()
            .context("no hostname was found; give --node-name")?
            .into(),
    };
    let is_direct = args.forwarding == Forwarding::Direct;
    if !is_direct && matches!(args.xdp, XdpMode::Native | XdpMode::Generic) {
        bail!(
            "--xdp belongs to --forwarding direct, since XDP sends packets on past the kernel; give both, \
             or neither"
        );
    }
    let device_choices = DeviceChoices {
        devices: args.devices,
        pods: args.pod_devices,
    };
    if !device_choices.has_devices() && matches!(device_choices.pods, PodDevices::Named(_)) {
        bail!(
            "--pod-devices names devices, and --devices none translates no packets; give one of them"
        );
    }
    let options = Options {
        pin_dir: pin_dir(args.pins.pin_dir)?,
        cgroup: match args.cgroup {
            Some(cgroup) => cgroup,
            None => root_cgroup()?,
        },
        sizes: Sizes::from(&args.sizes),
        source_ports: source_ports(args.source_ports)?,
        external_cluster_ips: args.external_cluster_ips == Switch::On,
        pod_devices: device_choices.has_pod_devices(),
        mark: mark(args.mark, &device_choices),
        conntrack: Timeouts::from(&args.timeouts),
        packets: device_choices.has_devices(),
        forwarding: args.forwarding,
    };
    let source = match args.manifests {
        Some(dir) => Source::Manifests(dir),
        None => Source::Kubernetes {
            kubeconfig: args.kubeconfig,
            apiserver: args.apiserver,
        },
    };
    info!(
        version = env!("CARGO_PKG_VERSION"),
        node = %node_name,
        cgroup = %options.cgroup.display(),
        pin_dir = %options.pin_dir.display(),
        "starting"
    );
    let dataplane = Dataplane::open(&options)?;
    for warning in dataplane.warnings() {
        warn!("{warning}");
    }
    if let Err(error) = dataplane.reserve_source_ports() {
        let [first, last] = options.source_ports.ends();
        warn!(
            "the source ports of traffic to other nodes cannot be kept from sockets: {error}; add \
             {first}-{last} to net.ipv4.ip_local_reserved_ports"
        );
    }
    let udp_socket_reaper = UdpSocketReaper::new(&dataplane)?;
    // All programs are loaded, and no thread is started yet.
    if let Err(error) = capabilities::give_up() {
        warn!("capabilities that are not needed any more cannot be given up: {error}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(8)
        .enable_all()
        .build()
        .context("the runtime cannot start")?;
    let result = runtime.block_on(agent::run(agent::Config {
        node_name,
        source,
        dataplane,
        udp_socket_reaper,
        pin_dir: options.pin_dir,
        listen: agent::Listen {
            metrics: args.metrics_addr,
            healthz: args.healthz_addr,
            probes: args.probe_addr,
            connections: descriptors::for_clients(descriptors),
        },
        times: agent::Times {
            started,
            audit_interval: Duration::from_secs(args.audit_interval.max(1)),
            conntrack: Timeouts::from(&args.timeouts),
        },
        node_port_addresses: args.nodeport_addresses,
        external_ips: args.external_ips == Switch::On,
        device_choices,
        local_source: args.local_source,
        forwarding: args.forwarding,
        xdp: args.xdp,
        mark: options.packets.then_some(options.mark),
    }));
    // A reader thread may be waiting for a file to change: nothing waits for it.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

fn init_log(args: &Run) -> anyhow::Result<()> {
    // The libraries' own lines at `debug` are for their developers, and the source logs a lost
    // connection itself, so kube's line is left out; `--log` can name either.
    let directives = format!(
        "aya=info,aya_obj=info,hyper_util=info,kube_client=off,{}",
        args.log
    );
    let filter = EnvFilter::try_new(directives).with_context(|| {
        format!(
            "--log {} is no log level; give error, warn, info or debug",
            args.log
        )
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    match args.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

fn hostname() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    node_name(&name)
}

/// The name that a kubelet gives the Node of a machine: its hostname, in lower case.
fn node_name(hostname: &str) -> Option<String> {
    let name = hostname.trim().to_lowercase();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_its_hostname_in_lower_case() {
        let name = node_name("Worker-1.Example\n");
        assert_eq!(name.as_deref(), Some("worker-1.example"));
        assert_eq!(node_name(" \n"), None);
    }
}
