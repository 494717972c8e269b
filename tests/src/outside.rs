//! What lies outside of the cluster: a router with two segments, one of the nodes' uplinks
//! and one of clients.
//!
//! ```text
//!   node1 eth0 ──┐                          ┌── eth0 client
//!   node2 eth0 ──┴─ nodes  router  clients ─┴── eth0 other
//!   192.0.2.n/24     .254            .254       198.51.100.n/24
//!   fd00:192:0:2::n/64                          fd00:198:51:100::n/64
//! ```
//!
//! The router is where it ends: everything else is unreachable for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context as _, Result};

use crate::lab::{Node, Pod};
use crate::netns::Netns;
use crate::network::{PodNetwork, switch};
use crate::peer::Peer;
use crate::second::{self, second_v4, second_v6};
use crate::segment::Segment;
use crate::uplink::{self, UplinkDevice, like_a_wire, uplink_v4, uplink_v6};
use crate::wire::decimal;
use crate::{cgroup, ip, tool};

/// The range of load balancers' addresses, IPv4. By itself no device has one: it arrives at
/// the node to which [`Outside::route`] points it.
pub const BALANCER_V4: &str = "203.0.113.0/24";
/// The range of load balancers' addresses, IPv6.
pub const BALANCER_V6: &str = "fd00:203:0:113::/64";

/// The segment of the clients.
const CLIENTS: Segment = Segment {
    bridge: "clients",
    v4: Ipv4Addr::new(198, 51, 100, 254),
    v6: Ipv6Addr::new(0xfd00, 0x198, 0x51, 0x100, 0, 0, 0, 0x254),
    prefixes: [24, 64],
    mtu: 1500,
};

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
                // Every refusal is sent, not one a second.
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
            let mut lines = uplink::SEGMENT.make();
            lines.extend(CLIENTS.make());
            if network == PodNetwork::Lan {
                lines.extend(switch());
            }
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
        let via = match to {
            _ if node.uplink_device() == Some(UplinkDevice::Unnumbered) => {
                format!("inet6 fe80::{index} dev nodes")
            }
            IpAddr::V4(_) => uplink_v4(index).to_string(),
            IpAddr::V6(_) => uplink_v6(index).to_string(),
        };
        self.run(|| ip::batch(&[format!("route replace {to} via {via}")]))
    }

    /// Gives a node a second uplink, `eth1`, on a segment of its own to the same router:
    /// 100.64.2.n and fd00:100:64:2::n, which are returned. The default route stays with
    /// the first; what the node sends from the second one's addresses leaves by the second,
    /// by rules of the node (ip-rule(8)).
    ///
    /// # Errors
    /// If the node has no uplink, or a program refuses.
    pub fn second_uplink(&self, node: &Node) -> Result<[IpAddr; 2]> {
        let index = node
            .uplink()
            .with_context(|| format!("{} has no uplink", node.name()))?;
        second::connect(self.router(), node.end())?;
        Ok([second_v4(index).into(), second_v6(index).into()])
    }

    /// Loads a rule set (nft(8)) at the router.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.run(|| tool::nft(rules))
    }

    /// Runs a command of ip(8) at the router.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn ip(&self, command: &str) -> Result<()> {
        self.run(|| ip::batch(&[command.to_owned()]))
    }

    /// Runs something on a thread in the router's network namespace.
    ///
    /// # Errors
    /// If the namespace cannot be entered, and what `work` returns.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.inner.router.run(work)
    }

    /// The namespace of the router.
    pub(crate) fn router(&self) -> &Netns {
        &self.inner.router
    }
}
