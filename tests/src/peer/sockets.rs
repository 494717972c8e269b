//! Client sockets: the calls that programs make, each with its error by name.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::protocol::{Answer, Failure, Kind, Latency, Received, Tally, Transport};

/// How long a call may take before the lab calls it lost. A second of it is the kernel's own where an
/// address is unreachable: between two namespaces of one machine the first SYN's ICMP error comes back
/// while `connect` still holds the socket, which TCP ignores, and that of the second SYN counts.
const LIMIT: Duration = Duration::from_secs(2);

/// What a server says of itself and of the client.
#[derive(Serialize, Deserialize)]
pub(super) struct Greeting {
    pub(super) backend: String,
    pub(super) port: u16,
    pub(super) client: SocketAddr,
    pub(super) echoed: String,
}

pub(super) fn failure(during: &str, start: Instant, error: &io::Error) -> Failure {
    let errno = error.raw_os_error().map_or_else(
        || error.kind().to_string(),
        |raw| format!("{:?}", Errno::from_raw(raw)),
    );
    Failure {
        during: during.to_owned(),
        errno,
        nanos: u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX),
    }
}

fn timed<T>(during: &str, call: impl FnOnce() -> io::Result<T>) -> Result<(T, u64), Failure> {
    let start = Instant::now();
    match call() {
        Ok(value) => {
            let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            Ok((value, nanos))
        }
        Err(error) => Err(failure(during, start, &error)),
    }
}

/// `socket(2)`.
pub(super) fn make(transport: Transport, v6: bool) -> io::Result<Socket> {
    let (kind, protocol) = match transport {
        Transport::Tcp => (Type::STREAM, 6),
        Transport::Mptcp => (Type::STREAM, 262),
        Transport::Udp => (Type::DGRAM, 17),
        Transport::UdpLite => (Type::DGRAM, 136),
    };
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    Socket::new(domain, kind, Some(Protocol::from(protocol)))
}

/// A client socket with the lab's time limits.
pub(super) fn open(kind: Kind, v6: bool) -> Result<Socket, Failure> {
    let (socket, _) = timed("socket", || {
        let socket = make(kind.transport, v6 || kind.mapped)?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.set_write_timeout(Some(LIMIT))?;
        Ok(socket)
    })?;
    Ok(socket)
}

/// The destination in the form that the socket's family wants.
pub(super) fn destination(kind: Kind, to: SocketAddr) -> SocketAddr {
    match to.ip() {
        IpAddr::V4(ip) if kind.mapped => SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()),
        _ => to,
    }
}

/// `bind(2)`. Further sockets may have the same address, if each is connected to another.
pub(super) fn bind(socket: &Socket, at: SocketAddr) -> Result<(), Failure> {
    let ((), _) = timed("bind", || {
        socket.set_reuse_address(true)?;
        socket.bind(&at.into())
    })?;
    Ok(())
}

/// Makes closing a socket forget it at once (`SO_LINGER`).
pub(super) fn abort(socket: &Socket) -> Result<(), Failure> {
    let ((), _) = timed("abort", || socket.set_linger(Some(Duration::ZERO)))?;
    Ok(())
}

/// `connect(2)`; answers how long it took.
pub(super) fn connect(socket: &Socket, kind: Kind, to: SocketAddr) -> Result<u64, Failure> {
    let to = destination(kind, to).into();
    let ((), nanos) = timed("connect", || {
        if !kind.nonblocking {
            return socket.connect(&to);
        }
        socket.set_nonblocking(true)?;
        let result = match socket.connect(&to) {
            Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {
                finish_connect(socket)
            }
            result => result,
        };
        socket.set_nonblocking(false)?;
        result
    })?;
    Ok(nanos)
}

fn finish_connect(socket: &Socket) -> io::Result<()> {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    let limit = PollTimeout::try_from(LIMIT).unwrap_or(PollTimeout::MAX);
    if poll(&mut fds, limit)? == 0 {
        return Err(Errno::EINPROGRESS.into());
    }
    socket.take_error()?.map_or(Ok(()), Err)
}

/// Sends a line, or a datagram to the address if one is given.
pub(super) fn send(socket: &Socket, to: Option<SocketAddr>, text: &str) -> Result<(), Failure> {
    let line = format!("{text}\n");
    let (_, _) = timed("send", || match to {
        Some(to) => socket.send_to(line.as_bytes(), &to.into()).map(drop),
        None => (&mut &*socket).write_all(line.as_bytes()),
    })?;
    Ok(())
}

/// Receives one answer.
pub(super) fn receive(socket: &Socket, stream: bool) -> Result<Received, Failure> {
    let start = Instant::now();
    let (text, from) = if stream {
        (
            read_line(socket).map_err(|e| failure("receive", start, &e))?,
            None,
        )
    } else {
        let ((text, from), _) = timed("receive", || read_datagram(socket))?;
        (text, from)
    };
    let greeting: Greeting = serde_json::from_slice(&text)
        .map_err(|error| failure("receive", start, &io::Error::other(error)))?;
    Ok(Received {
        backend: greeting.backend,
        port: greeting.port,
        client: greeting.client,
        echoed: greeting.echoed,
        from,
    })
}

fn read_line(mut socket: &Socket) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut chunk = [0; 512];
    while !line.ends_with(b"\n") {
        match socket.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => line.extend(chunk.iter().take(count)),
        }
    }
    Ok(line)
}

fn read_datagram(socket: &Socket) -> io::Result<(Vec<u8>, Option<SocketAddr>)> {
    let mut space = vec![0; 4096];
    // The standard library's type has the safe `recvfrom`; the descriptor's copy is the
    // same socket.
    let (count, from) = UdpSocket::from(socket.try_clone()?).recv_from(&mut space)?;
    space.truncate(count);
    Ok((space, Some(from)))
}

/// One question on a socket of its own.
///
/// # Errors
/// Which call failed and how.
pub fn ask(kind: Kind, to: SocketAddr) -> Result<Answer, Failure> {
    let socket = open(kind, to.is_ipv6())?;
    let stream = kind.transport.is_stream();
    let mut connect_nanos = 0;
    let mut peer_name = None;
    if kind.connected {
        connect_nanos = connect(&socket, kind, to)?;
        peer_name = Some(name("getpeername", || socket.peer_addr())?);
        send(&socket, None, "hello")?;
    } else {
        send(&socket, Some(destination(kind, to)), "hello")?;
    }
    let received = receive(&socket, stream)?;
    Ok(Answer {
        backend: received.backend,
        port: received.port,
        client: received.client,
        peer_name,
        from: received.from,
        connect_nanos,
    })
}

/// Many questions, one after the other; no more after three that were lost.
pub fn repeat(kind: Kind, to: SocketAddr, times: u32) -> Tally {
    let mut count = Count::default();
    let mut lost = 0;
    for _ in 0..times {
        let result = ask(kind, to);
        if result.as_ref().is_err_and(Failure::is_time_out) {
            lost += 1;
        }
        count.add(kind, to, result);
        if lost == 3 {
            break;
        }
    }
    count.tally()
}

/// `getpeername(2)` or `getsockname(2)`.
pub(super) fn name(
    during: &str,
    call: impl FnOnce() -> io::Result<SockAddr>,
) -> Result<SocketAddr, Failure> {
    let (name, _) = timed(during, || {
        call()?
            .as_socket()
            .ok_or_else(|| io::Error::other("no address of an IP family"))
    })?;
    Ok(name)
}

/// A tally in the making.
#[derive(Default)]
pub(super) struct Count {
    tally: Tally,
    nanos: Vec<u64>,
}

impl Count {
    pub(super) fn add(&mut self, kind: Kind, to: SocketAddr, result: Result<Answer, Failure>) {
        match result {
            Ok(answer) => {
                let asked = Some(destination(kind, to));
                let named = |name: Option<SocketAddr>| name.is_none() || name == asked;
                if !named(answer.peer_name) || !named(answer.from) {
                    self.tally.wrong_names += 1;
                }
                *self.tally.answers.entry(answer.backend).or_default() += 1;
                if kind.connected {
                    self.nanos.push(answer.connect_nanos);
                }
            }
            Err(failure) => {
                *self.tally.failures.entry(failure.to_string()).or_default() += 1;
            }
        }
    }

    pub(super) fn tally(self) -> Tally {
        Tally {
            connect: Latency::of(self.nanos),
            ..self.tally
        }
    }
}

/// Sends until the time is over, from each of the sockets in turn.
pub(super) fn flood(to: SocketAddr, flows: u32, time: Duration) -> Result<u64, Failure> {
    let begun = Instant::now();
    let kind = Kind::new(Transport::Udp);
    let mut sockets = Vec::new();
    for _ in 0..flows.max(1) {
        let socket = open(kind, to.is_ipv6())?;
        connect(&socket, kind, to)?;
        sockets.push(socket);
    }
    let mut sent = 0;
    while begun.elapsed() < time {
        for socket in &sockets {
            // An ICMP error for a closed port may arrive meanwhile: it is ignored.
            sent += u64::from(socket.send(b"x").is_ok());
        }
    }
    Ok(sent)
}
