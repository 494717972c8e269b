//! What a lab asks of a peer, and what it gets back.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What `socket(2)` is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// `IPPROTO_TCP`.
    Tcp,
    /// `IPPROTO_MPTCP` (262, Linux 5.6, a build option).
    Mptcp,
    /// `IPPROTO_UDP`.
    Udp,
    /// `IPPROTO_UDPLITE` (136, removed in Linux 7.0).
    UdpLite,
}

impl Transport {
    /// Whether it carries a stream.
    pub fn is_stream(self) -> bool {
        matches!(self, Self::Tcp | Self::Mptcp)
    }
}

/// A kind of client socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Kind {
    /// Its protocol.
    pub transport: Transport,
    /// An `AF_INET6` socket whatever the destination's family: IPv4 destinations are
    /// given as mapped addresses (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2).
    pub mapped: bool,
    /// `connect` before sending; a datagram socket may do without.
    pub connected: bool,
    /// Connect without blocking, then wait for the result.
    pub nonblocking: bool,
}

impl Kind {
    /// A connected socket of the destination's family.
    pub const fn new(transport: Transport) -> Self {
        Self {
            transport,
            mapped: false,
            connected: true,
            nonblocking: false,
        }
    }

    /// The same on an `AF_INET6` socket.
    #[must_use]
    pub const fn mapped(mut self) -> Self {
        self.mapped = true;
        self
    }

    /// The same without `connect`: every datagram names its destination.
    #[must_use]
    pub const fn unconnected(mut self) -> Self {
        self.connected = false;
        self
    }

    /// The same with a connect that does not block.
    #[must_use]
    pub const fn nonblocking(mut self) -> Self {
        self.nonblocking = true;
        self
    }
}

impl From<Transport> for Kind {
    fn from(transport: Transport) -> Self {
        Self::new(transport)
    }
}

/// Whom a load asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Target {
    /// By which kind of socket.
    pub kind: Kind,
    /// At which address.
    pub to: SocketAddr,
    /// At which of a backend's ports the answer has to be given; any, if none.
    pub port: Option<u16>,
}

/// One order to a peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the arguments of the methods of `Peer` that send them"
)]
pub enum Request {
    /// Answer at a port of every address, in both families. Answers nothing.
    Serve { transport: Transport, port: u16 },
    /// Close the server there. The reply is how long ago the last client came, in microseconds.
    Withdraw { transport: Transport, port: u16 },
    /// Make a socket. Answers its number.
    Open { kind: Kind, v6: bool },
    /// Bind a socket to an address, which others may have as well. Answers nothing.
    Bind { socket: u32, at: SocketAddr },
    /// Connect a socket. Answers [`Connected`].
    Connect { socket: u32, to: SocketAddr },
    /// Send a datagram or a line. Answers nothing.
    Send {
        socket: u32,
        to: Option<SocketAddr>,
        text: String,
    },
    /// Receive one answer. Answers [`Received`].
    Receive { socket: u32 },
    /// `getpeername`. Answers an address.
    PeerName { socket: u32 },
    /// `getsockname`. Answers an address.
    LocalName { socket: u32 },
    /// Close a socket. Answers nothing.
    Close { socket: u32 },
    /// The same at once, with an RST of TCP. Answers nothing.
    Abort { socket: u32 },
    /// One question on a socket of its own. Answers [`Answer`].
    Ask { kind: Kind, to: SocketAddr },
    /// Many of them, one after the other. Answers [`Tally`].
    Repeat {
        kind: Kind,
        to: SocketAddr,
        times: u32,
    },
    /// Go on asking in the background until `StopLoad`. The reply is empty.
    StartLoad { targets: Vec<Target>, pause_us: u64 },
    /// Leave most of a processor to whatever else wants it, from now on. Answers nothing.
    Yield,
    /// What the background questions got since the last time. Answers [`Tally`].
    TakeLoad,
    /// The same, and stop.
    StopLoad,
    /// Send datagrams of one byte from so many sockets, as fast as one thread can. Answers how
    /// many were sent.
    Flood {
        to: SocketAddr,
        flows: u32,
        milliseconds: u64,
    },
    /// HTTP/1.1 GET. Answers status and body.
    Get { at: SocketAddr, path: String },
    /// Stay when the standard input ends. Answers nothing.
    Stay,
}

/// Which call failed, and how.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// `socket`, `connect`, `send`, `receive`, …
    pub during: String,
    /// The error's name as in `errno(3)`. A time-out of the lab's own 2 s is
    /// `EINPROGRESS` at connect and `EAGAIN` at receive.
    pub errno: String,
    /// How long the call took, in nanoseconds.
    pub nanos: u64,
}

impl Failure {
    /// The same, with who was asked.
    #[must_use]
    pub fn of(mut self, kind: Kind, to: SocketAddr) -> Self {
        let connected = if kind.connected { "" } else { "unconnected " };
        self.during = format!("{connected}{:?} to {to}: {}", kind.transport, self.during);
        self
    }

    /// Whether the lab gave up waiting, so that nothing at all came back.
    pub fn is_time_out(&self) -> bool {
        matches!(
            (self.during.as_str(), self.errno.as_str()),
            ("connect", "EINPROGRESS") | ("receive", "EAGAIN")
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.during, self.errno)
    }
}

impl std::error::Error for Failure {}

/// A connect that succeeded.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Connected {
    /// How long `connect` took, in nanoseconds.
    pub nanos: u64,
}

/// A datagram or a line that arrived.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Received {
    /// Which server sent it.
    pub backend: String,
    /// The port at which it serves.
    pub port: u16,
    /// What the server saw as the client's address.
    pub client: SocketAddr,
    /// What the server received.
    pub echoed: String,
    /// Whom `recvfrom` names as the sender; none on a stream.
    pub from: Option<SocketAddr>,
}

/// One question and its answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// Which server answered.
    pub backend: String,
    /// The port at which it serves.
    pub port: u16,
    /// What the server saw as the client's address.
    pub client: SocketAddr,
    /// `getpeername`; none on an unconnected socket.
    pub peer_name: Option<SocketAddr>,
    /// Whom `recvfrom` names as the sender; none on a stream.
    pub from: Option<SocketAddr>,
    /// How long `connect` took, in nanoseconds; zero without one.
    pub connect_nanos: u64,
}

/// What many questions got.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Answers by server.
    pub answers: BTreeMap<String, u64>,
    /// Failures by call and error.
    pub failures: BTreeMap<String, u64>,
    /// Answers in which `getpeername` or `recvfrom` named another address than the one
    /// that was asked.
    pub wrong_names: u64,
    /// How long the successful connects took.
    pub connect: Latency,
}

impl Tally {
    /// How many questions were answered.
    pub fn answered(&self) -> u64 {
        self.answers.values().sum()
    }

    /// How many were not.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

/// Of a set of durations, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// The median.
    pub p50: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

impl Latency {
    /// Of these, in any order.
    pub fn of(mut nanos: Vec<u64>) -> Self {
        nanos.sort_unstable();
        let at = |part: usize| {
            let index = (nanos.len() * part / 100).min(nanos.len().saturating_sub(1));
            nanos.get(index).copied().unwrap_or_default()
        };
        Self {
            p50: at(50),
            p99: at(99),
            max: nanos.last().copied().unwrap_or_default(),
        }
    }
}
