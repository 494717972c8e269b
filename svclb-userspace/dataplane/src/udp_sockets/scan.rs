//! Finding the connected sockets that were given a backend.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use svclb_common::{Addr16, PortBe, Translation, TranslationRing};

use super::error::ScanError;
use super::for_each_netns::{NetnsError, for_each_netns};
use super::inet_diag;
use super::namespace_id::NamespaceId;
use super::netns_paths::NetnsPaths;
use super::socket_id::Identity;
use super::udp_socket::UdpSocket;
use super::udp_translations::UdpTranslations;
use super::warnings::Warnings;
use crate::netlink::Netlink;

pub(super) fn scan(
    udp_translations: &UdpTranslations,
    paths: &NetnsPaths,
    warnings: &Warnings,
) -> Result<Vec<UdpSocket>, ScanError> {
    // The sockets first: being listed gives them their cookies.
    let connected = connected(paths, warnings)?;
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
fn connected(paths: &NetnsPaths, warnings: &Warnings) -> Result<ByCookie, ScanError> {
    let mut found = ByCookie::new();
    let mut listed = 0_usize;
    let listed_all = for_each_netns(
        paths,
        |_| true,
        |id| {
            let all = inet_diag::list(&mut Netlink::sock_diag()?)?;
            found.extend(
                all.into_iter()
                    .map(|socket| (socket.cookie(), (id, socket))),
            );
            listed += 1;
            Ok(())
        },
    );
    let mut failures = listed_all.map_err(|error| match error {
        NetnsError::Thread(source) => ScanError::Thread(source),
        NetnsError::Processes(source) => ScanError::Processes {
            path: paths.processes.clone(),
            source,
        },
    })?;
    if listed == 0
        && let Some((_, error)) = failures.pop()
    {
        return Err(ScanError::Nowhere(error));
    }
    warnings.log(&failures);
    Ok(found)
}

/// The socket, if its peer is a backend that stands in its ring behind another address.
fn translated(
    namespace: NamespaceId,
    identity: Identity,
    ring: &TranslationRing,
) -> Option<UdpSocket> {
    let peer = identity.peer();
    let entry = ring.entries.iter().find(|entry| backend(entry) == peer)?;
    // Both addresses are the same: the program connected to the backend's own.
    (frontend(entry) != peer).then(|| UdpSocket {
        frontend: socket_addr(frontend(entry)),
        backend: (!entry.is_refusal()).then(|| socket_addr(peer)),
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
