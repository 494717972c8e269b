//! Finding the connected sockets that were given a backend.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use svclb_common::{Addr16, PortBe, Translation, TranslationRing};

use super::for_each_netns::{VisitError, for_each_netns};
use super::inet_diag;
use super::namespace_id::NamespaceId;
use super::netlink::Netlink;
use super::socket_id::Identity;
use super::{UdpSocket, UdpSockets};

/// The sockets could not be listed at all.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The list of processes cannot be read.
    #[error("the processes in {path} cannot be listed: {source}; mount /proc", path = .path.display())]
    Processes {
        /// Where they were looked for.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No thread could be started.
    #[error("no thread can be started to enter network namespaces: {0}")]
    Thread(#[source] io::Error),
    /// Not one namespace could be entered and listed.
    #[error(
        "the UDP sockets of no network namespace can be listed: {0}; svclb must be root, and the kernel needs CONFIG_INET_UDP_DIAG"
    )]
    Nowhere(#[source] io::Error),
    /// The kernel did not walk the map.
    #[error("the rings of the UDP sockets cannot be read: {0}")]
    UdpTranslations(#[source] io::Error),
}

pub(super) fn scan(sockets: &UdpSockets) -> Result<Vec<UdpSocket>, ScanError> {
    // The sockets first: being listed gives them their cookies.
    let connected = connected(sockets)?;
    let records = sockets
        .udp_translations
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
fn connected(sockets: &UdpSockets) -> Result<ByCookie, ScanError> {
    let mut found = ByCookie::new();
    let mut listed = 0_usize;
    let visited = for_each_netns(
        &sockets.places,
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
            path: sockets.places.processes.clone(),
            source,
        },
    })?;
    if listed == 0
        && let Some((_, error)) = failures.pop()
    {
        return Err(ScanError::Nowhere(error));
    }
    sockets.warnings.tell(&failures);
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
