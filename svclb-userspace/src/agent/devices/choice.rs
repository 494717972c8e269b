//! Which devices the packet programs are attached to.

use std::str::FromStr;

use super::Device;

/// `--devices`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) enum DeviceChoice {
    /// Those with a default route, or an address of their own; and those of pods once a Service
    /// has source ranges.
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

impl DeviceChoice {
    /// Whether packets of a device are translated; `includes_pods` selects pods' devices too.
    pub(super) fn selects(&self, device: &Device, includes_pods: bool) -> bool {
        match self {
            Self::None => false,
            Self::Named(names) => names.contains(&device.name),
            Self::Auto if includes_pods && self.leads_to_pods(device) => true,
            // A bridge of pods has an address too. A port of a bridge is left out: its packets
            // pass the bridge.
            Self::Auto => {
                let is_uplink = device.is_default;
                let is_wire = !device.addresses.is_empty() && !device.is_bridge;
                (device.is_ethernet || device.is_bare_ip)
                    && !device.is_loopback
                    && !device.is_port
                    && (is_uplink || is_wire)
            }
        }
    }

    /// Whether pods of this node are behind a device: a bridge, or the host's end of a veth pair.
    /// A device that the operator names and that has no address is a pod's, whatever its kind.
    pub(super) fn leads_to_pods(&self, device: &Device) -> bool {
        let is_bare = device.addresses.is_empty();
        let is_a_pods = match self {
            Self::Named(_) => is_bare,
            Self::None => false,
            Self::Auto => is_bare && device.is_veth && device.is_ethernet && !device.is_port,
        };
        !device.is_default && (device.is_bridge || is_a_pods)
    }
}
