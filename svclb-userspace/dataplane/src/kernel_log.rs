//! The log lines of the programs of a debug build, in the agent's log.

use std::os::fd::AsFd;
use std::thread;

use aya::Ebpf;
use aya_log::EbpfLogger;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::warn;

/// Logs, on a thread of its own, what the programs write into their ring buffer.
pub(crate) fn forward(ebpf: &mut Ebpf) {
    match EbpfLogger::init(ebpf) {
        Ok(mut logger) => drop(thread::spawn(move || {
            loop {
                let mut ring = [PollFd::new(logger.as_fd(), PollFlags::POLLIN)];
                match poll(&mut ring, PollTimeout::NONE) {
                    Ok(_) => logger.flush(),
                    Err(Errno::EINTR) => {}
                    Err(error) => {
                        warn!("the log of the eBPF programs ended: {error}");
                        return;
                    }
                }
            }
        })),
        Err(error) => warn!("the log of the eBPF programs cannot be read: {error}"),
    }
}
