//! UDP sockets that a Service address connected to a backend: finding them, destroying them.
//!
//! A backend that goes leaves the connected UDP sockets of its clients behind: they have no
//! handshake that could fail, and their peer was set once. Destroying such a socket gives
//! its program an error, and so a reason to connect again. Which sockets those are is the
//! caller's to say; here they are found, in every network namespace, and destroyed.

mod btf;
mod destroy;
mod for_each_netns;
mod header;
mod inet_diag;
mod namespace_id;
mod netlink;
mod netns_paths;
mod nlmsg;
mod probe;
mod scan;
mod socket_id;
mod udp_translations;
mod warnings;

use std::net::SocketAddr;
use std::path::Path;
use std::{fmt, io};

use svclb_common::{ABI_VERSION, MAGIC, maps as names};

use crate::pinned::{Pinned, PinnedError};
use crate::pins::Pins;
use crate::sys;

pub use destroy::Destroyed;
use namespace_id::NamespaceId;
use netns_paths::NetnsPaths;
pub use probe::can_destroy;
pub use scan::ScanError;
use socket_id::Identity;
use udp_translations::UdpTranslations;
use warnings::Warnings;

/// A UDP socket that is connected to a backend, or to where it is refused, because it asked
/// for a Service address.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UdpSocket {
    /// The Service address that the program used; an IPv4-mapped one is `V4`.
    pub frontend: SocketAddr,
    /// The backend that the socket is connected to; an IPv4-mapped one is `V4`. `None` if
    /// there was none, and it is connected to where the kernel refuses it (before Linux 5.18).
    pub backend: Option<SocketAddr>,
    namespace: NamespaceId,
    identity: Identity,
}

impl UdpSocket {
    /// The socket's cookie, in host order: never used for another socket (Linux 5.4).
    pub const fn cookie(&self) -> u64 {
        self.identity.cookie()
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocket")
            .field("frontend", &self.frontend)
            .field("backend", &self.backend)
            .field("cookie", &self.cookie())
            .field("namespace", &format_args!("{}", self.namespace))
            .finish()
    }
}

/// The sockets cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum UdpSocketsError {
    /// The pins cannot be read.
    #[error(transparent)]
    Pinned(#[from] PinnedError),
    /// The kernel has no iterator over socket storage, or does not describe it.
    #[error(
        "the rings of UDP sockets cannot be walked: {0}; the kernel must be Linux 5.9 or newer, with CONFIG_DEBUG_INFO_BTF"
    )]
    Iterator(#[source] io::Error),
}

/// The connected UDP sockets of this node, by what `UDP_TRANSLATIONS` says of them.
///
/// A namespace is found if a process is in it or if it has a name in `/run/netns`: nothing
/// here knows the paths of a container network. So svclb must see the node's processes
/// (`hostPID`, in Kubernetes).
#[derive(Debug)]
pub struct UdpSockets {
    udp_translations: UdpTranslations,
    places: NetnsPaths,
    warnings: Warnings,
}

impl UdpSockets {
    /// Opens the pinned map of a running or stopped agent, and loads the program that reads
    /// it. Needs Linux 5.9 with CONFIG_DEBUG_INFO_BTF.
    ///
    /// # Errors
    /// [`UdpSocketsError`].
    pub fn open(pin_dir: &Path) -> Result<Self, UdpSocketsError> {
        Self::of(&Pins::new(pin_dir))
    }

    pub(crate) fn of(pins: &Pins) -> Result<Self, UdpSocketsError> {
        let pin_dir = pins.dir();
        let meta = Pinned::meta(pins)?.ok_or_else(|| PinnedError::Nothing(pin_dir.to_owned()))?;
        let failed = |source| PinnedError::Map {
            path: pin_dir.to_owned(),
            name: names::UDP_TRANSLATIONS,
            source,
        };
        if meta.magic != MAGIC || meta.abi_version != ABI_VERSION {
            Err(PinnedError::OtherAbi {
                path: pin_dir.to_owned(),
                found: meta.abi_version,
                ours: ABI_VERSION,
            })?;
        }
        let map = sys::open_pin(&pins.map(names::UDP_TRANSLATIONS)).map_err(failed)?;
        Ok(Self {
            udp_translations: UdpTranslations::open(&map).map_err(UdpSocketsError::Iterator)?,
            places: NetnsPaths::default(),
            warnings: Warnings::default(),
        })
    }

    /// Every UDP socket whose peer is a backend that it was given for a Service address, in
    /// no order. A socket that means the backend itself is not among them, and neither is
    /// one without a peer.
    ///
    /// Blocks for as long as the kernel walks its UDP sockets, once per namespace and
    /// family; the caller's threads stay in their namespace. A namespace that cannot be
    /// entered or listed is a warning. Sockets that open and close meanwhile may make the
    /// kernel pass over another one: who looks for sockets to destroy looks again later.
    ///
    /// Needs CONFIG_INET_UDP_DIAG, `CAP_SYS_ADMIN` and, to look at the namespaces of other
    /// users' processes, `CAP_SYS_PTRACE`.
    ///
    /// # Errors
    /// [`ScanError`].
    pub fn scan(&self) -> Result<Vec<UdpSocket>, ScanError> {
        scan::scan(self)
    }

    /// Destroys sockets that [`scan`](Self::scan) found. Who waits on one of them, or reads
    /// next, gets ECONNABORTED; it has no peer any more, so who sends gets EDESTADDRREQ.
    ///
    /// A socket is named by its addresses and its cookie, so one that took its place since
    /// is not touched. Blocks as a scan does. Needs what [`can_destroy`] asks for.
    pub fn destroy(&self, sockets: &[UdpSocket]) -> Destroyed {
        destroy::destroy(&self.places, sockets)
    }
}
