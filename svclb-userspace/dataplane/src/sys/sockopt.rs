//! Socket options whose value the caller gives a part of.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// getsockopt(2): the kernel reads the request that is in `value`, and replaces it by its reply.
pub(crate) fn getsockopt(
    socket: impl AsFd,
    level: i32,
    option: i32,
    value: &mut [u8],
) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads and writes at most `length` bytes at `value`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
