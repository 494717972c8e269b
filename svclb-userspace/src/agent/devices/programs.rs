//! Attaches the packet programs to devices, and keeps `DEVICES` as these need it.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use svclb_common::{Addr16, DeviceFlags, DeviceValue};
use svclb_dataplane::{
    Attached, Dataplane, DeviceAttachment, DevicePrograms as Programs, Devices as DeviceMap,
    Forwarding, XdpMode, detach_filters,
};
use tracing::{info, warn};

use super::table::DeviceTable;
use super::{Device, DeviceChoice, Devices, PodDevices};

/// Keeps the packet programs attached to the devices that [`DeviceChoice`] selects.
pub(crate) struct DevicePrograms {
    choice: DeviceChoice,
    pods: PodDevices,
    forwarding: Forwarding,
    xdp: XdpMode,
    table: DeviceTable,
    /// By device index: its name when the programs were attached, and how they are.
    attached: BTreeMap<u32, (String, Attached)>,
    /// How the programs of an earlier agent are attached, until they are replaced: a flow that
    /// is opened meanwhile depends on it.
    adopted: BTreeMap<u32, DeviceFlags>,
    /// Whether [`sync`](Self::sync) has never run: an earlier agent may have attached elsewhere.
    is_new: bool,
}

impl DevicePrograms {
    pub(crate) const fn new(
        choice: DeviceChoice,
        pods: PodDevices,
        forwarding: Forwarding,
        xdp: XdpMode,
        map: DeviceMap,
    ) -> Self {
        Self {
            choice,
            pods,
            forwarding,
            xdp,
            table: DeviceTable::new(map),
            attached: BTreeMap::new(),
            adopted: BTreeMap::new(),
            is_new: true,
        }
    }

    /// Attaches the programs to devices that are new, detaches them from devices that are no
    /// longer selected, and updates `DEVICES`. With `verify`, devices that should have the
    /// programs already are attached to again. Returns how many programs were missing there.
    ///
    /// `own` are the node's addresses, for devices that have none of a family.
    pub(crate) fn sync(
        &mut self,
        dataplane: &mut Dataplane,
        devices: &Devices,
        own: &[IpAddr],
        verify: bool,
    ) -> usize {
        let selected: BTreeMap<_, _> = devices
            .iter()
            .filter(|(_, device)| self.choice.selects(device, &self.pods))
            .collect();
        for (index, device) in devices {
            let may_have_filters = self.is_new || self.attached.contains_key(index);
            if !selected.contains_key(index) && may_have_filters {
                detach_filters(&device.name);
            }
        }
        if std::mem::take(&mut self.is_new) {
            self.adopt(selected.keys().map(|index| **index));
        }
        self.attached.retain(|index, (name, _)| {
            let stays = selected
                .get(index)
                .is_some_and(|device| device.name == *name);
            if !stays {
                info!(device = %name, "packets of this device are no longer translated");
            }
            stays
        });
        let keep: Vec<_> = selected.keys().map(|index| **index).collect();
        if let Err(error) = dataplane.keep_devices(&keep) {
            warn!("programs cannot be detached from devices that are gone: {error}");
        }
        // The programs read a device's entry with its first packet: it is written before they
        // are attached.
        self.write_table(devices, own);
        let mut restored = 0;
        for (index, device) in selected {
            let known = self.attached.get(index).map(|(_, attached)| *attached);
            if known.is_some() && !verify {
                continue;
            }
            match dataplane.attach_device(&device.name, *index, self.programs(device)) {
                Ok(attached) if known == Some(attached.by) => restored += attached.new,
                Ok(DeviceAttachment {
                    by,
                    native_xdp_error,
                    ..
                }) => {
                    let kind = self.kind(device);
                    info!(device = %device.name, kind, %by, "packets of this device are translated");
                    if let Some(error) = native_xdp_error {
                        info!(device = %device.name, %error, "native XDP cannot be attached");
                    }
                    self.attached.insert(*index, (device.name.clone(), by));
                }
                Err(error) => warn!("{error}"),
            }
        }
        self.adopted.clear();
        self.write_table(devices, own);
        restored
    }

    /// Compares `DEVICES` with what was written to it, and repairs it. Returns how many entries
    /// were repaired, and the first error about one that is not.
    pub(crate) fn verify_table(&self) -> (usize, io::Result<()>) {
        self.table.verify()
    }

    /// Reads what an earlier agent wrote about these devices.
    fn adopt(&mut self, selected: impl Iterator<Item = u32>) {
        match self.table.adopt() {
            Ok(entries) => {
                for index in selected {
                    // In a new map there is none: the device is about to be attached to.
                    let entry = entries.get(&index);
                    let flags = entry.map_or(DeviceFlags::ATTACHED, |entry| entry.flags);
                    self.adopted.insert(index, flags);
                }
            }
            Err(error) => warn!("the map DEVICES cannot be read: {error}"),
        }
    }

    /// How XDP is attached to a device: only to devices of default routes, and to a veth (the
    /// uplink of a node that is a container) only if the operator asks for it. A frame that XDP
    /// redirects into a veth is lost unless the peer has NAPI on, which is not its default and
    /// cannot be seen from here.
    fn xdp_mode(&self, device: &Device) -> XdpMode {
        match self.xdp {
            _ if !device.is_default => XdpMode::Off,
            XdpMode::Auto if device.is_veth => XdpMode::Off,
            mode => mode,
        }
    }

    /// What a device is taken for.
    fn kind(&self, device: &Device) -> &'static str {
        if self.choice.leads_to_pods(device, &self.pods) {
            "pods"
        } else if device.is_ethernet {
            "uplink"
        } else {
            "tunnel"
        }
    }

    /// Which programs a device gets. From pods the kernel always forwards: a packet of a pod passes
    /// routes and policies that are the network plugin's.
    fn programs(&self, device: &Device) -> Programs {
        Programs {
            forwarding: if self.choice.leads_to_pods(device, &self.pods) {
                Forwarding::Kernel
            } else {
                self.forwarding
            },
            has_ethernet: device.is_ethernet,
            xdp: self.xdp_mode(device),
        }
    }

    fn write_table(&mut self, devices: &Devices, own: &[IpAddr]) {
        let wanted = devices
            .iter()
            .filter(|(_, device)| !device.is_loopback)
            .map(|(index, device)| (*index, self.entry(*index, device, own)))
            .chain([(DeviceValue::NODE, node_entry(own))])
            .collect();
        self.table.write(&wanted);
    }

    fn entry(&self, index: u32, device: &Device, own: &[IpAddr]) -> DeviceValue {
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
        let has_native_xdp = match attached {
            Some(attached) => attached == Attached::NativeXdp,
            None => adopted.contains(DeviceFlags::XDP_TARGET),
        };
        let is_attached = attached.is_some() || adopted.contains(DeviceFlags::ATTACHED);
        DeviceValue {
            v4: address(true),
            v6: address(false),
            link: device.mac,
            reserved: [0; 2],
            mtu: device.mtu,
            flags: flag(
                DeviceFlags::PODS,
                self.choice.leads_to_pods(device, &self.pods),
            )
            .union(flag(
                DeviceFlags::XDP_TARGET,
                has_native_xdp && device.is_veth,
            ))
            .union(flag(DeviceFlags::ATTACHED, is_attached))
            .union(flag(DeviceFlags::NO_ETHERNET, !device.is_ethernet)),
        }
    }
}

/// The entry of the node itself: its first address of each family.
fn node_entry(own: &[IpAddr]) -> DeviceValue {
    let first = |is_v4: bool| own.iter().find(|ip| ip.is_ipv4() == is_v4);
    let address = |is_v4| first(is_v4).map_or_else(Addr16::default, |ip| Addr16::from_ip(*ip));
    DeviceValue {
        v4: address(true),
        v6: address(false),
        ..DeviceValue::default()
    }
}
