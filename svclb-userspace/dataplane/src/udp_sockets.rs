//! UDP sockets that a Service address connected to a backend: finding them, destroying them.
//!
//! A backend that goes leaves the connected UDP sockets of its clients behind: they have no
//! handshake that could fail, and their peer was set once. Destroying such a socket gives
//! its program an error, and so a reason to connect again. This module finds such sockets in every
//! network namespace and destroys them; the caller decides which.

mod btf;
mod destroy;
mod error;
mod finder;
mod for_each_netns;
mod inet_diag;
mod namespace_id;
mod netns_paths;
mod probe;
mod scan;
mod socket_id;
mod udp_socket;
mod udp_translations;
mod warnings;

pub use destroy::Destroyed;
pub use error::{ScanError, UdpSocketsError};
pub use finder::UdpSockets;
pub use probe::can_destroy;
pub use udp_socket::UdpSocket;
