//! The process in a pod that opens sockets there, and how a lab talks to it.
//!
//! One line of JSON each way: a [`Request`] down its standard input, what came of it up
//! its standard output.

mod client;
mod load;
mod protocol;
mod serve;
mod sockets;
mod worker;

pub use client::{Peer, PeerSocket, peer_binary};
pub use protocol::{
    Answer, Connected, Failure, Kind, Latency, Received, Request, Tally, Target, Transport,
};
pub use sockets::{ask, repeat};
pub use worker::work;

pub(crate) use crate::netns::enter;

/// Moves this process into a pod: its cgroup, and (the calling thread, so call it before
/// any other is started) its network namespace.
///
/// # Errors
/// If either does not exist or this is not root.
pub fn enter_pod(netns: &std::path::Path, cgroup: &std::path::Path) -> anyhow::Result<()> {
    crate::cgroup::join(cgroup, std::process::id())?;
    enter(netns)
}
