//! Lists and watches the network devices by rtnetlink(7): the only module that uses it.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::Context;
use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt};
use nix::errno::Errno;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection};
use tokio::sync::watch;
use tracing::{info, warn};

use super::{Device, Devices};

/// How long to wait for further changes before a listing.
const SETTLE: Duration = Duration::from_millis(20);
/// How long until a listing that failed is tried again: at first, and at most.
const RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// Lists the devices, and again whenever one of them changes.
pub(crate) async fn watch() -> anyhow::Result<watch::Receiver<Devices>> {
    let (connection, handle, messages) = new_multicast_connection(&[
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
    let list = move || {
        let handle = handle.clone();
        async move { read(&handle).await }
    };
    tokio::spawn(list_after_each(messages, list, RETRY, sender));
    Ok(receiver)
}

/// Lists after each message (or several in short succession), until the messages end. A listing
/// that fails is tried again without another message.
///
/// A change during a dump (`NLM_F_DUMP_INTR`, which rtnetlink does not pass on) can make the
/// listing inconsistent. It has a message of its own, so that another listing follows. So has a
/// loss of messages (`ENOBUFS`).
async fn list_after_each<M, D, E, F>(
    mut messages: impl Stream<Item = M> + Unpin,
    mut list: impl FnMut() -> F,
    [retry, longest_retry]: [Duration; 2],
    sender: watch::Sender<D>,
) where
    D: PartialEq,
    E: Display,
    F: Future<Output = Result<D, E>>,
{
    while messages.next().await.is_some() {
        let mut delay = retry;
        loop {
            tokio::time::sleep(SETTLE).await;
            // The listing covers all changes before it.
            while let Some(Some(_)) = messages.next().now_or_never() {}
            match list().await {
                Ok(devices) => {
                    if delay > retry {
                        info!("the network devices can be listed again");
                    }
                    sender.send_if_modified(|known| {
                        let is_new = *known != devices;
                        *known = devices;
                        is_new
                    });
                    break;
                }
                Err(error) => {
                    if delay == retry {
                        warn!("the network devices cannot be listed now: {error}");
                    }
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(longest_retry);
                }
            }
        }
    }
}

async fn read(handle: &Handle) -> Result<Devices, rtnetlink::Error> {
    let links: Vec<_> = handle.link().get().execute().try_collect().await?;
    let addresses: Vec<_> = handle.address().get().execute().try_collect().await?;
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
    let mut routes: Vec<_> = handle.route().get(v4).execute().try_collect().await?;
    routes.extend(none_without_family(
        handle.route().get(v6).execute().try_collect().await,
    )?);
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

/// A kernel without IPv6 has none of its routes. Any other error is one.
fn none_without_family(
    routes: Result<Vec<RouteMessage>, rtnetlink::Error>,
) -> Result<Vec<RouteMessage>, rtnetlink::Error> {
    match routes {
        Err(rtnetlink::Error::NetlinkError(error))
            if matches!(
                Errno::from_raw(error.raw_code().saturating_abs()),
                Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP
            ) =>
        {
            Ok(Vec::new())
        }
        other => other,
    }
}

fn device(link: &LinkMessage) -> (u32, Device) {
    let mut device = Device {
        is_loopback: link.header.flags.contains(LinkFlags::Loopback),
        is_ethernet: link.header.link_layer_type == LinkLayerType::Ether,
        is_bare_ip: matches!(
            link.header.link_layer_type,
            LinkLayerType::None
                | LinkLayerType::Rawip
                | LinkLayerType::Ppp
                | LinkLayerType::Tunnel
                | LinkLayerType::Tunnel6
                | LinkLayerType::Sit
                | LinkLayerType::Ipgre
                | LinkLayerType::Ip6gre
        ),
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

/// The device index and address of a message of scope "global".
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroI32;

    use futures_util::stream;
    use rtnetlink::packet_core::ErrorMessage;

    use super::*;

    #[tokio::test]
    async fn a_listing_that_fails_is_tried_again_without_another_message() {
        let (sender, mut listed) = watch::channel(0);
        let mut tries = 0;
        let list = move || {
            tries += 1;
            let result = if tries < 4 { Err("busy") } else { Ok(tries) };
            std::future::ready(result)
        };
        // One message, and then nothing for ever.
        let messages = stream::iter([()]).chain(stream::pending());
        let retry = [Duration::from_millis(1), Duration::from_millis(4)];
        let task = tokio::spawn(list_after_each(messages, list, retry, sender));
        let limit = Duration::from_secs(10);
        let changed = tokio::time::timeout(limit, listed.changed()).await;
        assert!(changed.is_ok(), "it was not tried again");
        assert_eq!(*listed.borrow(), 4);
        task.abort();
    }

    #[test]
    fn only_a_kernel_without_ipv6_has_no_routes_of_it() {
        let listed = |errno: Errno| {
            let mut error = ErrorMessage::default();
            error.code = NonZeroI32::new(-(errno as i32));
            none_without_family(Err(rtnetlink::Error::NetlinkError(error)))
        };
        for errno in [Errno::EAFNOSUPPORT, Errno::EOPNOTSUPP] {
            assert_eq!(listed(errno).unwrap(), []);
        }
        for errno in [Errno::EBUSY, Errno::ENOBUFS, Errno::EPERM] {
            assert!(listed(errno).is_err(), "{errno} is taken for no routes");
        }
        assert!(none_without_family(Err(rtnetlink::Error::RequestFailed)).is_err());
    }

    #[tokio::test]
    async fn messages_in_short_succession_are_one_listing() {
        let (sender, listed) = watch::channel(0);
        let mut tries = 0;
        let list = move || {
            tries += 1;
            std::future::ready(Ok::<_, &str>(tries))
        };
        list_after_each(stream::iter([(); 100]), list, RETRY, sender).await;
        assert_eq!(*listed.borrow(), 1);
    }
}
