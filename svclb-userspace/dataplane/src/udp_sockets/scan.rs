//! Finding the connected sockets that were given a backend.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use svclb_common::{Addr16, PortBe, Translation, TranslationRing};

use super::error::ScanError;
use super::for_each_netns::{VisitError, for_each_netns};
use super::inet_diag;
use super::namespace_id::NamespaceId;
use super::netlink::Netlink;
use super::netns_paths::NetnsPaths;
use super::socket_id::Identity;
use super::udp_socket::UdpSocket;
use super::udp_translations::UdpTranslations;
use super::warnings::Warnings;

pub(super) fn scan(
    udp_translations: &UdpTranslations,
    places: &NetnsPaths,
    warnings: &Warnings,
) -> Result<Vec<UdpSocket>, ScanError> {
    // The sockets first: being listed gives them their cookies.
    let connected = connected(places, warnings)?;
    let records = udp_translations
        .read()
        .map_err(ScanError::UdpTranslations)?;
    let found: BTreeMap<_, _> = records
        .iter()
        .filter_map(|record| {
            let (namespace, identity) = connected.get(&record.cookie)?;
            Some((
                record.cookie,
                translated(*namespace, *identity, &record.ring)?,
            ))
        })
        .collect();
    Ok(found.into_values().collect())
}

type ByCookie = HashMap<u64, (NamespaceId, Identity)>;

/// The UDP sockets that have a peer, in all namespaces.
fn connected(places: &NetnsPaths, warnings: &Warnings) -> Result<ByCookie, ScanError> {
    let mut found = ByCookie::new();
    let mut listed = 0_usize;
    let visited = for_each_netns(
        places,
        |_| true,
        |id| {
            let all = inet_diag::list(&mut Netlink::open()?)?;
            found.extend(
                all.into_iter()
                    .map(|socket| (socket.cookie(), (id, socket))),
            );
            listed += 1;
            Ok(())
        },
    );
    let mut failures = visited.map_err(|error| match error {
        VisitError::Thread(source) => ScanError::Thread(source),
        VisitError::Processes(source) => ScanError::Processes {
            path: places.processes.clone(),
            source,
        },
    })?;
    if listed == 0
        && let Some((_, error)) = failures.pop()
    {
        return Err(ScanError::Nowhere(error));
    }
    warnings.tell(&failures);
    Ok(found)
}

/// The socket, if its peer is a backend that stands in its ring behind another address.
fn translated(
    namespace: NamespaceId,
    identity: Identity,
    ring: &TranslationRing,
) -> Option<UdpSocket> {
    let peer = identity.peer();
    let known = ring.entries.iter().find(|entry| backend(entry) == peer)?;
    // A backend that leads to itself: the program asked for the backend.
    (frontend(known) != peer).then(|| UdpSocket {
        frontend: socket_addr(frontend(known)),
        backend: (!known.is_refusal()).then(|| socket_addr(peer)),
        namespace,
        identity,
    })
}

const fn frontend(entry: &Translation) -> (Addr16, PortBe) {
    (entry.frontend_addr, entry.frontend_port)
}

const fn backend(entry: &Translation) -> (Addr16, PortBe) {
    (entry.backend_addr, entry.backend_port)
}

fn socket_addr((addr, port): (Addr16, PortBe)) -> SocketAddr {
    SocketAddr::new(addr.to_ip(), port.get())
}
