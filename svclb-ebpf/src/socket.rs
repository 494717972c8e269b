//! Sockets of this node: a Service address becomes a backend before there is a packet, and the
//! program is shown the Service address again.
//!
//! | file | what is there |
//! |---|---|
//! | `connect` | connect and sendmsg: Service address → backend |
//! | `reverse` | recvmsg and getpeername: backend → Service address; the release of a socket |
//! | `refuse` | ECONNREFUSED for a Service without endpoints |
//! | `source_ranges` | whether a socket may use a load balancer's address |
//! | `peers` | the peer of a TCP socket, in an array |
//! | `udp_translations` | the translations of a UDP socket, in socket-local storage |
//! | `call`, `family` | what differs between connect and sendmsg, and between IPv4 and IPv6 |
//! | `log` | what a debug build logs |

mod call;
pub(crate) mod connect;
pub(crate) mod family;
mod log;
mod peers;
mod refuse;
pub(crate) mod reverse;
mod source_ranges;
mod udp_translations;

pub(crate) use call::{Connect, Send};
