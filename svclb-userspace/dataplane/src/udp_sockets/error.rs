//! Why sockets cannot be found.

use std::io;
use std::path::PathBuf;

use crate::error::PinnedError;

/// The UDP sockets cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum UdpSocketsError {
    /// The pins cannot be read.
    #[error(transparent)]
    Pinned(#[from] PinnedError),
    /// The kernel has no iterator over socket storage, or does not describe it.
    #[error(
        "the translations of UDP sockets cannot be read: {0}; the kernel must be Linux 5.9 or newer, with CONFIG_DEBUG_INFO_BTF"
    )]
    Iterator(#[source] io::Error),
}

/// The sockets could not be listed at all.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The list of processes cannot be read.
    #[error("the processes in {path} cannot be listed: {source}; mount /proc", path = .path.display())]
    Processes {
        /// Where they were looked for.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No thread could be started.
    #[error("no thread can be started to enter network namespaces: {0}")]
    Thread(#[source] io::Error),
    /// Not one namespace could be entered and listed.
    #[error(
        "the UDP sockets of no network namespace can be listed: {0}; svclb must be root, and the kernel needs CONFIG_INET_UDP_DIAG"
    )]
    Nowhere(#[source] io::Error),
    /// The kernel did not walk the map.
    #[error("the translations of UDP sockets cannot be read: {0}")]
    UdpTranslations(#[source] io::Error),
}
