//! The command line. Every flag has an environment variable.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as Group, Parser, Subcommand, ValueEnum};
use svclb_common::maps::Sizes;
use svclb_core::conntrack::Timeouts;
use svclb_core::model::LocalSource;
use svclb_dataplane::{Forwarding, PortRange, XdpMode};

use crate::agent::{DeviceChoice, NodePortAddresses, PodDevices};

/// A Kubernetes service proxy that replaces kube-proxy with eBPF.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Translate connections to Services, until a signal ends it (the data path goes on).
    Run(Box<Run>),
    /// Show what is in the kernel, whether or not an agent runs.
    ///
    /// In the table of Services, (inside) and (outside) mark a backend that the frontend gives
    /// only to clients inside the cluster, or only to those outside.
    Dump(Dump),
    /// Detach and unpin everything of svclb, and nothing else.
    Cleanup(Pins),
}

#[derive(Debug, Group)]
pub(crate) struct Pins {
    /// The directory of the pinned maps and links [default: svclb in the bpffs]
    #[arg(long, env = "SVCLB_PIN_DIR", value_name = "DIR")]
    pub(crate) pin_dir: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub(crate) struct Run {
    /// Read Services from the manifests in a folder instead of a cluster
    #[arg(long, env = "SVCLB_MANIFESTS", value_name = "DIR", conflicts_with_all = ["kubeconfig", "apiserver"])]
    pub(crate) manifests: Option<PathBuf>,
    /// Reach the cluster with this kubeconfig [default: as a pod in the cluster]; its files are read
    /// again when they change, and HTTPS_PROXY and NO_PROXY count as for kubectl
    #[arg(long, env = "SVCLB_KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The API server's real address: its ClusterIP is one of those that svclb provides
    #[arg(long, env = "SVCLB_APISERVER", value_name = "URL")]
    pub(crate) apiserver: Option<String>,
    /// The name of this node's Node object [default: the hostname in lower case]
    #[arg(long, env = "SVCLB_NODE_NAME", value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// The cgroup (v2) whose sockets are translated [default: the root, so all of them]
    #[arg(long, env = "SVCLB_CGROUP", value_name = "PATH")]
    pub(crate) cgroup: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) pins: Pins,
    /// Where /metrics and /proxyMode are served
    #[arg(
        long,
        env = "SVCLB_METRICS_ADDR",
        value_name = "ADDR",
        default_value = "127.0.0.1:10249"
    )]
    pub(crate) metrics_addr: SocketAddr,
    /// Where /healthz and /livez are served, for load balancers; 0.0.0.0 is all addresses, those of
    /// IPv6 included
    #[arg(
        long,
        env = "SVCLB_HEALTHZ_ADDR",
        value_name = "ADDR",
        default_value = "0.0.0.0:10256"
    )]
    pub(crate) healthz_addr: SocketAddr,
    /// Where /livez and /readyz are served, for the kubelet's probes; clients outside the node
    /// should not reach it
    #[arg(
        long,
        env = "SVCLB_PROBE_ADDR",
        value_name = "ADDR",
        default_value = "127.0.0.1:10247"
    )]
    pub(crate) probe_addr: SocketAddr,
    /// The devices by which traffic of other machines comes in; auto takes those with an address, or
    /// over which a route leads: cards, bonds, VLANs, bridges of nodes, tunnels; none translates no
    /// packet (nor those of pods' devices), connections of this node and its pods alone
    #[arg(
        long,
        env = "SVCLB_DEVICES",
        value_name = "auto|none|a,b",
        default_value = "auto"
    )]
    pub(crate) devices: DeviceChoice,
    /// The devices that pods of this node are behind, at which packets are translated that no socket
    /// hook sees: of pods with a kernel of their own, of raw sockets, and to Services with source
    /// ranges; auto takes bridges of pods, and the host's ends of veth and netkit pairs
    #[arg(
        long,
        env = "SVCLB_POD_DEVICES",
        value_name = "auto|off|a,b",
        default_value = "auto"
    )]
    pub(crate) pod_devices: PodDevices,
    /// Who sends packets on that were translated: the kernel, with its routing, firewall and tunnels; or
    /// the programs themselves (direct, in XDP and tc), which is faster and passes by the node's
    /// firewall, policy routing and IPsec
    #[arg(
        long,
        env = "SVCLB_FORWARDING",
        value_name = "kernel|direct",
        default_value = "kernel"
    )]
    pub(crate) forwarding: Forwarding,
    /// With --forwarding direct, how XDP is attached to the devices of default routes; auto is native where the driver can
    /// (on a veth only if you say native: its far end has to have GRO on, or an XDP program).
    /// Without XDP tc does the same, slower
    #[arg(
        long,
        env = "SVCLB_XDP",
        value_name = "auto|native|generic|off",
        default_value = "auto"
    )]
    pub(crate) xdp: XdpMode,
    /// The source ports of traffic to backends on other nodes; they are taken out of the ports that
    /// the kernel gives sockets (ip_local_reserved_ports), of which they may be half at most
    /// [default: 50000-60999, or others where these are more than half]
    #[arg(long, env = "SVCLB_SOURCE_PORTS", value_name = "FIRST-LAST")]
    pub(crate) source_ports: Option<PortRange>,
    /// What a backend on this node sees of a client outside, with externalTrafficPolicy Cluster: the
    /// client's address (keep), or the node's, as with kube-proxy (masquerade); the annotation
    /// svclb.io/local-source of a Service comes before this
    #[arg(
        long,
        env = "SVCLB_LOCAL_SOURCE",
        value_name = "keep|masquerade",
        default_value = "keep"
    )]
    pub(crate) local_source: LocalSource,
    /// The bits of the packet mark that translated packets carry through the node's routing and
    /// firewall; 0 for none. By default kube-proxy's, 0x4000, so that rules which accept its packets accept
    /// these, or 0x1000 where rules are found at the start that masquerade packets by 0x4000
    #[arg(long, env = "SVCLB_MARK", value_name = "BITS", value_parser = mark)]
    pub(crate) mark: Option<u32>,
    /// Whether packets from outside may reach cluster IPs, as with kube-proxy
    #[arg(
        long,
        env = "SVCLB_EXTERNAL_CLUSTER_IPS",
        value_name = "on|off",
        default_value = "on"
    )]
    pub(crate) external_cluster_ips: Switch,
    /// Where NodePorts answer: the addresses that the Node object gives (primary), all of the
    /// node's (all), or those within some CIDRs
    #[arg(
        long,
        env = "SVCLB_NODEPORT_ADDRESSES",
        value_name = "primary|all|CIDR,…",
        default_value = "primary"
    )]
    pub(crate) nodeport_addresses: NodePortAddresses,
    /// Whether the externalIPs of Services are served (CVE-2020-8554: a user who may write a Service
    /// may claim any address)
    #[arg(
        long,
        env = "SVCLB_EXTERNAL_IPS",
        value_name = "on|off",
        default_value = "on"
    )]
    pub(crate) external_ips: Switch,
    /// How often the maps and programs are compared with what they should be, and repaired; SIGHUP
    /// asks for it at once
    #[arg(
        long,
        env = "SVCLB_AUDIT_INTERVAL",
        value_name = "SECONDS",
        default_value_t = 300
    )]
    pub(crate) audit_interval: u64,
    /// Which log lines are written: error, warn, info, debug, or by module
    #[arg(long, env = "SVCLB_LOG", value_name = "LEVEL", default_value = "info")]
    pub(crate) log: String,
    /// How log lines are written
    #[arg(
        long,
        env = "SVCLB_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub(crate) log_format: LogFormat,
    #[command(flatten)]
    pub(crate) timeouts: TimeoutArgs,
    #[command(flatten)]
    pub(crate) sizes: SizeArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// After how many seconds without a packet a flow from outside is forgotten; kube-proxy's names,
/// where it has one.
#[derive(Debug, Group)]
#[command(next_help_heading = "Conntrack")]
pub(crate) struct TimeoutArgs {
    /// TCP with replies
    #[arg(
        long,
        env = "SVCLB_CONNTRACK_TCP_TIMEOUT_ESTABLISHED",
        value_name = "SECONDS",
        default_value_t = Timeouts::default().tcp_established.as_secs()
    )]
    pub(crate) conntrack_tcp_timeout_established: u64,
    /// TCP that one side ended
    #[arg(
        long,
        env = "SVCLB_CONNTRACK_TCP_TIMEOUT_CLOSE_WAIT",
        value_name = "SECONDS",
        default_value_t = Timeouts::default().tcp_half_closed.as_secs()
    )]
    pub(crate) conntrack_tcp_timeout_close_wait: u64,
    /// TCP that both sides ended
    #[arg(
        long,
        env = "SVCLB_CONNTRACK_TCP_TIMEOUT_CLOSED",
        value_name = "SECONDS",
        default_value_t = Timeouts::default().tcp_closed.as_secs()
    )]
    pub(crate) conntrack_tcp_timeout_closed: u64,
    /// TCP without a reply
    #[arg(
        long,
        env = "SVCLB_CONNTRACK_TCP_TIMEOUT_OPENING",
        value_name = "SECONDS",
        default_value_t = Timeouts::default().tcp_opening.as_secs()
    )]
    pub(crate) conntrack_tcp_timeout_opening: u64,
    /// UDP without a reply, or with a single request and its reply
    #[arg(
        long,
        env = "SVCLB_CONNTRACK_UDP_TIMEOUT",
        value_name = "SECONDS",
        default_value_t = Timeouts::default().udp.as_secs()
    )]
    pub(crate) conntrack_udp_timeout: u64,
    /// UDP with further packets in both directions
    #[arg(
        long,
        env = "SVCLB_CONNTRACK_UDP_TIMEOUT_STREAM",
        value_name = "SECONDS",
        default_value_t = Timeouts::default().udp_stream.as_secs()
    )]
    pub(crate) conntrack_udp_timeout_stream: u64,
}

/// Bits of a packet mark, as iptables takes them: decimal, or hexadecimal after 0x.
fn mark(text: &str) -> Result<u32, String> {
    let bits = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    bits.map_err(|_syntax| format!("{text:?} is no packet mark such as 0x4000"))
}

impl From<&TimeoutArgs> for Timeouts {
    fn from(args: &TimeoutArgs) -> Self {
        // Zero would forget a flow between two of its packets.
        let seconds = |seconds: u64| Duration::from_secs(seconds.max(1));
        Self {
            tcp_opening: seconds(args.conntrack_tcp_timeout_opening),
            tcp_established: seconds(args.conntrack_tcp_timeout_established),
            tcp_half_closed: seconds(args.conntrack_tcp_timeout_close_wait),
            tcp_closed: seconds(args.conntrack_tcp_timeout_closed),
            udp: seconds(args.conntrack_udp_timeout),
            udp_stream: seconds(args.conntrack_udp_timeout_stream),
            ..Self::default()
        }
    }
}

/// How many entries each map holds; of effect where the maps are made anew.
#[derive(Debug, Group)]
#[command(next_help_heading = "Map sizes")]
pub(crate) struct SizeArgs {
    /// Addresses and ports of Services
    #[arg(long, env = "SVCLB_MAX_FRONTENDS", value_name = "N", default_value_t = Sizes::DEFAULT.frontends)]
    pub(crate) max_frontends: u32,
    /// Endpoints of all Service ports (UDP and affinity count twice), and as many for what changes at once
    #[arg(long, env = "SVCLB_MAX_SLOTS", value_name = "N", default_value_t = Sizes::DEFAULT.slots)]
    pub(crate) max_slots: u32,
    /// Source ranges of all Service ports, and as many for what changes at once
    #[arg(long, env = "SVCLB_MAX_SOURCES", value_name = "N", default_value_t = Sizes::DEFAULT.sources)]
    pub(crate) max_sources: u32,
    /// Distinct endpoint addresses and ports
    #[arg(long, env = "SVCLB_MAX_BACKENDS", value_name = "N", default_value_t = Sizes::DEFAULT.backends)]
    pub(crate) max_backends: u32,
    /// Service ports
    #[arg(long, env = "SVCLB_MAX_SERVICES", value_name = "N", default_value_t = Sizes::DEFAULT.services)]
    pub(crate) max_services: u32,
    /// Clients with session affinity
    #[arg(long, env = "SVCLB_MAX_AFFINITY", value_name = "N", default_value_t = Sizes::DEFAULT.affinity)]
    pub(crate) max_affinity: u32,
    /// Backends that UDP sockets talk to, beyond the first 16 of each
    #[arg(long, env = "SVCLB_MAX_OVERFLOW", value_name = "N", default_value_t = Sizes::DEFAULT.overflow)]
    pub(crate) max_overflow: u32,
    /// Flows from outside, each of which counts twice
    #[arg(long, env = "SVCLB_MAX_FLOWS", value_name = "N", default_value_t = Sizes::DEFAULT.flows)]
    pub(crate) max_flows: u32,
    /// TCP sockets with the cheapest memory of their Service address; a power of two
    #[arg(long, env = "SVCLB_MAX_PEERS", value_name = "N", default_value_t = Sizes::DEFAULT.peers)]
    pub(crate) max_peers: u32,
}

impl From<&SizeArgs> for Sizes {
    fn from(args: &SizeArgs) -> Self {
        Self {
            frontends: args.max_frontends,
            slots: args.max_slots,
            sources: args.max_sources,
            backends: args.max_backends,
            services: args.max_services,
            affinity: args.max_affinity,
            overflow: args.max_overflow,
            flows: args.max_flows,
            peers: args.max_peers,
        }
    }
}

#[derive(Debug, Group)]
pub(crate) struct Dump {
    /// What to show
    #[arg(default_value = "all")]
    pub(crate) what: What,
    /// In which form; JSON is stable: fields are added, not renamed
    #[arg(short, long, default_value = "table")]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) pins: Pins,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum What {
    Services,
    Backends,
    Conntrack,
    Affinity,
    Sockets,
    All,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
    Yaml,
}
