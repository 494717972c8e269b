//! Which XDP program a device has: one of its driver, or a generic one. The kernel lets no device
//! have both (`dev_xdp_attach` of net/core/dev.c), and a link keeps the mode in which it was made
//! (`bpf_xdp_link_update`). Numbers are those of include/uapi/linux/rtnetlink.h and if_link.h.

use std::io;

use netlink_packet_core::NlasIterator;
use zerocopy::{FromZeros, Immutable, IntoBytes};

use crate::netlink::Netlink;

const RTM_GETLINK: u16 = 18;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;

/// `struct ifinfomsg`: 16 bytes. Attributes follow.
#[repr(C)]
#[derive(FromZeros, Immutable, IntoBytes)]
struct Header {
    family: u8,
    padding: u8,
    kind: u16,
    index: u32,
    flags: u32,
    change: u32,
}

const _: () = assert!(size_of::<Header>() == 16);

/// Whether a device of the caller's network namespace has a generic XDP program.
///
/// # Errors
/// The system's error. ENODEV: the device is gone.
pub(super) fn is_generic(index: u32) -> io::Result<bool> {
    let request = Header {
        index,
        ..Header::new_zeroed()
    };
    let mut is_generic = false;
    Netlink::route()?.get(RTM_GETLINK, request.as_bytes(), |payload| {
        let attributes = payload.get(size_of::<Header>()..).unwrap_or_default();
        is_generic |= has_generic(attributes);
    })?;
    Ok(is_generic)
}

/// Whether the attributes of a device have the number of a generic XDP program.
fn has_generic(attributes: &[u8]) -> bool {
    let xdp = find(attributes, IFLA_XDP).unwrap_or_default();
    find(&xdp, IFLA_XDP_SKB_PROG_ID).is_some()
}

/// The value of an attribute.
fn find(attributes: &[u8], kind: u16) -> Option<Vec<u8>> {
    NlasIterator::new(attributes)
        .filter_map(Result::ok)
        .find(|attribute| attribute.kind() == kind)
        .map(|attribute| attribute.value().to_vec())
}
