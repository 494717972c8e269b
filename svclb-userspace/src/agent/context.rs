//! What the agent knows about its node: its devices and addresses, and what follows from them.

use std::io;
use std::net::IpAddr;

use svclb_core::model::{LocalSource, Node, NodeConfig};
use svclb_core::planner::Planner;
use svclb_dataplane::Dataplane;
use tokio::sync::watch;
use tracing::debug;

use super::devices::{DevicePrograms, Devices, NodeAddresses};
use super::node_ports::NodePortAddresses;

/// The device on which kube-proxy's IPVS mode puts every address of a Service, and leaves it when it is
/// gone: none of them is the node's own.
const IPVS: &str = "kube-ipvs0";

/// The node's devices and addresses.
pub(super) struct NodeContext {
    devices: watch::Receiver<Devices>,
    device_programs: DevicePrograms,
    node_port_addresses: NodePortAddresses,
    external_ips: bool,
    local_source: LocalSource,
    /// The Node object that the current addresses were chosen with.
    node: Option<Node>,
    own: NodeAddresses,
}

impl NodeContext {
    pub(super) fn new(
        devices: watch::Receiver<Devices>,
        device_programs: DevicePrograms,
        node_port_addresses: NodePortAddresses,
        external_ips: bool,
        local_source: LocalSource,
    ) -> Self {
        Self {
            devices,
            device_programs,
            node_port_addresses,
            external_ips,
            local_source,
            node: None,
            own: NodeAddresses::default(),
        }
    }

    /// Gives the planner the addresses of NodePorts if the Node object or the devices changed.
    /// Returns whether they did.
    pub(super) fn update(&mut self, planner: &mut Planner) -> bool {
        let node = planner.cluster().node();
        // An error means that the watch task ended: there is nothing new.
        let has_changed = self.devices.has_changed().unwrap_or_default();
        if !has_changed && self.node.as_ref() == Some(node) {
            return false;
        }
        let node = node.clone();
        let (node_port_ips, own_ips, sources) = {
            let devices = self.devices.borrow_and_update();
            let addresses = devices
                .values()
                .filter(|device| device.name != IPVS)
                .flat_map(|device| &device.addresses);
            (
                self.node_port_addresses.choose(&node, &devices),
                addresses.copied().collect(),
                self::sources(&devices),
            )
        };
        debug!(?node_port_ips, "NodePorts are served at these addresses");
        self.own.internal.clone_from(&node.internal_ips);
        // Without a Node object a NodePort's address may be one that moves from node to node.
        self.own.others = [sources, node_port_ips.clone()].concat();
        self.node = Some(node);
        planner.set_node_config(NodeConfig {
            node_port_ips,
            external_ips: self.external_ips,
            own_ips,
            local_source: self.local_source,
        });
        true
    }

    /// Resolves when the devices or their addresses changed; [`update`](Self::update) takes the
    /// change in.
    pub(super) async fn devices_changed(&mut self) {
        if self.devices.changed().await.is_ok() {
            self.devices.mark_changed();
        } else {
            std::future::pending().await
        }
    }

    /// How many devices are attached to, and how many of these are of pods.
    pub(super) fn count_devices(&self) -> (usize, usize) {
        self.device_programs.count()
    }

    /// The devices by which clients outside come in: index and name.
    pub(super) fn uplinks(&self) -> Vec<(u32, String)> {
        self.device_programs.uplinks()
    }

    /// The names of bridges by which clients outside come in.
    pub(super) fn bridges(&self) -> Vec<String> {
        self.device_programs.bridges()
    }

    /// Attaches the packet programs to the devices that there are; with `verify` also to those
    /// that should have them. Returns how many programs were missing there.
    pub(super) fn sync_devices(&mut self, dataplane: &mut Dataplane, verify: bool) -> usize {
        let devices = self.devices.borrow().clone();
        self.device_programs
            .sync(dataplane, &devices, &self.own, verify)
    }

    /// Compares the map `DEVICES` with what was written to it, and repairs it. Returns how many
    /// entries were repaired, and the first error about one that is not.
    pub(super) fn verify_device_table(&self) -> (usize, io::Result<()>) {
        self.device_programs.verify_table()
    }
}

/// The addresses that packets to the world are sent from, the best of each device first.
fn sources(devices: &Devices) -> Vec<IpAddr> {
    let default = devices.values().filter(|device| device.is_default);
    default
        .flat_map(|device| device.sources.iter().copied())
        .collect()
}
