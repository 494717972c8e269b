//! The system call itself, and the addresses that it takes.
//!
//! Each structure that is given to it is the part of `union bpf_attr`
//! (include/uapi/linux/bpf.h) that its command reads; the kernel takes what is missing behind
//! it as zero.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use zerocopy::{FromBytes, IntoBytes};

const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;

/// `attr` must be laid out as the command's part of `union bpf_attr`, and every address
/// in it must be valid for what the command does with it.
pub(super) unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<i32> {
    // SAFETY: the caller's promise; the size is the structure's own.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}

/// As [`bpf`], for a command that returns a new descriptor.
pub(super) unsafe fn bpf_fd<T>(command: libc::c_int, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise, and the kernel's that the descriptor is new.
    unsafe { Ok(OwnedFd::from_raw_fd(bpf(command, attr)?)) }
}

pub(super) fn address<T: ?Sized>(value: &T) -> u64 {
    std::ptr::from_ref(value).cast::<u8>() as u64
}

pub(super) fn address_mut<T: ?Sized>(value: &mut T) -> u64 {
    std::ptr::from_mut(value).cast::<u8>() as u64
}

pub(super) fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

#[repr(C)]
struct ObjectPath {
    pathname: u64,
    fd: u32,
    flags: u32,
}

/// Opens what is pinned at a path.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = ObjectPath {
        pathname: address(path.as_bytes_with_nul()),
        fd: 0,
        flags: 0,
    };
    // SAFETY: the path is a C string that lives through the call.
    unsafe { bpf_fd(OBJ_GET, &mut attr) }
}

/// Pins an object at a path in a bpffs.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = ObjectPath {
        pathname: address(path.as_bytes_with_nul()),
        fd: number(object),
        flags: 0,
    };
    // SAFETY: the path is a C string that lives through the call.
    unsafe { bpf(OBJ_PIN, &mut attr).map(drop) }
}

#[repr(C)]
#[derive(Default)]
struct InfoRequest {
    fd: u32,
    len: u32,
    info: u64,
}

/// Reads the kernel's description of an object, as much of it as `T` holds.
pub(super) fn get_info<T: FromBytes + IntoBytes>(
    object: BorrowedFd<'_>,
    info: &mut T,
) -> io::Result<()> {
    let mut attr = InfoRequest {
        fd: number(object),
        len: u32::try_from(size_of::<T>()).unwrap_or(u32::MAX),
        info: address_mut(info),
    };
    // SAFETY: the buffer is as long as its length says, and any bytes are a `T`.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attr).map(drop) }
}
