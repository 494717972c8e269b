//! Which devices the packet programs are attached to.

use std::str::FromStr;

use anyhow::bail;

use super::{Device, Devices};

/// `--devices`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) enum DeviceChoice {
    /// Those with a default route, or an address of their own; and those of pods
    /// ([`PodDevices`]).
    #[default]
    Auto,
    /// By name.
    Named(Vec<String>),
    /// None: only connections of this node's pods and its own processes are translated.
    None,
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "none" => return Ok(Self::None),
            _ => {}
        }
        let names: Vec<_> = text.split(',').map(|name| name.trim().to_owned()).collect();
        if names.iter().any(String::is_empty) {
            return Err(format!(
                "{text:?} is neither auto nor none nor a list of devices such as eth0,eth1"
            ));
        }
        Ok(Self::Named(names))
    }
}

/// `--pod-devices`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) enum PodDevices {
    /// Bridges, and the host's ends of pods' devices.
    #[default]
    Auto,
    /// By name.
    Named(Vec<String>),
    /// None: what passes the hooks of sockets by is translated only as it leaves the node or comes in.
    Off,
}

impl FromStr for PodDevices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "off" => return Ok(Self::Off),
            _ => {}
        }
        let names: Vec<_> = text.split(',').map(|name| name.trim().to_owned()).collect();
        if names.iter().any(String::is_empty) {
            return Err(format!(
                "{text:?} is neither auto nor off nor a list of devices such as cni0,docker0"
            ));
        }
        Ok(Self::Named(names))
    }
}

/// Whether packets of a device can be translated.
const fn can_serve(device: &Device) -> bool {
    (device.is_ethernet || device.is_bare_ip) && !device.is_loopback
}

impl DeviceChoice {
    /// Whether the devices that the operator names are there, and can be served.
    ///
    /// # Errors
    /// A sentence about the first one that cannot.
    pub(crate) fn check(&self, devices: &Devices) -> anyhow::Result<()> {
        let Self::Named(names) = self else {
            return Ok(());
        };
        for name in names {
            match devices.values().find(|device| device.name == *name) {
                None => bail!("--devices names {name}, and there is no such device; see `ip link`"),
                Some(device) if !can_serve(device) => bail!(
                    "--devices names {name}, whose packets cannot be translated: it is the loopback \
                     device, or its packets begin neither with an Ethernet header nor with that of IP"
                ),
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Whether packets of a device are translated.
    pub(super) fn selects(&self, device: &Device, pods: &PodDevices) -> bool {
        let can_serve = can_serve(device);
        match self {
            Self::None => false,
            Self::Named(names) if names.contains(&device.name) => true,
            _ if self.leads_to_pods(device, pods) => can_serve && *pods != PodDevices::Off,
            Self::Named(_) => false,
            // A bridge of pods has an address too. A port of a bridge is left out: its packets
            // pass the bridge.
            Self::Auto => {
                let is_uplink = device.is_default;
                let is_wire = !device.addresses.is_empty() && !device.is_bridge;
                can_serve && !device.is_port && (is_uplink || is_wire)
            }
        }
    }

    /// Whether pods of this node are behind a device: a bridge, or the host's end of a veth pair.
    /// A device that the operator names and that has no address is a pod's, whatever its kind.
    pub(super) fn leads_to_pods(&self, device: &Device, pods: &PodDevices) -> bool {
        let is_bare = device.addresses.is_empty();
        let is_named = matches!(self, Self::Named(names) if names.contains(&device.name));
        let is_a_pods = match pods {
            PodDevices::Named(names) if names.contains(&device.name) => return true,
            PodDevices::Named(_) => false,
            PodDevices::Auto | PodDevices::Off => {
                let is_end = is_bare && device.is_veth && device.is_ethernet && !device.is_port;
                device.is_bridge || is_end
            }
        };
        !device.is_default && (is_a_pods || is_named && (is_bare || device.is_bridge))
    }
}
