//! Devices whose packets are a process's (Documentation/networking/tuntap.rst).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, ensure};
use nix::libc;

/// What a process exchanges with such a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TunKind {
    /// IP packets.
    Tun,
    /// Ethernet frames.
    Tap,
}

/// A device of this name in the namespace of the calling thread, made if it is not there. Each
/// `read` is what the kernel sends by it, each `write` what comes in by it.
///
/// # Errors
/// If there is no `/dev/net/tun`, or another process has the device.
pub fn open_tun(name: &str, kind: TunKind) -> Result<File> {
    let mut options = File::options();
    let file = options.read(true).write(true).open("/dev/net/tun");
    let file = file.context("cannot open /dev/net/tun")?;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    };
    ensure!(name.len() < libc::IFNAMSIZ, "{name} is too long a name");
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let flags = match kind {
        TunKind::Tun => libc::IFF_TUN,
        TunKind::Tap => libc::IFF_TAP,
    } | libc::IFF_NO_PI;
    request.ifr_ifru.ifru_flags = flags.try_into().context("the flags are of 16 bits")?;
    // SAFETY: the kernel reads and writes `request`, which is of the type that it wants.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("cannot open {name}"));
    }
    Ok(file)
}
