//! A connected UDP socket that was found.

use std::fmt;
use std::net::SocketAddr;

use super::namespace_id::NamespaceId;
use super::socket_id::Identity;

/// A UDP socket that is connected to a backend, or to where it is refused, because its
/// program connected it to a Service address.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UdpSocket {
    /// The Service address that the program used; an IPv4-mapped one is `V4`.
    pub frontend: SocketAddr,
    /// The backend that the socket is connected to; an IPv4-mapped one is `V4`. `None` if
    /// there was none, and it is connected to where the kernel refuses it (before Linux 5.18).
    pub backend: Option<SocketAddr>,
    pub(super) namespace: NamespaceId,
    pub(super) identity: Identity,
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
