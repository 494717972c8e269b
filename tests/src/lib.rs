//! The lab: nodes, pods and clients as network namespaces, each node with a cgroup of its
//! own, and the agent run in it as on a real node.
//!
//! ```no_run
//! use svclb_tests::{Lab, Transport};
//!
//! # fn main() -> anyhow::Result<()> {
//! let lab = Lab::new("readme")?;
//! let node = lab.node("node1")?;
//! let web = node.pod("web")?;
//! let client = node.pod("client")?;
//! web.serve(Transport::Tcp, 80)?;
//! let answer = client.ask(Transport::Tcp, web.v4_at(80))?;
//! assert_eq!(answer.backend, "web");
//! # Ok(())
//! # }
//! ```
//!
//! A cluster with an outside, where nodes have an uplink and clients are behind a router:
//!
//! ```no_run
//! use svclb_tests::{Lab, PodNetwork, Transport, UplinkOptions};
//!
//! # fn main() -> anyhow::Result<()> {
//! let lab = Lab::new("readme")?;
//! let outside = lab.outside(PodNetwork::Vxlan)?;
//! let node = lab.node_at(&outside, "node1", UplinkOptions::default())?;
//! let client = outside.client("client")?;
//! node.serve(Transport::Tcp, 80)?;
//! let answer = client.ask(Transport::Tcp, (node.v4(), 80).into())?;
//! assert_eq!(answer.client.ip(), client.v4());
//! outside.route("203.0.113.7".parse()?, &node)?;
//! # Ok(())
//! # }
//! ```
//!
//! # What a lab may touch
//! Nothing of the machine: its namespaces have no link and no route to the outside, its
//! cgroups lie below one directory that carries the lab's prefix, its pins in a directory
//! of the same name. All of it is gone when the [`Lab`] is dropped, also in a panic; what
//! a killed run left behind is swept by the next [`Lab::new`].
//!
//! # Why peers are processes
//! A socket belongs to the cgroup of the process that made it, and cgroup programs run for
//! that cgroup. A thread can change its network namespace alone but not (outside of
//! threaded mode) its cgroup. So whatever opens sockets in a pod is a process of its own,
//! `svclb-lab-peer`, which takes the lab's requests over a pipe.

mod agent;
mod apiserver;
pub mod bpftool;
mod carrier;
mod cgroup;
pub mod churn;
pub mod conformance;
mod ip;
mod kinds;
mod kube_proxy;
mod lab;
mod machine;
pub mod manifests;
mod masquerade;
mod memory;
mod netns;
mod network;
mod outside;
pub mod peer;
mod report;
mod repository;
mod second;
mod segment;
mod sweep;
mod tool;
mod tun;
mod uplink;
mod wire;

pub use agent::{
    Agent, AgentOptions, DIRECT_TC, DIRECT_XDP, KERNEL, Way, next_binary, svclb_binary,
};
pub use apiserver::ApiServer;
pub use carrier::carry;
pub use kinds::has_devices;
pub use kube_proxy::kube_proxy_rules;
pub use lab::{Lab, Node, Pod, SERVICE_V4, SERVICE_V6, SOON, wait_until};
pub use machine::{Machine, prepare_machine};
pub use memory::MemoryLimit;
pub use network::PodNetwork;
pub use outside::{BALANCER_V4, BALANCER_V6, Outside};
pub use peer::{
    Answer, Connected, Failure, Kind, Peer, PeerSocket, Received, Tally, Target, Transport,
    peer_binary,
};
pub use report::{lacks, record_time};
pub use repository::repository;
pub use tool::feed;
pub use tun::{TunKind, open_tun};
pub use uplink::{UplinkDevice, UplinkOptions};
