//! Several nodes that reach each other.

use std::net::Ipv6Addr;

use anyhow::Result;

use super::{Lab, Node, pod_v6};
use crate::ip;
use crate::netns::Netns;

impl Lab {
    /// Lets these nodes, and their pods, reach each other, as a CNI that routes would: a
    /// bridge of its own between them, and a route to each other's pods.
    ///
    /// # Errors
    /// If the kernel or `ip` refuse; what was made so far goes with the lab.
    pub fn connect(&self, nodes: &[&Node]) -> Result<()> {
        let wire = Netns::create(&format!("{}-wire", self.prefix))?;
        let mut lines = vec![
            "link add br0 type bridge mcast_snooping 0".to_owned(),
            "link set br0 up".to_owned(),
        ];
        for node in nodes {
            let index = node.inner.index;
            lines.push(format!(
                "link add n{index} type veth peer name up0 netns {}",
                node.netns().display()
            ));
            lines.push(format!("link set n{index} master br0 up"));
        }
        wire.run(|| ip::batch(&lines))?;
        for node in nodes {
            // The link has no address that anybody sees: a node's address is its bridge's.
            let mut lines = vec![
                format!("addr add {}/64 dev up0 nodad", wire_v6(node)),
                "link set up0 up".to_owned(),
            ];
            for other in nodes.iter().filter(|other| other.name() != node.name()) {
                let (index, via) = (other.inner.index, wire_v6(other));
                let v6 = pod_v6(index, 0);
                lines.push(format!(
                    "route add 10.244.{index}.0/24 via inet6 {via} dev up0"
                ));
                lines.push(format!("route add {v6}/64 via {via} dev up0"));
            }
            node.run(|| ip::batch(&lines))?;
        }
        Ok(())
    }
}

/// The link's addresses are link-local: routes name them as their next hop, in both
/// families (IPv4 since Linux 5.2), and no socket ever has one.
fn wire_v6(node: &Node) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, node.inner.index.into())
}
