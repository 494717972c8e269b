//! How sock_diag(7) identifies a socket, and the request about one. The structures are those
//! of include/uapi/linux/inet_diag.h; ports and addresses are in network order, everything
//! else is in host order.

use svclb_common::{Addr16, PortBe};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;
const IPPROTO_UDP: u8 = 17;

/// `struct inet_diag_sockid`: 48 bytes. The source is the socket's own address, and the
/// destination its peer; an IPv4 address stands in the first word.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(super) struct SocketId {
    source_port: PortBe,
    destination_port: PortBe,
    source: [u32; 4],
    destination: [u32; 4],
    interface: u32,
    cookie: [u32; 2],
}

/// `struct inet_diag_req_v2`: 56 bytes.
#[repr(C)]
#[derive(IntoBytes, Immutable, KnownLayout)]
pub(super) struct Request {
    family: u8,
    protocol: u8,
    extensions: u8,
    padding: u8,
    states: u32,
    id: SocketId,
}

const _: () = assert!(size_of::<SocketId>() == 48 && size_of::<Request>() == 56);

/// What names a socket in its namespace: its addresses and its cookie.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    family: u8,
    id: SocketId,
}

impl Identity {
    pub(super) const fn new(family: u8, id: SocketId) -> Self {
        Self { family, id }
    }

    /// No socket, or all of a family.
    pub(super) fn any(family: u8) -> Self {
        Self::new(family, SocketId::new_zeroed())
    }

    pub(super) const fn cookie(&self) -> u64 {
        let [low, high] = self.id.cookie;
        low as u64 | (high as u64) << 32
    }

    /// The socket's own address and port.
    pub(super) const fn local(&self) -> (Addr16, PortBe) {
        (self.addr(self.id.source), self.id.source_port)
    }

    /// The address and port that it is connected to.
    pub(super) const fn peer(&self) -> (Addr16, PortBe) {
        (self.addr(self.id.destination), self.id.destination_port)
    }

    const fn addr(&self, words: [u32; 4]) -> Addr16 {
        match self.family {
            AF_INET => Addr16::from_v4_word(words[0]),
            _ => Addr16::from_words(words),
        }
    }

    /// A request about the UDP sockets in some states, as bits.
    pub(super) const fn request(&self, states: u32) -> Request {
        Request {
            family: self.family,
            protocol: IPPROTO_UDP,
            extensions: 0,
            padding: 0,
            states,
            id: self.id,
        }
    }
}
