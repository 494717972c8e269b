//! The names of the programs in the object, in the order in which they are attached.

use crate::options::Forwarding;

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

pub(crate) const INGRESS_L3: &str = "svclb_ingress_l3";
pub(crate) const EGRESS_L3: &str = "svclb_egress_l3";
pub(crate) const INGRESS_DIRECT: &str = "svclb_ingress_direct";

/// The packet programs where the kernel forwards.
const KERNEL_PROGRAMS: [&str; 4] = [EGRESS, EGRESS_L3, INGRESS, INGRESS_L3];
/// All packet programs: pods' devices, and those without an Ethernet header, have the same in both modes.
pub(crate) const PACKET_PROGRAMS: [&str; 6] =
    [EGRESS, EGRESS_L3, INGRESS, INGRESS_L3, INGRESS_DIRECT, XDP];

/// The packet programs that a mode attaches.
pub(crate) const fn packet_programs(forwarding: Forwarding) -> &'static [&'static str] {
    match forwarding {
        Forwarding::Kernel => &KERNEL_PROGRAMS,
        Forwarding::Direct => &PACKET_PROGRAMS,
    }
}
