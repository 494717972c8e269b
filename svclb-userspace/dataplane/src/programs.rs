//! The names of the programs in the object, in the order in which they are attached.

/// A program and where it attaches.
#[derive(Debug)]
pub struct SocketProgram {
    /// Its name: of the function in the object, and of the pinned link.
    pub name: &'static str,
    /// `enum bpf_attach_type` (include/uapi/linux/bpf.h).
    pub(crate) attach_type: u32,
}

const fn program(name: &'static str, attach_type: u32) -> SocketProgram {
    SocketProgram { name, attach_type }
}

/// The socket programs. Those that translate back are attached first and so are there
/// before anything is translated.
pub const PROGRAMS: [SocketProgram; 9] = [
    program("svclb_sock_release", 34),
    program("svclb_getpeername4", 29),
    program("svclb_getpeername6", 30),
    program("svclb_recvmsg4", 19),
    program("svclb_recvmsg6", 20),
    program("svclb_sendmsg4", 14),
    program("svclb_sendmsg6", 15),
    program("svclb_connect4", 10),
    program("svclb_connect6", 11),
];

pub(crate) const XDP: &str = "svclb_xdp";
pub(crate) const INGRESS: &str = "svclb_ingress";
pub(crate) const EGRESS: &str = "svclb_egress";

/// The packet programs. The one that translates back is attached first.
pub(crate) const PACKET_PROGRAMS: [&str; 3] = [EGRESS, INGRESS, XDP];
