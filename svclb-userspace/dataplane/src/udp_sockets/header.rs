//! The header of a netlink message.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct nlmsghdr`, in host order. The length is with the header.
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(super) struct Header {
    pub(super) len: u32,
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    pub(super) port: u32,
}
