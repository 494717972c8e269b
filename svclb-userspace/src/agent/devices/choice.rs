//! Which devices the packet programs are attached to.

use std::str::FromStr;

use super::{Device, Devices, Kind};

/// `--devices`: those by which traffic from other machines comes in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) enum DeviceChoice {
    /// By what they are: those with an address, or with a route over them.
    #[default]
    Auto,
    /// By name.
    Named(Vec<String>),
    /// None, and no pods' devices: only connections of this node's pods and its own processes are
    /// translated.
    None,
}

/// `--pod-devices`: those that pods of this node are behind.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) enum PodDevices {
    /// By what they are.
    #[default]
    Auto,
    /// By name.
    Named(Vec<String>),
    /// None.
    Off,
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            _ => names(text, "auto nor none").map(Self::Named),
        }
    }
}

impl FromStr for PodDevices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            _ => names(text, "auto nor off").map(Self::Named),
        }
    }
}

fn names(text: &str, others: &str) -> Result<Vec<String>, String> {
    let names: Vec<_> = text.split(',').map(|name| name.trim().to_owned()).collect();
    if names.iter().any(String::is_empty) {
        return Err(format!(
            "{text:?} is neither {others} nor a list of devices such as eth0,eth1"
        ));
    }
    Ok(names)
}

const DEVICES: &str = "--devices";
const POD_DEVICES: &str = "--pod-devices";

/// Both choices.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct DeviceChoices {
    pub(crate) devices: DeviceChoice,
    pub(crate) pods: PodDevices,
}

impl DeviceChoices {
    /// Whether packets of any device are translated.
    pub(crate) fn has_devices(&self) -> bool {
        self.devices != DeviceChoice::None
    }

    /// Whether packets of pods' devices may be translated.
    pub(crate) fn has_pod_devices(&self) -> bool {
        self.has_devices() && self.pods != PodDevices::Off
    }

    /// Whether packets of a device are translated.
    pub(super) fn selects(&self, device: &Device) -> bool {
        if self.devices == DeviceChoice::None || device.kind.obstacle().is_some() {
            return false;
        }
        let is_named = self.named().any(|(_, name)| name == device.name);
        is_named
            || match (device.kind, &self.devices) {
                (Kind::Pods, _) => self.pods == PodDevices::Auto,
                (_, DeviceChoice::Auto) => is_on_the_way(device),
                _ => false,
            }
    }

    /// Whether pods of this node are behind a device. What the operator says of it comes first.
    pub(super) fn leads_to_pods(&self, device: &Device) -> bool {
        let mut named = self.named().filter(|(_, name)| *name == device.name);
        match named.next_back() {
            Some((flag, _)) => flag == POD_DEVICES,
            None => device.kind == Kind::Pods,
        }
    }

    /// The devices that are named, each with its flag.
    pub(super) fn named(&self) -> impl DoubleEndedIterator<Item = (&'static str, &str)> {
        let devices = match &self.devices {
            DeviceChoice::Named(names) => &names[..],
            _ => &[],
        };
        let pods = match &self.pods {
            PodDevices::Named(names) => &names[..],
            _ => &[],
        };
        let devices = devices.iter().map(|name| (DEVICES, name.as_str()));
        devices.chain(pods.iter().map(|name| (POD_DEVICES, name.as_str())))
    }

    /// Whether the devices that are named exist and can be served.
    ///
    /// # Errors
    /// A sentence for the operator about the first that cannot.
    pub(super) fn check(&self, devices: &Devices) -> Result<(), String> {
        for (flag, name) in self.named() {
            let Some(device) = devices.values().find(|device| device.name == name) else {
                return Err(format!(
                    "{flag} names {name}, and there is no such device; `ip link` lists them"
                ));
            };
            if let Some(obstacle) = device.kind.obstacle() {
                return Err(format!(
                    "{flag} names {name}, which cannot be served: {obstacle}"
                ));
            }
        }
        Ok(())
    }

    /// Why packets that come in by a device may be of a Service and are not translated, if so.
    pub(super) fn neglects(&self, device: &Device) -> Option<&'static str> {
        let may_carry =
            device.carries_packets() && (device.kind.is_outward() || device.kind == Kind::Unknown);
        if self.devices == DeviceChoice::None || !may_carry || self.selects(device) {
            return None;
        }
        Some(match device.kind.obstacle() {
            Some(obstacle) => obstacle,
            None => "--devices does not name it",
        })
    }
}

/// Whether packets of other machines come in by a device, so far as can be seen.
fn is_on_the_way(device: &Device) -> bool {
    device.kind.is_outward() && device.carries_packets()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn device(name: &str, kind: Kind) -> Device {
        Device {
            name: name.to_owned(),
            kind,
            is_routed: true,
            has_ethernet: true,
            has_carrier: true,
            ..Device::default()
        }
    }

    fn choices(devices: &str, pods: &str) -> DeviceChoices {
        DeviceChoices {
            devices: devices.parse().unwrap(),
            pods: pods.parse().unwrap(),
        }
    }

    const OUTWARD: [Kind; 7] = [
        Kind::Uplink,
        Kind::Vlan,
        Kind::Bond,
        Kind::Bridge,
        Kind::Macvlan,
        Kind::Tunnel,
        Kind::IpTunnel,
    ];

    #[test]
    fn auto_takes_what_carries_packets_and_pods_devices() {
        let choices = choices("auto", "auto");
        for kind in OUTWARD {
            assert!(choices.selects(&device("dev", kind)), "{kind}");
            let idle = Device {
                is_routed: false,
                ..device("dev", kind)
            };
            assert!(!choices.selects(&idle), "{kind} without address and route");
        }
        for kind in [
            Kind::Port,
            Kind::Vrf,
            Kind::Loopback,
            Kind::Idle,
            Kind::Unknown,
        ] {
            assert!(!choices.selects(&device("dev", kind)), "{kind}");
        }
        let pods = Device {
            is_routed: false,
            ..device("veth1", Kind::Pods)
        };
        assert!(choices.selects(&pods));
    }

    #[test]
    fn pods_devices_are_chosen_by_a_flag_of_their_own() {
        let pods = device("veth1", Kind::Pods);
        assert!(choices("eth0", "auto").selects(&pods));
        assert!(!choices("auto", "off").selects(&pods));
        assert!(!choices("auto", "veth2").selects(&pods));
        assert!(choices("auto", "veth1").selects(&pods));
        assert!(choices("eth0,veth1", "off").selects(&pods));
        assert!(!choices("none", "auto").selects(&pods));
        // What the operator says is so.
        let port = device("tap1", Kind::Port);
        assert!(choices("auto", "tap1").leads_to_pods(&port));
        let bridge = device("cni0", Kind::Pods);
        assert!(choices("auto", "off").leads_to_pods(&bridge));
        assert!(!choices("cni0", "auto").leads_to_pods(&bridge));
        assert!(choices("cni0", "cni0").leads_to_pods(&bridge));
    }

    #[test]
    fn a_name_that_cannot_be_served_is_an_error() {
        let devices: Devices = [
            (1, device("lo", Kind::Loopback)),
            (2, device("eth0", Kind::Uplink)),
            (3, device("vrf1", Kind::Vrf)),
            (4, device("ib0", Kind::Unknown)),
        ]
        .map(|(index, device)| (index, Arc::new(device)))
        .into();
        let error = |devices_flag, pods| {
            let choices = choices(devices_flag, pods);
            choices.check(&devices).err().unwrap_or_default()
        };
        assert_eq!(error("auto", "auto"), "");
        assert_eq!(error("eth0", "off"), "");
        for (flag, name) in [("--devices", "eth9"), ("--pod-devices", "cni0")] {
            let error = match flag {
                "--devices" => error(name, "auto"),
                _ => error("eth0", name),
            };
            assert_eq!(
                error,
                format!("{flag} names {name}, and there is no such device; `ip link` lists them")
            );
        }
        for name in ["lo", "vrf1", "ib0"] {
            let error = error(name, "auto");
            let begins = format!("--devices names {name}, which cannot be served: ");
            assert!(error.starts_with(&begins), "{error}");
        }
    }

    #[test]
    fn a_device_that_carries_packets_and_is_not_taken_is_told() {
        let eth1 = device("eth1", Kind::Uplink);
        assert_eq!(choices("auto", "auto").neglects(&eth1), None);
        assert_eq!(
            choices("eth0", "auto").neglects(&eth1),
            Some("--devices does not name it")
        );
        assert_eq!(choices("none", "auto").neglects(&eth1), None);
        assert!(
            choices("auto", "auto")
                .neglects(&device("ib0", Kind::Unknown))
                .is_some()
        );
        for kind in [
            Kind::Pods,
            Kind::Port,
            Kind::Loopback,
            Kind::Vrf,
            Kind::Idle,
        ] {
            assert_eq!(choices("eth0", "off").neglects(&device("dev", kind)), None);
        }
    }
}
