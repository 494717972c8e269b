//! The lab of the demo: built at the start, struck at the end.

use anyhow::{Context as _, Result, bail};
use svclb_tests::manifests::Manifests;
use svclb_tests::{
    Agent, AgentOptions, Lab, Node, Outside, Pod, PodNetwork, Transport, UplinkOptions, repository,
};

use crate::screen::{Ink, Screen};

/// Everything on stage. Fields go in this order: the agent first, the lab last.
pub(crate) struct Stage {
    pub(crate) agent: Agent,
    pub(crate) manifests: Manifests,
    pub(crate) backends: Vec<Pod>,
    pub(crate) client: Pod,
    pub(crate) outsider: Pod,
    pub(crate) outside: Outside,
    pub(crate) node: Node,
    pub(crate) lab: Lab,
}

impl Stage {
    /// Builds the lab and starts the agent on a copy of deploy/examples.
    pub(crate) fn set(screen: &mut Screen) -> Result<Self> {
        screen.chapter(
            "A node with three backends and a client, and one outside, in a lab with no way out",
        );
        let lab = Lab::new("demo")?;
        lab.remove_on_interrupt()?;
        let outside = lab.outside(PodNetwork::Bridged)?;
        let node = lab.node_at(&outside, "node1", UplinkOptions::default())?;
        let mut backends = Vec::new();
        for name in ["backend-a", "backend-b", "backend-c"] {
            backends.push(backend(&node, name)?);
        }
        let client = node.pod("client")?;
        let outsider = outside.client("outsider")?;
        for (index, pod) in backends.iter().chain([&client, &outsider]).enumerate() {
            let ink = match index {
                0..3 => Ink::Backend(index),
                _ => Ink::Bold,
            };
            screen.line(&format!(
                "{}  {:<12}  {}",
                screen.ink(ink, &format!("{:<9}", pod.name())),
                pod.v4().to_string(),
                pod.v6()
            ));
        }

        screen.chapter("svclb run --manifests deploy/examples");
        let examples = repository().join("deploy/examples");
        let manifests = Manifests::copy_of(&examples, lab.dir().join("manifests"))?;
        let agent = Agent::start(&node, manifests.dir(), AgentOptions::default())?;
        screen.good(&format!(
            "ready {} ms after it was started",
            agent.ready_after().as_millis()
        ));
        Ok(Self {
            agent,
            manifests,
            backends,
            client,
            outsider,
            outside,
            node,
            lab,
        })
    }

    /// Cleans up and says so.
    pub(crate) fn strike(mut self, screen: &mut Screen) -> Result<()> {
        screen.chapter("svclb cleanup");
        self.agent.cleanup()?;
        let to = "10.96.1.1:8080".parse().context("no address")?;
        match self.client.ask(Transport::Tcp, to) {
            Err(failure) if failure.errno == "EHOSTUNREACH" => {
                screen.good("10.96.1.1:8080 is unreachable again (EHOSTUNREACH)");
            }
            other => bail!("after the clean-up {to} should be unreachable, but: {other:?}"),
        }
        // Dropping the lab fails if anything of it is still there.
        drop(self);
        screen.good("nothing is left: no program, no pin, no namespace, no cgroup, no process");
        Ok(())
    }
}

/// A pod that serves everything that the examples lead to.
pub(crate) fn backend(node: &Node, name: &str) -> Result<Pod> {
    let pod = node.pod(name)?;
    for port in [53, 80, 5000, 5432] {
        pod.serve(Transport::Tcp, port)?;
    }
    pod.serve(Transport::Udp, 53)?;
    Ok(pod)
}
