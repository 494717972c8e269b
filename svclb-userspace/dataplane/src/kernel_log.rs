//! What the programs of a debug build say, in the agent's log.

use std::os::fd::AsFd;
use std::thread;

use aya::Ebpf;
use aya_log::EbpfLogger;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::warn;

/// Logs, on a thread of its own, what the programs write into their ring buffer.
pub(crate) fn follow(ebpf: &mut Ebpf) {
    match EbpfLogger::init(ebpf) {
        Ok(mut said) => drop(thread::spawn(move || {
            loop {
                let mut ring = [PollFd::new(said.as_fd(), PollFlags::POLLIN)];
                match poll(&mut ring, PollTimeout::NONE) {
                    Ok(_) => said.flush(),
                    Err(Errno::EINTR) => {}
                    Err(error) => {
                        warn!("what the programs say is no longer logged: {error}");
                        return;
                    }
                }
            }
        })),
        Err(error) => warn!("the programs of this build say nothing: {error}"),
    }
}
