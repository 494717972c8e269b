//! Which devices carry traffic from outside, and what the packet programs know of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use svclb_common::{Addr16, DeviceFlags, DeviceValue};
use svclb_dataplane::{
    Attached, Dataplane, DeviceAttachment, Devices as DeviceMap, XdpMode, detach_filters,
};
use tracing::{info, warn};

use super::devices::{Device, Devices};

/// `--devices`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) enum DeviceChoice {
    /// Those with a default route, or an address of their own; and those of pods while a
    /// Service looks at who its clients are.
    #[default]
    Auto,
    /// By name.
    Named(Vec<String>),
    /// None: connections of this node's pods and of its own are all that is translated.
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
    /// Whether packets of a device are translated.
    fn takes(&self, device: &Device, takes_pods: bool) -> bool {
        match self {
            Self::None => false,
            Self::Named(names) => names.contains(&device.name),
            Self::Auto if takes_pods && self.is_of_pods(device) => true,
            // The bridge of pods has an address too, and a device in a bridge is no way of its
            // own.
            Self::Auto => {
                let is_uplink = device.is_default;
                let is_wire = !device.addresses.is_empty() && !device.is_bridge;
                device.is_ethernet
                    && !device.is_loopback
                    && !device.is_port
                    && (is_uplink || is_wire)
            }
        }
    }

    /// Whether pods of this node are behind it: a bridge, or the near end of a pair. What the
    /// operator names without an address is for pods whatever it is.
    fn is_of_pods(&self, device: &Device) -> bool {
        let is_bare = device.addresses.is_empty();
        let is_like_a_pods = match self {
            Self::Named(_) => is_bare,
            Self::None => false,
            Self::Auto => is_bare && device.is_veth && device.is_ethernet && !device.is_port,
        };
        !device.is_default && (device.is_bridge || is_like_a_pods)
    }
}

/// Keeps the packet programs where they should be.
pub(crate) struct Packets {
    choice: DeviceChoice,
    mode: XdpMode,
    map: DeviceMap,
    attached: BTreeMap<u32, (String, Attached)>,
    /// How the programs that an earlier agent left are attached, until they are replaced: a flow
    /// that is opened meanwhile needs to know.
    adopted: BTreeMap<u32, DeviceFlags>,
    written: BTreeMap<u32, DeviceValue>,
    /// Whether pods' devices are taken without being named.
    takes_pods: bool,
    /// Nothing was done yet: an earlier agent may have attached elsewhere.
    is_new: bool,
}

impl Packets {
    pub(crate) const fn new(choice: DeviceChoice, mode: XdpMode, map: DeviceMap) -> Self {
        Self {
            choice,
            mode,
            map,
            attached: BTreeMap::new(),
            adopted: BTreeMap::new(),
            written: BTreeMap::new(),
            takes_pods: false,
            is_new: true,
        }
    }

    /// A Service is for clients of certain addresses alone: sockets of pods, whose address is
    /// not known before there is a packet, are left to the packet path, which has to meet
    /// them. It stays with them: flows of theirs go on. Whether that is new.
    pub(crate) fn take_pods(&mut self) -> bool {
        !std::mem::replace(&mut self.takes_pods, true)
    }

    /// Attaches to devices that came, and says what changed of them; `again` also to those that
    /// should have the programs already, in case that somebody took them off. How many programs
    /// somebody had. `own` are the node's addresses, for devices that have none.
    pub(crate) fn follow(
        &mut self,
        dataplane: &mut Dataplane,
        devices: &Devices,
        own: &[IpAddr],
        again: bool,
    ) -> usize {
        let wanted: BTreeMap<_, _> = devices
            .iter()
            .filter(|(_, device)| self.choice.takes(device, self.takes_pods))
            .collect();
        for (index, device) in devices {
            let is_known = self.attached.contains_key(index);
            if !wanted.contains_key(index) && (is_known || self.is_new) {
                detach_filters(&device.name);
            }
        }
        if std::mem::take(&mut self.is_new) {
            self.adopt(wanted.keys().map(|index| **index));
        }
        self.attached.retain(|index, (name, _)| {
            let stays = wanted.get(index).is_some_and(|device| device.name == *name);
            if !stays {
                info!(device = %name, "packets of this device are no longer translated");
            }
            stays
        });
        let keep: Vec<_> = wanted.keys().map(|index| **index).collect();
        if let Err(error) = dataplane.keep_devices(&keep) {
            warn!("programs cannot be detached from devices that are gone: {error}");
        }
        // What the programs need of a device stands in its map before they run for it.
        self.write(devices, own);
        let mut restored = 0;
        for (index, device) in wanted {
            let known = self.attached.get(index).map(|(_, attached)| *attached);
            if known.is_some() && !again {
                continue;
            }
            match dataplane.attach_device(&device.name, *index, self.mode_of(device)) {
                Ok(attached) if known == Some(attached.by) => restored += attached.new,
                Ok(DeviceAttachment { by, .. }) => {
                    info!(device = %device.name, %by, "packets of this device are translated");
                    self.attached.insert(*index, (device.name.clone(), by));
                }
                Err(error) => warn!("{error}"),
            }
        }
        self.adopted.clear();
        self.write(devices, own);
        restored
    }

    /// Reads back what an earlier agent knew of these devices.
    fn adopt(&mut self, wanted: impl Iterator<Item = u32>) {
        for index in wanted {
            match self.map.get(index) {
                Ok(known) => {
                    // In a map that is new none is known: it is going to be attached.
                    let flags = known.map_or(DeviceFlags::ATTACHED, |value| value.flags);
                    self.adopted.insert(index, flags);
                }
                Err(error) => warn!("what was known of a device cannot be read: {error}"),
            }
        }
    }

    /// How XDP is attached to a device: to those of default routes alone, and to a veth (the
    /// uplink of a node that is a container) only if the operator says so: what XDP sends by
    /// one is lost unless its far end polls, which is not its default and not to be seen here.
    fn mode_of(&self, device: &Device) -> XdpMode {
        match self.mode {
            _ if !device.is_default => XdpMode::Off,
            XdpMode::Auto if device.is_veth => XdpMode::Off,
            mode => mode,
        }
    }

    fn write(&mut self, devices: &Devices, own: &[IpAddr]) {
        let wanted: BTreeMap<_, _> = devices
            .iter()
            .filter(|(_, device)| !device.is_loopback)
            .map(|(index, device)| (*index, self.value(*index, device, own)))
            .chain([(DeviceValue::NODE, node(own))])
            .collect();
        for (index, value) in &wanted {
            if self.written.get(index) != Some(value)
                && let Err(error) = self.map.put(*index, value)
            {
                warn!("what is known of a device cannot be written: {error}");
                return;
            }
        }
        for index in self
            .written
            .keys()
            .filter(|index| !wanted.contains_key(index))
        {
            // It is gone, and nothing is sent by it.
            let _gone = self.map.delete(*index);
        }
        self.written = wanted;
    }

    fn value(&self, index: u32, device: &Device, own: &[IpAddr]) -> DeviceValue {
        let address = |is_v4: bool| {
            let of_family = |ip: &&IpAddr| ip.is_ipv4() == is_v4;
            // The node's own before one that moves from node to node.
            let its = || device.addresses.iter().filter(of_family);
            let found = its()
                .find(|ip| own.contains(ip))
                .or_else(|| its().next())
                .or_else(|| own.iter().find(of_family));
            found.map_or_else(Addr16::default, |ip| Addr16::from_ip(*ip))
        };
        let flag = |flag, is_set| if is_set { flag } else { DeviceFlags::NONE };
        let attached = self.attached.get(&index).map(|(_, attached)| *attached);
        let adopted = self.adopted.get(&index).copied().unwrap_or_default();
        let native = match attached {
            Some(attached) => attached == Attached::NativeXdp,
            None => adopted.contains(DeviceFlags::XDP_TARGET),
        };
        let is_attached = attached.is_some() || adopted.contains(DeviceFlags::ATTACHED);
        DeviceValue {
            v4: address(true),
            v6: address(false),
            link: device.link,
            reserved: [0; 2],
            mtu: device.mtu,
            flags: flag(DeviceFlags::PODS, self.choice.is_of_pods(device))
                .union(flag(DeviceFlags::XDP_TARGET, native && device.is_veth))
                .union(flag(DeviceFlags::ATTACHED, is_attached)),
        }
    }
}

/// The node's own addresses, the first of each family.
fn node(own: &[IpAddr]) -> DeviceValue {
    let first = |is_v4: bool| own.iter().find(|ip| ip.is_ipv4() == is_v4);
    let address = |is_v4| first(is_v4).map_or_else(Addr16::default, |ip| Addr16::from_ip(*ip));
    DeviceValue {
        v4: address(true),
        v6: address(false),
        ..DeviceValue::default()
    }
}
