//! Whether this kernel destroys UDP sockets: tried, never guessed from its version.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use svclb_common::{Addr16, PortBe};

use super::inet_diag;
use crate::netlink::Netlink;

/// Whether UDP sockets can be listed and destroyed: CONFIG_INET_UDP_DIAG and
/// CONFIG_INET_DIAG_DESTROY (Linux 4.9), and `CAP_NET_ADMIN`.
///
/// Destroys a connected UDP socket of its own, on 127.0.0.1 in the caller's network
/// namespace, where the loopback interface must be up. Why not is logged at debug level.
pub fn can_destroy() -> bool {
    match try_it() {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!("a UDP socket made for the purpose could not be destroyed: {error}");
            false
        }
    }
}

fn try_it() -> io::Result<()> {
    // The first keeps the port, so that the second is connected to no other socket.
    let kept = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let victim = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    victim.connect(kept.local_addr()?)?;
    let local = end(victim.local_addr()?);
    let peer = end(victim.peer_addr()?);
    let mut netlink = Netlink::sock_diag()?;
    let listed = inet_diag::list(&mut netlink)?;
    let identity = listed
        .iter()
        .find(|socket| socket.local() == local && socket.peer() == peer)
        .ok_or_else(|| io::Error::other("the kernel does not list it"))?;
    inet_diag::destroy(&mut netlink, identity)?;
    match victim.take_error()? {
        Some(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(()),
        _ => Err(io::Error::other("it was not destroyed")),
    }
}

fn end(address: SocketAddr) -> (Addr16, PortBe) {
    (address.ip().into(), PortBe::new(address.port()))
}
