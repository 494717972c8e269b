//! Which packets the firewall is asked about.

use std::net::IpAddr;

use svclb_core::model::Family;

use super::missing::Frontend;
use super::rules::{Destination, Packet};

/// Whose packets are translated on this node.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Those in which there are Services.
    pub families: Vec<Family>,
    /// The names of bridges by which clients outside come in.
    pub bridges: Vec<String>,
    /// The devices by which they do: index and name.
    pub uplinks: Vec<(u32, String)>,
    /// Addresses of pods of this node that are backends.
    pub pods: Vec<IpAddr>,
    /// Where clients outside reach Services.
    pub frontends: Vec<Frontend>,
}

impl Traffic {
    /// Packets of clients that are translated already, for pods of this node, by each device.
    pub(super) fn to_pods(&self, mark: u32, family: Family) -> impl Iterator<Item = Packet<'_>> {
        let pods = self.pods.iter().filter(move |pod| is_of(family, **pod));
        let devices = self.uplinks.iter();
        pods.flat_map(move |pod| {
            devices.clone().map(move |device| Packet {
                device: Some(device),
                to: Destination {
                    address: Some(*pod),
                    original_address: Some(*pod),
                    ..Destination::default()
                },
                ..Packet::new(mark, family)
            })
        })
    }

    /// Packets of clients by each device, where they go left open.
    pub(super) fn to_frontends(&self, family: Family) -> impl Iterator<Item = Packet<'_>> {
        self.uplinks.iter().map(move |device| Packet {
            device: Some(device),
            ..Packet::new(0, family)
        })
    }

    pub(super) fn frontends(&self, family: Family) -> Vec<Frontend> {
        let mut frontends = self.frontends.clone();
        frontends.retain(|frontend| is_of(family, frontend.at.ip()));
        frontends
    }
}

fn is_of(family: Family, address: IpAddr) -> bool {
    address.is_ipv4() == (family == Family::V4)
}
