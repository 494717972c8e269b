//! Lists and watches the network devices by rtnetlink(7): the only module that uses it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection};
use tokio::sync::watch;
use tracing::warn;

use super::{Device, Devices};

/// What changes within this time is looked at once.
const SETTLE: Duration = Duration::from_millis(20);
/// How long to wait after the kernel said no.
const AGAIN: Duration = Duration::from_secs(5);

/// Reads the devices, and goes on to watch them.
pub(crate) async fn watch() -> anyhow::Result<watch::Receiver<Devices>> {
    let (connection, handle, mut messages) = new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ])
    .context("the kernel's network devices cannot be watched; svclb must be root")?;
    tokio::spawn(connection);
    let devices = read(&handle)
        .await
        .context("the network devices cannot be listed; svclb must be root")?;
    let (sender, receiver) = watch::channel(devices);
    tokio::spawn(async move {
        // Said before the first list, or while one is made: looked at once more.
        while messages.next().await.is_some() {
            tokio::time::sleep(SETTLE).await;
            while messages.try_recv().is_ok() {}
            match read(&handle).await {
                Ok(devices) => {
                    sender.send_if_modified(|known| {
                        let is_new = *known != devices;
                        *known = devices;
                        is_new
                    });
                }
                Err(error) => {
                    warn!("the network devices cannot be listed now: {error}");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    });
    Ok(receiver)
}

async fn read(handle: &Handle) -> Result<Devices, rtnetlink::Error> {
    let links: Vec<_> = handle.link().get().execute().try_collect().await?;
    let addresses: Vec<_> = handle.address().get().execute().try_collect().await?;
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
    let mut routes: Vec<_> = handle.route().get(v4).execute().try_collect().await?;
    // A kernel without IPv6 has none of its routes.
    routes.extend(
        handle
            .route()
            .get(v6)
            .execute()
            .try_collect::<Vec<_>>()
            .await
            .unwrap_or_default(),
    );
    let mut devices: Devices = links.iter().map(device).collect();
    for (index, address) in addresses.iter().filter_map(global) {
        if let Some(device) = devices.get_mut(&index) {
            device.addresses.insert(address);
        }
    }
    for index in routes.iter().flat_map(default_devices) {
        if let Some(device) = devices.get_mut(&index) {
            device.is_default = true;
        }
    }
    Ok(devices)
}

fn device(link: &LinkMessage) -> (u32, Device) {
    let mut device = Device {
        is_loopback: link.header.flags.contains(LinkFlags::Loopback),
        is_ethernet: link.header.link_layer_type == LinkLayerType::Ether,
        ..Device::default()
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
            LinkAttribute::Address(address) => {
                device.mac = <[u8; 6]>::try_from(&**address).unwrap_or_default();
            }
            LinkAttribute::Controller(index) => device.is_port = *index != 0,
            LinkAttribute::LinkInfo(facts) => {
                device.is_bridge = facts.contains(&LinkInfo::Kind(InfoKind::Bridge));
                device.is_veth = facts.contains(&LinkInfo::Kind(InfoKind::Veth));
            }
            _ => {}
        }
    }
    (link.header.index, device)
}

/// The device and address of a message, if it is good beyond its link.
fn global(message: &AddressMessage) -> Option<(u32, IpAddr)> {
    if message.header.scope != AddressScope::Universe {
        return None;
    }
    // On a point-to-point device `Address` is the far end, and `Local` ours; IPv6 has only
    // `Address` otherwise.
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
        message.attributes.iter().find_map(wanted)
    };
    let local = find(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let address = find(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    Some((message.header.index, local.or(address)?))
}

/// The devices that a default route leads to.
fn default_devices(route: &RouteMessage) -> Vec<u32> {
    if route.header.destination_prefix_length != 0 {
        return Vec::new();
    }
    let found = route.attributes.iter().map(|attribute| match attribute {
        RouteAttribute::Oif(index) => vec![*index],
        RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
        _ => Vec::new(),
    });
    found.flatten().collect()
}
