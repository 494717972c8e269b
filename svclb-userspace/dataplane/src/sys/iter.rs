//! Iterators over the elements of a map.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::call::{address, bpf_fd, number};
use super::link::{LINK_CREATE, LinkCreate};
use super::prog::{Kind, load};

const ITER_CREATE: libc::c_int = 33;

/// `BPF_TRACE_ITER`.
const TRACE_ITER: u32 = 28;

/// Loads an iterator program; `target` is the id of its `bpf_iter_` function in the kernel's
/// BTF (Linux 5.8).
pub(crate) fn load_iterator(instructions: &[u64], target: u32) -> io::Result<OwnedFd> {
    const TRACING: u32 = 26;
    let kind = Kind {
        program: TRACING,
        attach: TRACE_ITER,
        btf_id: target,
    };
    load(instructions, &kind)
}

#[repr(C)]
struct IteratorLink {
    link: LinkCreate,
    info: u64,
    info_len: u32,
    reserved: u32,
}

/// Ties an iterator program to the map whose elements it is run for (Linux 5.9).
pub(crate) fn link_iterator(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // `union bpf_iter_link_info`.
    let info = number(map);
    let mut attr = IteratorLink {
        link: LinkCreate {
            program: number(program),
            target: 0,
            attach_type: TRACE_ITER,
            flags: 0,
        },
        info: address(&info),
        info_len: 4,
        reserved: 0,
    };
    // SAFETY: the information is four bytes and lives through the call.
    unsafe { bpf_fd(LINK_CREATE, &mut attr) }
}

/// A file that runs the iterator as it is read (Linux 5.8).
pub(crate) fn start_iterator(link: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = [number(link), 0];
    // SAFETY: no addresses.
    unsafe { bpf_fd(ITER_CREATE, &mut attr) }
}
