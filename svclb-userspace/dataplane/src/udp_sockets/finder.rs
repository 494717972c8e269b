//! [`UdpSockets`].

use std::path::Path;

use svclb_common::maps as names;

use super::destroy::{self, Destroyed};
use super::error::{ScanError, UdpSocketsError};
use super::netns_paths::NetnsPaths;
use super::scan;
use super::udp_socket::UdpSocket;
use super::udp_translations::UdpTranslations;
use super::warnings::Warnings;
use crate::error::PinnedError;
use crate::maps::meta;
use crate::pins::Pins;
use crate::sys;

/// The connected UDP sockets of this node, by their entries in `UDP_TRANSLATIONS`.
///
/// A namespace is found if a process is in it or if it has a name in `/run/netns`: the
/// paths of container networks are not known. So svclb must see the node's processes
/// (`hostPID`, in Kubernetes).
#[derive(Debug)]
pub struct UdpSockets {
    udp_translations: UdpTranslations,
    paths: NetnsPaths,
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
        meta::check(pins)?;
        let failed = |source| PinnedError::Map {
            path: pins.dir().to_owned(),
            name: names::UDP_TRANSLATIONS,
            source,
        };
        let map = sys::open_pin(&pins.map(names::UDP_TRANSLATIONS)).map_err(failed)?;
        Ok(Self {
            udp_translations: UdpTranslations::open(&map).map_err(UdpSocketsError::Iterator)?,
            paths: NetnsPaths::default(),
            warnings: Warnings::default(),
        })
    }

    /// Every UDP socket whose peer is a backend that it was given for a Service address, in
    /// no order. A socket that was connected to the backend's own address is not among them, and
    /// neither is one without a peer.
    ///
    /// Blocks for as long as the kernel walks its UDP sockets, once per namespace and
    /// family; the caller's threads stay in their namespace. A namespace that cannot be
    /// entered or listed is a warning. Sockets that open and close meanwhile may make the
    /// kernel pass over another one, so a caller that destroys sockets scans again later.
    ///
    /// Needs CONFIG_INET_UDP_DIAG, `CAP_SYS_ADMIN` and, to look at the namespaces of other
    /// users' processes, `CAP_SYS_PTRACE`.
    ///
    /// # Errors
    /// [`ScanError`].
    pub fn scan(&self) -> Result<Vec<UdpSocket>, ScanError> {
        scan::scan(&self.udp_translations, &self.paths, &self.warnings)
    }

    /// Destroys sockets that [`scan`](Self::scan) found. A process that waits on one of them,
    /// or reads next, gets ECONNABORTED; one that sends gets EDESTADDRREQ, since the socket has no peer.
    ///
    /// A socket is identified by its addresses and its cookie, so a new one with the same addresses
    /// is not touched. Blocks as a scan does. Needs what [`can_destroy`](crate::can_destroy) needs.
    pub fn destroy(&self, sockets: &[UdpSocket]) -> Destroyed {
        destroy::destroy(&self.paths, sockets)
    }
}
