//! Links: programs attached to cgroups and network devices.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use zerocopy::{FromBytes, IntoBytes};

use super::call::{bpf, bpf_fd, get_info, number};

pub(super) const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;
const LINK_DETACH: libc::c_int = 34;

#[repr(C)]
#[derive(Default, FromBytes, IntoBytes)]
struct CgroupLinkInfo {
    link_type: u32,
    id: u32,
    program: u32,
    reserved: u32,
    cgroup: u64,
    attach_type: u32,
    padding: u32,
}

/// The id of the cgroup that a link is attached to; zero if the cgroup is gone.
pub(crate) fn link_cgroup(link: BorrowedFd<'_>) -> io::Result<u64> {
    let mut info = CgroupLinkInfo::default();
    get_info(link, &mut info)?;
    Ok(info.cgroup)
}

#[repr(C)]
pub(super) struct LinkCreate {
    pub(super) program: u32,
    pub(super) target: u32,
    pub(super) attach_type: u32,
    pub(super) flags: u32,
}

/// Attaches a program to a cgroup, beside whatever else is attached there (Linux 5.7).
pub(crate) fn create_link(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    link(program, number(cgroup), attach_type, 0)
}

/// Attaches a program to a network device (XDP: Linux 5.9, tcx: 6.6).
pub(crate) fn create_device_link(
    program: BorrowedFd<'_>,
    device: u32,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    link(program, device, attach_type, flags)
}

fn link(program: BorrowedFd<'_>, target: u32, attach_type: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attr = LinkCreate {
        program: number(program),
        target,
        attach_type,
        flags,
    };
    // SAFETY: no addresses.
    unsafe { bpf_fd(LINK_CREATE, &mut attr) }
}

/// Replaces a link's program, without a moment in which there is none (Linux 5.7).
pub(crate) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = [number(link), number(program), 0, 0];
    // SAFETY: no addresses.
    unsafe { bpf(LINK_UPDATE, &mut attr).map(drop) }
}

/// Detaches a link, also if other processes hold it (Linux 5.9).
pub(crate) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = number(link);
    // SAFETY: no addresses.
    unsafe { bpf(LINK_DETACH, &mut attr).map(drop) }
}
