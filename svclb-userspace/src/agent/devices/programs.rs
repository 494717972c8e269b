//! Attaches the packet programs to devices, and keeps `DEVICES` as these need it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use svclb_common::{Addr16, DeviceFlags, DeviceValue};
use svclb_dataplane::{
    Attached, Dataplane, DeviceAttachment, DevicePrograms as Programs, Devices as DeviceMap,
    Forwarding, XdpMode, detach_filters,
};
use tracing::{debug, info, warn};

use super::table::DeviceTable;
use super::{Device, DeviceChoices, Devices, Kind, NodeAddresses};

/// Keeps the packet programs attached to the devices that [`DeviceChoices`] selects.
pub(crate) struct DevicePrograms {
    choices: DeviceChoices,
    forwarding: Forwarding,
    xdp: XdpMode,
    table: DeviceTable,
    /// The devices, and the node's addresses, of the last [`sync`](Self::sync).
    known: Devices,
    own: NodeAddresses,
    /// By device index: what is attached to it.
    attached: BTreeMap<u32, Known>,
    /// Devices that could not be attached to, and why: it is tried again with every change.
    failed: BTreeMap<u32, String>,
    /// How the programs of an earlier agent are attached, until they are replaced: a flow that
    /// is opened meanwhile depends on it.
    adopted: BTreeMap<u32, DeviceFlags>,
    /// Devices that are named and gone.
    away: BTreeSet<String>,
    /// Devices by which packets come in that are not translated.
    neglected: BTreeMap<u32, &'static str>,
    /// Whether [`sync`](Self::sync) has never run: an earlier agent may have attached elsewhere.
    is_new: bool,
}

/// What is attached to a device.
struct Known {
    /// The device's name by then.
    name: String,
    programs: Programs,
    by: Attached,
}

impl DevicePrograms {
    pub(crate) fn new(
        choices: DeviceChoices,
        forwarding: Forwarding,
        xdp: XdpMode,
        map: DeviceMap,
    ) -> Self {
        Self {
            choices,
            forwarding,
            xdp,
            table: DeviceTable::new(map),
            known: Devices::new(),
            own: NodeAddresses::default(),
            attached: BTreeMap::new(),
            failed: BTreeMap::new(),
            adopted: BTreeMap::new(),
            away: BTreeSet::new(),
            neglected: BTreeMap::new(),
            is_new: true,
        }
    }

    /// Whether the devices that the operator names exist and can be served.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(crate) fn check(&self, devices: &Devices) -> Result<(), String> {
        self.choices.check(devices)
    }

    /// How many devices are attached to, and how many of these are of pods.
    pub(crate) fn count(&self) -> (usize, usize) {
        let is_pods = |index: &&u32| {
            let device = self.known.get(index);
            device.is_some_and(|device| self.choices.leads_to_pods(device))
        };
        (
            self.attached.len(),
            self.attached.keys().filter(is_pods).count(),
        )
    }

    /// The devices that are attached to and lead to other machines: index and name.
    pub(crate) fn uplinks(&self) -> Vec<(u32, String)> {
        let attached = self
            .attached
            .keys()
            .filter_map(|index| Some((*index, self.known.get(index)?)));
        attached
            .filter(|(_, device)| !self.choices.leads_to_pods(device))
            .map(|(index, device)| (index, device.name.clone()))
            .collect()
    }

    /// The names of bridges that are attached to and lead to other machines.
    pub(crate) fn bridges(&self) -> Vec<String> {
        let attached = self
            .attached
            .keys()
            .filter_map(|index| self.known.get(index));
        attached
            .filter(|device| device.kind == Kind::Bridge)
            .map(|device| device.name.clone())
            .collect()
    }

    /// Attaches the programs to devices that are new, detaches them from devices that are no
    /// longer selected, and updates `DEVICES`; looks at devices that changed since the last call, or at
    /// all with `verify`. Then devices that should have the programs already are attached to again.
    /// Returns how many programs were missing there.
    ///
    /// `own` are the node's addresses, for devices that have none of a family, and before others that they have.
    pub(crate) fn sync(
        &mut self,
        dataplane: &mut Dataplane,
        devices: &Devices,
        own: &NodeAddresses,
        verify: bool,
    ) -> usize {
        let is_new = std::mem::take(&mut self.is_new);
        let looks_at_all = is_new || verify || self.own != *own;
        let mut changed = changes(&self.known, devices, looks_at_all);
        changed.extend(self.failed.keys());
        self.own.clone_from(own);
        self.known.clone_from(devices);
        let selected: BTreeMap<u32, &Device> = changed
            .iter()
            .filter_map(|index| Some((*index, &**devices.get(index)?)))
            .filter(|(_, device)| self.choices.selects(device))
            .collect();
        if is_new {
            self.adopt(selected.keys().copied());
        }
        let left = changed
            .iter()
            .filter(|index| !selected.contains_key(*index));
        self.leave(dataplane, devices, left.copied(), is_new);
        if looks_at_all {
            let keep: Vec<_> = selected.keys().copied().collect();
            if let Err(error) = dataplane.keep_devices(&keep) {
                warn!("programs cannot be detached from devices that are gone: {error}");
            }
        }
        // The programs read a device's entry with its first packet: it is written before they
        // are attached.
        self.write_table(devices, &changed);
        let mut restored = 0;
        for (index, device) in &selected {
            restored += self.attach(dataplane, *index, device, verify);
        }
        self.adopted.clear();
        self.write_table(devices, &changed);
        self.report(devices, &changed);
        restored
    }

    /// Detaches the programs from devices, some of which may be gone.
    fn leave(
        &mut self,
        dataplane: &mut Dataplane,
        devices: &Devices,
        left: impl Iterator<Item = u32>,
        is_new: bool,
    ) {
        for index in left {
            self.failed.remove(&index);
            let before = self.attached.remove(&index);
            if let Some(device) = devices.get(&index)
                && (is_new || before.is_some())
            {
                detach_filters(&device.name);
            }
            let Some(Known { name, .. }) = before else {
                continue;
            };
            if devices.contains_key(&index) {
                info!(device = %name, "packets of this device are no longer translated");
            } else {
                debug!(device = %name, "a device is gone");
            }
            if let Err(error) = dataplane.detach_device(index) {
                warn!("programs cannot be detached from {name}: {error}");
            }
        }
    }

    /// Attaches to a device, with `verify` again. Returns how many programs were missing that should
    /// have been there.
    fn attach(
        &mut self,
        dataplane: &mut Dataplane,
        index: u32,
        device: &Device,
        verify: bool,
    ) -> usize {
        let programs = self.programs(device);
        let known = self.attached.get(&index);
        let known = known.filter(|known| known.name == device.name && known.programs == programs);
        let known = known.map(|known| known.by);
        if known.is_some() && !verify {
            return 0;
        }
        match dataplane.attach_device(&device.name, index, programs) {
            Ok(attached) => {
                self.failed.remove(&index);
                if known == Some(attached.by) {
                    return attached.new;
                }
                self.log(device, &attached);
                let known = Known {
                    name: device.name.clone(),
                    programs,
                    by: attached.by,
                };
                self.attached.insert(index, known);
            }
            // It is gone by now, and the message that says so is under way.
            Err(error) if error.is_gone() => debug!("{error}"),
            Err(error) => {
                let error = error.to_string();
                if self.failed.get(&index) != Some(&error) {
                    warn!("{error}");
                }
                self.failed.insert(index, error);
            }
        }
        0
    }

    fn log(&self, device: &Device, attached: &DeviceAttachment) {
        let DeviceAttachment {
            by,
            native_xdp_error,
            ..
        } = attached;
        let kind = device.kind;
        // Pods come and go; one line for each would be too many.
        if kind == Kind::Pods && device.is_pair {
            debug!(device = %device.name, %kind, %by, "packets of this device are translated");
            return;
        }
        info!(device = %device.name, %kind, %by, "packets of this device are translated");
        if let Some(error) = native_xdp_error {
            info!(device = %device.name, %error, "native XDP cannot be attached");
        }
    }

    /// Says what an operator should know about devices that are not attached to.
    fn report(&mut self, devices: &Devices, changed: &BTreeSet<u32>) {
        for index in changed {
            let device = devices.get(index);
            let reason = device.and_then(|device| self.choices.neglects(device));
            let before = match reason {
                Some(reason) => self.neglected.insert(*index, reason),
                None => self.neglected.remove(index),
            };
            if let (Some(device), Some(reason)) = (device, reason)
                && before != Some(reason)
            {
                warn!(
                    device = %device.name,
                    kind = %device.kind,
                    "packets that come in by this device are not translated: {reason}"
                );
            }
        }
        let is_there = |name: &str| devices.values().any(|device| device.name == name);
        for (flag, name) in self.choices.named() {
            if is_there(name) {
                self.away.remove(name);
            } else if self.away.insert(name.to_owned()) {
                warn!(
                    device = %name,
                    "a device that {flag} names is gone; it is taken again when it comes back"
                );
            }
        }
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
            XdpMode::Auto if device.is_pair => XdpMode::Off,
            mode => mode,
        }
    }

    /// Which programs a device gets. From pods the kernel always forwards: a packet of a pod passes
    /// routes and policies that are the network plugin's.
    fn programs(&self, device: &Device) -> Programs {
        Programs {
            forwarding: if self.choices.leads_to_pods(device) {
                Forwarding::Kernel
            } else {
                self.forwarding
            },
            has_ethernet: device.has_ethernet,
            xdp: self.xdp_mode(device),
        }
    }

    /// Writes the entries of devices that changed, and deletes those of devices that are gone.
    fn write_table(&mut self, devices: &Devices, changed: &BTreeSet<u32>) {
        for index in changed {
            let device = devices.get(index);
            let device = device.filter(|device| device.kind != Kind::Loopback);
            let entry = device.map(|device| self.entry(*index, device));
            self.table.want(*index, entry);
        }
        self.table
            .want(DeviceValue::NODE, Some(node_entry(&self.own)));
        self.table.write();
    }

    fn entry(&self, index: u32, device: &Device) -> DeviceValue {
        let address = |is_v4| {
            let found = source(device, &self.own, is_v4);
            found.map_or_else(Addr16::default, Addr16::from_ip)
        };
        let flag = |flag, is_set| if is_set { flag } else { DeviceFlags::NONE };
        let attached = self.attached.get(&index).map(|known| known.by);
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
            flags: flag(DeviceFlags::PODS, self.choices.leads_to_pods(device))
                .union(flag(
                    DeviceFlags::XDP_TARGET,
                    has_native_xdp && device.is_pair,
                ))
                .union(flag(DeviceFlags::ATTACHED, is_attached))
                .union(flag(DeviceFlags::NO_ETHERNET, !device.has_ethernet))
                .union(flag(DeviceFlags::NO_CARRIER, !device.has_carrier)),
        }
    }
}

/// The devices that are new, gone or not as they were; or all.
fn changes(known: &Devices, devices: &Devices, all: bool) -> BTreeSet<u32> {
    let is_known = |(index, device): &(&u32, &Arc<Device>)| {
        known
            .get(index)
            .is_some_and(|known| Arc::ptr_eq(known, device))
    };
    let here = devices.iter().filter(|entry| all || !is_known(entry));
    let gone = known.keys().filter(|index| !devices.contains_key(index));
    here.map(|(index, _)| index).chain(gone).copied().collect()
}

/// The address that packets leaving by a device are given: the node's, if the device has it, or the
/// device's best, or that which its routes prefer, or the node's first.
fn source(device: &Device, own: &NodeAddresses, is_v4: bool) -> Option<IpAddr> {
    let of_family = |ip: &&IpAddr| ip.is_ipv4() == is_v4;
    let mut internal = own.internal.iter().filter(of_family);
    let its = || device.sources.iter().filter(of_family);
    internal
        .find(|ip| device.sources.contains(ip))
        .or_else(|| its().next())
        .or_else(|| device.preferred_sources.iter().find(of_family))
        .copied()
        .or_else(|| own.first(is_v4))
}

/// The entry of the node itself: its first address of each family.
fn node_entry(own: &NodeAddresses) -> DeviceValue {
    let address = |is_v4| {
        own.first(is_v4)
            .map_or_else(Addr16::default, Addr16::from_ip)
    };
    DeviceValue {
        v4: address(true),
        v6: address(false),
        ..DeviceValue::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_device_without_an_address_has_its_routes_or_the_nodes() {
        let mut own = NodeAddresses {
            internal: vec![ip("192.0.2.1"), ip("2001:db8::1")],
            others: Vec::new(),
        };
        let mut device = Device::default();
        assert_eq!(source(&device, &own, true), Some(ip("192.0.2.1")));
        device.preferred_sources = vec![ip("192.0.2.7")];
        assert_eq!(source(&device, &own, true), Some(ip("192.0.2.7")));
        assert_eq!(source(&device, &own, false), Some(ip("2001:db8::1")));
        own.internal.remove(0);
        device.preferred_sources.clear();
        assert_eq!(source(&device, &own, true), None);
        own.others.push(ip("192.0.2.2"));
        assert_eq!(source(&device, &own, true), Some(ip("192.0.2.2")));
    }

    #[test]
    fn a_device_with_addresses_has_the_nodes_or_its_best() {
        // NodePorts may answer at all of them.
        let mut own = NodeAddresses {
            internal: vec![ip("192.0.2.1")],
            others: vec![ip("10.0.0.1"), ip("10.0.0.9"), ip("192.0.2.1")],
        };
        let device = Device {
            sources: vec![ip("10.0.0.9"), ip("10.0.0.1"), ip("192.0.2.1")],
            preferred_sources: vec![ip("192.0.2.7")],
            ..Device::default()
        };
        assert_eq!(source(&device, &own, true), Some(ip("192.0.2.1")));
        own.internal.clear();
        assert_eq!(source(&device, &own, true), Some(ip("10.0.0.9")));
    }

    #[test]
    fn only_devices_that_changed_are_looked_at() {
        let device = |mtu| {
            let device = Device {
                mtu,
                ..Device::default()
            };
            Arc::new(device)
        };
        let known: Devices = [(1, device(1)), (2, device(2)), (3, device(3))].into();
        let mut devices = known.clone();
        devices.remove(&1);
        devices.insert(2, device(20));
        devices.insert(4, device(4));
        assert_eq!(changes(&known, &devices, false), [1, 2, 4].into());
        assert_eq!(changes(&known, &devices, true), [1, 2, 3, 4].into());
    }
}
