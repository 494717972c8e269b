//! Listing and destroying UDP sockets by sock_diag(7). The structures and numbers are those of
//! include/uapi/linux/inet_diag.h and sock_diag.h.

use std::io;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::socket_id::{AF_INET, AF_INET6, Identity, SocketId};
use crate::netlink::Netlink;

/// `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY`.
const LIST: u16 = 20;
const DESTROY: u16 = 21;

/// `1 << TCP_ESTABLISHED` (include/net/tcp_states.h): UDP sockets that have a peer.
const WITH_PEER: u32 = 1 << 1;

/// How often a list is requested that changes while the kernel makes it.
const TRIES: u32 = 5;

/// `struct inet_diag_msg`: 72 bytes. Attributes follow.
#[repr(C)]
#[derive(FromBytes, Immutable, KnownLayout)]
struct Message {
    family: u8,
    state: u8,
    timer: u8,
    retransmissions: u8,
    id: SocketId,
    /// Timer, queues, owner and inode.
    unused: [u32; 5],
}

const _: () = assert!(size_of::<Message>() == 72);

/// The UDP sockets that have a peer, of both families. One may be there twice, or be passed
/// over, if others come and go meanwhile.
pub(super) fn list(netlink: &mut Netlink) -> io::Result<Vec<Identity>> {
    let mut sockets = list_family(netlink, AF_INET)?;
    sockets.extend(list_family(netlink, AF_INET6)?);
    Ok(sockets)
}

fn list_family(netlink: &mut Netlink, family: u8) -> io::Result<Vec<Identity>> {
    let request = Identity::any(family).request(WITH_PEER);
    let mut tries = 1;
    loop {
        let mut sockets = Vec::new();
        let listed = netlink.dump(LIST, request.as_bytes(), |payload| {
            let message = Message::read_from_prefix(payload).ok();
            sockets.extend(message.map(|(m, _)| Identity::new(m.family, m.id)));
        });
        match listed {
            Ok(()) => return Ok(sockets),
            Err(error) if error.kind() == io::ErrorKind::Interrupted && tries < TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Destroys a socket. ENOENT or ESTALE: no socket has its addresses, or none of that
/// cookie; EOPNOTSUPP: the kernel cannot.
pub(super) fn destroy(netlink: &mut Netlink, socket: &Identity) -> io::Result<()> {
    netlink.command(DESTROY, socket.request(WITH_PEER).as_bytes())
}
