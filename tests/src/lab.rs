//! The topology: a lab, its nodes, their pods.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::{Deref, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, Result, bail};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::carrier::Carrier;
use crate::machine::{Machine, RUN, prepare_machine, require_root};
use crate::memory::MemoryLimit;
use crate::netns::{Netns, in_folder};
use crate::network::{PodNetwork, pod_v4};
use crate::outside::Outside;
use crate::peer::Peer;
use crate::uplink::{self, UplinkDevice, UplinkOptions, uplink_v4, uplink_v6};
use crate::wire::{End, bridge_v4, pod_v6};
use crate::{Transport, cgroup, ip, masquerade, sweep, tool};

/// The Service range of every lab, IPv4. No pod has such an address and no route leads
/// there: what the agent does not rewrite comes back as unreachable, which no test can
/// mistake for a refusal.
pub const SERVICE_V4: &str = "10.96.0.0/16";
/// The Service range of every lab, IPv6.
pub const SERVICE_V6: &str = "fd00:10:96::/112";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A set of nodes of its own, with no way out. Everything in it goes when it is dropped.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    machine: Machine,
    /// Of all nodes so far, the first one's first.
    nodes: Mutex<Vec<Netns>>,
    kept: bool,
}

impl Lab {
    /// An empty lab. Labs of processes that are gone are removed first.
    ///
    /// # Errors
    /// One sentence if this is not root or the machine lacks `ip`, cgroup v2 or bpffs.
    pub fn new(name: &str) -> Result<Self> {
        require_root()?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{}-{}-{number}", sweep::FAMILY, std::process::id());
        let dir = Path::new(RUN).join(&prefix);
        in_folder(Path::new(RUN), || fs::create_dir(&dir))
            .with_context(|| format!("cannot create {}", dir.display()))?;
        let machine = match prepare_machine(&dir) {
            Ok(machine) => machine,
            Err(error) => {
                drop(fs::remove_dir_all(&dir));
                drop(fs::remove_dir(RUN));
                return Err(error);
            }
        };
        let lab = Self {
            prefix,
            machine,
            nodes: Mutex::default(),
            kept: false,
        };
        fs::write(dir.join("name"), name).context("cannot write the lab's name")?;
        sweep::sweep(&lab.machine)?;
        cgroup::create(&lab.machine.cgroup_root.join(&lab.prefix))?;
        Ok(lab)
    }

    /// What the names of everything in this lab begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A folder for files of this lab; removed with it.
    pub fn dir(&self) -> PathBuf {
        Path::new(RUN).join(&self.prefix)
    }

    /// A limit to the memory of a node's agent, which has to be started by its wrapper; none where
    /// the kernel has no memory controller.
    ///
    /// # Errors
    /// If the cgroup cannot be made.
    pub fn memory_limit(&self, node: &Node) -> Result<Option<MemoryLimit>> {
        if let Some(hierarchy) = &self.machine.memory_root {
            let dir = hierarchy.join(&self.prefix).join(node.name());
            return MemoryLimit::v1(dir).map(Some);
        }
        let lab = self.machine.cgroup_root.join(&self.prefix);
        MemoryLimit::v2(&lab, node.agent_cgroup()?)
    }

    /// Adds a node: a network namespace with a bridge for its pods, and a cgroup. The
    /// `n`th node has the pod ranges 10.244.n.0/24 and fd00:10:244:n::/64. Every node has
    /// a link to every other, over which their pods and hosts reach each other.
    ///
    /// # Errors
    /// If the kernel or `ip` refuse; what was made so far goes with the lab.
    pub fn node(&self, name: &str) -> Result<Node> {
        self.add_node(name, PodNetwork::Bridged, None)
    }

    /// Adds the outside of the cluster: a router, to which nodes can have an uplink, and
    /// behind it clients. A lab has one at most.
    ///
    /// # Errors
    /// If the kernel, `ip` or `ethtool` refuse; what was made so far goes with the lab.
    pub fn outside(&self, network: PodNetwork) -> Result<Outside> {
        let cgroup = self.machine.cgroup_root.join(&self.prefix).join("outside");
        Outside::new(&self.prefix, cgroup, network)
    }

    /// Adds a node as [`node`](Self::node) does, with an uplink to the outside: an `eth0`
    /// with the addresses 192.0.2.n and fd00:192:0:2::n, which are the node's own. Its
    /// pods are connected in the way that was chosen for the outside; with another than
    /// [`PodNetwork::Bridged`] all nodes of the lab are to be added by this.
    ///
    /// # Errors
    /// If the kernel or a program refuse; what was made so far goes with the lab.
    pub fn node_at(&self, outside: &Outside, name: &str, options: UplinkOptions) -> Result<Node> {
        self.add_node(name, outside.network(), Some((outside, options)))
    }

    fn add_node(
        &self,
        name: &str,
        network: PodNetwork,
        uplink: Option<(&Outside, UplinkOptions)>,
    ) -> Result<Node> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let index = u8::try_from(nodes.len() + 1).context("too many nodes")?;
        let netns = Netns::create(&format!("{}-{name}", self.prefix))?;
        netns.start()?;
        netns.run(|| {
            for (name, value) in [
                ("net/ipv4/ip_forward", "1"),
                ("net/ipv6/conf/all/forwarding", "1"),
                // Every refusal is sent, not one a second.
                ("net/ipv4/icmp_ratelimit", "0"),
                ("net/ipv6/icmp/ratelimit", "0"),
            ] {
                ip::sysctl(name, value)?;
            }
            Ok(())
        })?;
        let own = End {
            index,
            netns: &netns,
        };
        match uplink {
            Some((outside, options)) => uplink::connect(outside.router(), own, options)?,
            None => netns.run(|| {
                ip::batch(&[
                    "route add unreachable default".to_owned(),
                    "route add unreachable ::/0".to_owned(),
                ])
            })?,
        }
        network.prepare(own, uplink.map(|(outside, _)| outside.router()))?;
        for (before, far) in (1..).zip(nodes.iter()) {
            let far = End {
                index: before,
                netns: far,
            };
            network.connect(own, far)?;
        }
        nodes.push(netns.clone());
        drop(nodes);
        let cgroup = self.machine.cgroup_root.join(&self.prefix).join(name);
        cgroup::create(&cgroup)?;
        let host_cgroup = cgroup.join("host");
        cgroup::create(&host_cgroup)?;
        let host = Peer::spawn(name, netns.path(), &host_cgroup)?;
        let carrier = match network.has_carrier() {
            true => Some(Carrier::start(netns.path(), &host_cgroup)?),
            false => None,
        };
        Ok(Node {
            inner: Arc::new(NodeInner {
                name: name.to_owned(),
                index,
                prefix: self.prefix.clone(),
                cgroup,
                pin_dir: self.machine.bpffs.join(&self.prefix).join(name),
                dir: self.dir(),
                network,
                uplink: uplink.map(|(_, options)| options),
                next_pod: AtomicU8::new(10),
                netns,
                host,
                _carrier: carrier,
            }),
        })
    }

    /// Removes the lab and ends the process when SIGINT or SIGTERM arrives.
    ///
    /// # Errors
    /// If the signals cannot be caught.
    pub fn remove_on_interrupt(&self) -> Result<()> {
        let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot catch signals")?;
        let (machine, prefix) = (self.machine.view(), self.prefix.clone());
        thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                eprintln!("\ninterrupted: removing the lab");
                if let Err(error) = sweep::remove(&machine, &prefix) {
                    eprintln!("lab: {error:#}");
                }
                std::process::exit(128 + signal);
            }
        });
        Ok(())
    }

    /// Lets the lab outlive this process; [`Lab::remove_kept`] removes it.
    ///
    /// # Errors
    /// If the mark that says so cannot be written.
    pub fn keep(mut self) -> Result<()> {
        sweep::keep(&self.prefix)?;
        self.machine.keep_mounts();
        self.kept = true;
        Ok(())
    }

    /// Removes every lab that was left open with [`Lab::keep`], and says which.
    ///
    /// # Errors
    /// If this is not root, or something cannot be removed.
    pub fn remove_kept() -> Result<Vec<String>> {
        require_root()?;
        let dir = Path::new(RUN).join(format!("{}-{}-kept", sweep::FAMILY, std::process::id()));
        in_folder(Path::new(RUN), || fs::create_dir(&dir))
            .with_context(|| format!("cannot create {}", dir.display()))?;
        let machine = prepare_machine(&dir)?;
        let mut removed = Vec::new();
        for prefix in sweep::kept() {
            sweep::remove(&machine, &prefix)?;
            removed.push(prefix);
        }
        drop(machine);
        drop(fs::remove_dir_all(&dir));
        drop(fs::remove_dir(RUN));
        Ok(removed)
    }

    fn remove(&mut self) -> Result<()> {
        sweep::remove(&self.machine, &self.prefix)?;
        self.machine.keep_mounts();
        let left = sweep::leftovers(&self.machine, &self.prefix);
        if left.is_empty() {
            return Ok(());
        }
        bail!("the lab {} left {left:?} behind", self.prefix)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(error) = self.remove() {
            // A second panic would abort and hide the first.
            assert!(thread::panicking(), "{error:#}");
            eprintln!("lab: {error:#}");
        }
    }
}

/// A node: the namespace of its host, links to its pods, a cgroup. Cheap to clone.
///
/// It is used as the [`Peer`] of its host: a process in the node's own namespace.
#[derive(Clone, Debug)]
pub struct Node {
    inner: Arc<NodeInner>,
}

#[derive(Debug)]
struct NodeInner {
    name: String,
    index: u8,
    prefix: String,
    cgroup: PathBuf,
    pin_dir: PathBuf,
    dir: PathBuf,
    network: PodNetwork,
    uplink: Option<UplinkOptions>,
    next_pod: AtomicU8,
    netns: Netns,
    host: Peer,
    _carrier: Option<Carrier>,
}

impl Node {
    /// The name given to [`Lab::node`].
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The cgroup that holds the node's host and all of its pods: where to attach.
    pub fn cgroup(&self) -> &Path {
        &self.inner.cgroup
    }

    /// The path that names the network namespace of the node's host.
    pub fn netns(&self) -> &Path {
        self.inner.netns.path()
    }

    /// Sets from which ports the host's sockets ask from now on (`ip_local_port_range`).
    ///
    /// # Errors
    /// If the kernel refuses the range.
    pub fn asks_from(&self, ports: &RangeInclusive<u16>) -> Result<()> {
        set_port_range(&self.inner.netns, ports)
    }

    /// The node's IPv4 address: that of its uplink, and without one that of its pods'
    /// bridge.
    pub fn v4(&self) -> Ipv4Addr {
        self.uplink()
            .map_or_else(|| bridge_v4(self.inner.index), uplink_v4)
    }

    /// The node's IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        self.uplink()
            .map_or_else(|| pod_v6(self.inner.index, 1), uplink_v6)
    }

    /// The node's address in the family of another.
    pub fn ip_like(&self, other: IpAddr) -> IpAddr {
        match other {
            IpAddr::V4(_) => self.v4().into(),
            IpAddr::V6(_) => self.v6().into(),
        }
    }

    /// The number of its uplink, if it has one.
    pub(crate) fn uplink(&self) -> Option<u8> {
        self.inner.uplink.map(|_| self.inner.index)
    }

    /// What its uplink is, if it has one.
    pub(crate) fn uplink_device(&self) -> Option<UplinkDevice> {
        self.inner.uplink.map(|options| options.device)
    }

    /// Where this node's agent pins: a directory of the lab's own in a bpffs, not made yet.
    pub fn pin_dir(&self) -> &Path {
        &self.inner.pin_dir
    }

    /// A folder for files of the lab.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// The agent's cgroup: beside the node's, for what it does must not be translated.
    pub(crate) fn agent_cgroup(&self) -> Result<PathBuf> {
        let name = format!("{}-agent", self.inner.name);
        let path = self.inner.cgroup.with_file_name(name);
        cgroup::create(&path)?;
        Ok(path)
    }

    /// The node as an end of links.
    pub(crate) fn end(&self) -> End<'_> {
        End {
            index: self.inner.index,
            netns: &self.inner.netns,
        }
    }

    /// Runs something on a thread in the network namespace of the node's host.
    ///
    /// # Errors
    /// If the namespace cannot be entered, and what `work` returns.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.inner.netns.run(work)
    }

    /// Runs an `ip` command in the node's namespace, such as `addr add …`.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn ip(&self, command: &str) -> Result<()> {
        self.run(|| ip::batch(&[command.to_owned()]))
    }

    /// Runs `ip rule` in the node's namespace, for the family of the addresses in it.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn rule(&self, command: &str) -> Result<()> {
        let lines = [format!("rule {command}")];
        self.run(|| match command.contains("::") {
            true => ip::batch_v6(&lines),
            false => ip::batch(&lines),
        })
    }

    /// Loads a rule set (nft(8)) of the node.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.run(|| tool::nft(rules))
    }

    /// Writes a sysctl (dots as slashes) of the node's namespace.
    ///
    /// # Errors
    /// If there is none, or it refuses the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.run(|| ip::sysctl(name, value))
    }

    /// Gives a port of the node to a pod, as CNI plugins do for `hostPort`.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn map_host_port(
        &self,
        transport: Transport,
        at: SocketAddr,
        to: SocketAddr,
    ) -> Result<()> {
        self.run(|| masquerade::map_host_port(transport, at, to))
    }

    /// Adds a pod, with the next free addresses: .10, .11 and so on.
    ///
    /// # Errors
    /// If the kernel or `ip` refuse; what was made so far goes with the lab.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        let host = self.inner.next_pod.fetch_add(1, Ordering::Relaxed);
        let index = self.inner.index;
        let netns = Netns::create(&format!("{}-{}-{name}", self.inner.prefix, self.inner.name))?;
        netns.start()?;
        self.inner.network.attach(self.end(), host, &netns)?;
        let cgroup = self.inner.cgroup.join(name);
        cgroup::create(&cgroup)?;
        let peer = Peer::spawn(name, netns.path(), &cgroup)?;
        let (v4, v6) = (pod_v4(index, host), pod_v6(index, host));
        Ok(Pod::new(name, v4, v6, cgroup, netns, peer))
    }
}

impl Deref for Node {
    type Target = Peer;
    fn deref(&self) -> &Peer {
        &self.inner.host
    }
}

/// A pod: a namespace with one link to its node, and a cgroup. Or a client outside.
///
/// It is used as the [`Peer`] that runs in it.
#[derive(Debug)]
pub struct Pod {
    name: String,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    cgroup: PathBuf,
    netns: Netns,
    peer: Peer,
}

impl Pod {
    pub(crate) fn new(
        name: &str,
        v4: Ipv4Addr,
        v6: Ipv6Addr,
        cgroup: PathBuf,
        netns: Netns,
        peer: Peer,
    ) -> Self {
        Self {
            name: name.to_owned(),
            v4,
            v6,
            cgroup,
            netns,
            peer,
        }
    }

    /// The name given to [`Node::pod`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pod's IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        self.v4
    }

    /// The pod's IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        self.v6
    }

    /// The pod's address in the family of another.
    pub fn ip_like(&self, other: IpAddr) -> IpAddr {
        match other {
            IpAddr::V4(_) => self.v4.into(),
            IpAddr::V6(_) => self.v6.into(),
        }
    }

    /// A port at its IPv4 address.
    pub fn v4_at(&self, port: u16) -> SocketAddr {
        (self.v4, port).into()
    }

    /// A port at its IPv6 address.
    pub fn v6_at(&self, port: u16) -> SocketAddr {
        (self.v6, port).into()
    }

    /// The pod's cgroup.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Sets from which ports its sockets ask from now on (`ip_local_port_range`).
    ///
    /// # Errors
    /// If the kernel refuses the range.
    pub fn asks_from(&self, ports: &RangeInclusive<u16>) -> Result<()> {
        set_port_range(&self.netns, ports)
    }

    /// The path that names its network namespace.
    pub fn netns(&self) -> &Path {
        self.netns.path()
    }

    /// Runs something on a thread in its network namespace.
    ///
    /// # Errors
    /// If the namespace cannot be entered, and what `work` returns.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.netns.run(work)
    }

    /// Loads a rule set (nft(8)) in its namespace.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.run(|| tool::nft(rules))
    }

    /// Runs an `ip` command in its namespace, such as `addr add …`.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn ip(&self, command: &str) -> Result<()> {
        self.run(|| ip::batch(&[command.to_owned()]))
    }
}

impl Deref for Pod {
    type Target = Peer;
    fn deref(&self) -> &Peer {
        &self.peer
    }
}

/// How long a scenario waits for what comes within moments on a real machine. An emulated guest
/// stalls for seconds; what never comes fails as surely after longer. No scenario waits for it to pass.
pub const SOON: Duration = Duration::from_secs(20);

/// Waits until something holds, looking every few milliseconds.
pub fn wait_until(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Sets from which ports the sockets of a namespace ask from now on.
fn set_port_range(netns: &Netns, ports: &RangeInclusive<u16>) -> Result<()> {
    let range = format!("{} {}", ports.start(), ports.end());
    netns.run(|| ip::sysctl("net/ipv4/ip_local_port_range", &range))
}
