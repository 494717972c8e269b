//! What lies outside of the cluster: a router, the uplinks of nodes to it, and clients
//! behind it.
//!
//! ```text
//!   node1 eth0 ──┐                     ┌── eth0 client
//!   node2 eth0 ──┴ nodes ─ router ─ clients
//!    192.0.2.N/24   .254     .254     198.51.100.N/24
//!    fd00:192:0:2::N/64               fd00:198:51:100::N/64
//! ```
//!
//! The router is where it ends: everything else is unreachable for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context as _, Result};

use crate::lab::{Node, Pod};
use crate::masquerade::masquerade;
use crate::netns::Netns;
use crate::network::PodNetwork;
use crate::peer::Peer;
use crate::segment::Segment;
use crate::wire::{End, decimal};
use crate::{cgroup, ip, tool};

/// The range of load balancers' addresses, IPv4. No interface has one: an address of it
/// arrives at the node to which [`Outside::route`] points it.
pub const BALANCER_V4: &str = "203.0.113.0/24";
/// The range of load balancers' addresses, IPv6.
pub const BALANCER_V6: &str = "fd00:203:0:113::/64";

/// The segment of the nodes' uplinks.
const NODES: Segment = Segment {
    bridge: "nodes",
    v4: Ipv4Addr::new(192, 0, 2, 254),
    v6: Ipv6Addr::new(0xfd00, 0x192, 0, 2, 0, 0, 0, 0x254),
    mtu: 1500,
};

/// The segment of the clients.
const CLIENTS: Segment = Segment {
    bridge: "clients",
    v4: Ipv4Addr::new(198, 51, 100, 254),
    v6: Ipv6Addr::new(0xfd00, 0x198, 0x51, 0x100, 0, 0, 0, 0x254),
    mtu: 1500,
};

/// How a node is connected to the outside.
#[derive(Clone, Copy, Debug)]
pub struct UplinkOptions {
    /// `rp_filter` of the node's devices: 0 takes any source address, 1 (strict, as
    /// distributions have it) only one whose answer would leave by the same device, 2
    /// (loose) one that is reachable at all.
    pub rp_filter: u8,
    /// Whether the node puts its own address in the place of its pods' for all but other
    /// pods, as most clusters do. Then the router knows no way to its pods.
    pub masquerade: bool,
}

impl Default for UplinkOptions {
    fn default() -> Self {
        Self {
            rp_filter: 1,
            masquerade: false,
        }
    }
}

/// The outside of a lab's nodes. Cheap to clone; it goes with its lab.
#[derive(Clone, Debug)]
pub struct Outside {
    inner: Arc<OutsideInner>,
}

#[derive(Debug)]
struct OutsideInner {
    prefix: String,
    cgroup: PathBuf,
    network: PodNetwork,
    router: Netns,
    next_client: AtomicU8,
}

impl Outside {
    /// The router and its two segments.
    pub(crate) fn new(prefix: &str, cgroup: PathBuf, network: PodNetwork) -> Result<Self> {
        let router = Netns::create(&format!("{prefix}-router"))?;
        router.start()?;
        router.run(|| {
            for (name, value) in [
                ("net/ipv4/ip_forward", "1"),
                ("net/ipv6/conf/all/forwarding", "1"),
                // Every refusal is to be heard, not one a second.
                ("net/ipv4/icmp_ratelimit", "0"),
                ("net/ipv6/icmp/ratelimit", "0"),
                // Like a router of a provider, it neither judges sources nor teaches
                // its neighbours routes.
                ("net/ipv4/conf/all/rp_filter", "0"),
                ("net/ipv4/conf/default/rp_filter", "0"),
                ("net/ipv4/conf/all/send_redirects", "0"),
                ("net/ipv4/conf/default/send_redirects", "0"),
            ] {
                ip::sysctl(name, value)?;
            }
            let mut lines = NODES.make();
            lines.extend(CLIENTS.make());
            lines.push("route add unreachable default".to_owned());
            lines.push("route add unreachable ::/0".to_owned());
            ip::batch(&lines)
        })?;
        Ok(Self {
            inner: Arc::new(OutsideInner {
                prefix: prefix.to_owned(),
                cgroup,
                network,
                router,
                next_client: AtomicU8::new(10),
            }),
        })
    }

    /// How the pods of its nodes are connected.
    pub fn network(&self) -> PodNetwork {
        self.inner.network
    }

    /// Adds a client behind the router, with the next free addresses: .10, .11 and so on.
    /// It is no pod, but it is used like one.
    ///
    /// # Errors
    /// If the kernel or `ip` refuse; what was made so far goes with the lab.
    pub fn client(&self, name: &str) -> Result<Pod> {
        let host = self.inner.next_client.fetch_add(1, Ordering::Relaxed);
        let v4 = Ipv4Addr::new(198, 51, 100, host);
        let v6 = Ipv6Addr::new(0xfd00, 0x198, 0x51, 0x100, 0, 0, 0, decimal(host));
        let netns = Netns::create(&format!("{}-outside-{name}", self.inner.prefix))?;
        netns.start()?;
        let port = format!("c{host}");
        CLIENTS.attach(&self.inner.router, &port, &netns)?;
        self.inner.router.run(|| like_a_wire(&port))?;
        netns.run(|| {
            like_a_wire("eth0")?;
            ip::batch(&CLIENTS.join(v4, v6))
        })?;
        let cgroup = self.inner.cgroup.join(name);
        cgroup::create(&cgroup)?;
        let peer = Peer::spawn(name, netns.path(), &cgroup)?;
        Ok(Pod::new(name, v4, v6, cgroup, netns, peer))
    }

    /// Makes the router send what is for an address to a node, whether or not any of the
    /// node's interfaces has it: so do load balancers that announce it by BGP. The last
    /// call for an address counts.
    ///
    /// # Errors
    /// If the node has no uplink, or `ip` refuses.
    pub fn route(&self, to: IpAddr, node: &Node) -> Result<()> {
        let index = node
            .uplink()
            .with_context(|| format!("{} has no uplink", node.name()))?;
        let via: IpAddr = match to {
            IpAddr::V4(_) => uplink_v4(index).into(),
            IpAddr::V6(_) => uplink_v6(index).into(),
        };
        self.run(|| ip::batch(&[format!("route replace {to} via {via}")]))
    }

    /// Runs something on a thread in the router's network namespace.
    ///
    /// # Errors
    /// If the namespace cannot be entered, and what `work` returns.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.inner.router.run(work)
    }

    /// Gives a node its uplink `eth0`, and the default route by it.
    pub(crate) fn connect(&self, node: End<'_>, options: UplinkOptions) -> Result<()> {
        let index = node.index;
        let port = format!("u{index}");
        node.netns.run(|| {
            // The stricter one of a device's and of `all` counts; a device takes what
            // is `default` when it is made.
            ip::sysctl("net/ipv4/conf/all/rp_filter", "0")?;
            let wanted = options.rp_filter.to_string();
            ip::sysctl("net/ipv4/conf/default/rp_filter", &wanted)
        })?;
        NODES.attach(&self.inner.router, &port, node.netns)?;
        node.netns.run(|| {
            like_a_wire("eth0")?;
            ip::batch(&NODES.join(uplink_v4(index), uplink_v6(index)))
        })?;
        let (v4, v6) = (uplink_v4(index), uplink_v6(index));
        self.run(|| {
            like_a_wire(&port)?;
            // What a node's programs send back out of the device that it came in by
            // (XDP_TX), or redirect into it, is dropped unless the other end polls.
            set_feature(&port, "gro", "on")
        })?;
        if options.masquerade {
            return node.netns.run(|| masquerade(index));
        }
        self.run(|| {
            ip::batch(&[
                format!("route add 10.244.{index}.0/24 via {v4}"),
                format!("route add fd00:10:244:{index}::/64 via {v6}"),
            ])
        })
    }
}

/// Makes an end of a veth pair send whole checksums and no segment longer than a packet,
/// as a wire delivers them. By itself it leaves both to a device that is never reached.
fn like_a_wire(device: &str) -> Result<()> {
    set_feature(device, "tx", "off")
}

fn set_feature(device: &str, feature: &str, state: &str) -> Result<()> {
    tool::run(
        Command::new("ethtool").args(["-K", device, feature, state]),
        "ethtool",
    )
}

/// The address of a node's uplink.
pub(crate) fn uplink_v4(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, node)
}

/// The same in IPv6, its last number readable as a decimal one.
pub(crate) fn uplink_v6(node: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x192, 0, 2, 0, 0, 0, decimal(node))
}
