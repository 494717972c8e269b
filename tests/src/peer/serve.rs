//! Servers: each replies with its name, its client's address and what it received.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::Socket;

use super::protocol::{Failure, Transport};
use super::sockets::{Greeting, failure, make};

/// A port of every address, in both families, which is served until it is stopped.
pub(super) struct Server {
    shared: Arc<Shared>,
    listeners: Vec<(Socket, JoinHandle<()>)>,
    transport: Transport,
}

/// What the threads of a server know.
struct Shared {
    backend: String,
    port: u16,
    started: Instant,
    /// When the last client came, in microseconds since the start; zero if none did.
    last_us: AtomicU64,
    stopped: AtomicBool,
}

impl Shared {
    fn greeting(&self, client: SocketAddr, echoed: String) -> Greeting {
        Greeting {
            backend: self.backend.clone(),
            port: self.port,
            client,
            echoed,
        }
    }

    /// Notes that a client came.
    fn came(&self) {
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last_us.store(micros.max(1), Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

impl Server {
    /// Answers from now on.
    pub(super) fn start(backend: &str, transport: Transport, port: u16) -> Result<Self, Failure> {
        let mut server = Self {
            shared: Arc::new(Shared {
                backend: backend.to_owned(),
                port,
                started: Instant::now(),
                last_us: AtomicU64::new(0),
                stopped: AtomicBool::new(false),
            }),
            listeners: Vec::new(),
            transport,
        };
        for any in [
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
        ] {
            let start = Instant::now();
            server
                .listen(any)
                .map_err(|error| failure("serve", start, &error))?;
        }
        Ok(server)
    }

    fn listen(&mut self, at: SocketAddr) -> io::Result<()> {
        let transport = self.transport;
        let socket = make(transport, at.is_ipv6())?;
        socket.set_reuse_address(true)?;
        if at.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&at.into())?;
        let shared = Arc::clone(&self.shared);
        let thread = if transport.is_stream() {
            socket.listen(1024)?;
            let listener = TcpListener::from(socket.try_clone()?);
            thread::spawn(move || accept(&shared, &listener))
        } else {
            let datagrams = UdpSocket::from(socket.try_clone()?);
            thread::spawn(move || answer(&shared, &datagrams))
        };
        self.listeners.push((socket, thread));
        Ok(())
    }

    /// Closes it, and returns how long ago the last client came.
    pub(super) fn stop(self) -> Option<Duration> {
        self.shared.stopped.store(true, Ordering::Relaxed);
        for (socket, thread) in self.listeners {
            // Both wake the thread that waits in it.
            let woken = if self.transport.is_stream() {
                socket.shutdown(Shutdown::Both)
            } else {
                knock(&socket)
            };
            if woken.is_ok() {
                drop(thread.join());
            }
        }
        let last = self.shared.last_us.load(Ordering::Relaxed);
        let idle = self.shared.started.elapsed();
        (last > 0).then(|| idle.saturating_sub(Duration::from_micros(last)))
    }
}

/// Sends a datagram to a socket of this pod.
fn knock(socket: &Socket) -> io::Result<()> {
    let own = socket.local_addr()?.as_socket();
    let own = own.ok_or(io::ErrorKind::InvalidInput)?;
    let loopback = match own {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::LOCALHOST),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let from = UdpSocket::bind((loopback, 0))?;
    from.send_to(b"", (loopback, own.port())).map(drop)
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    while let Some(stream) = listener.incoming().next() {
        if shared.is_stopped() {
            return;
        }
        let Ok(stream) = stream else { continue };
        shared.came();
        let shared = Arc::clone(shared);
        // A client that goes away is its own affair.
        thread::spawn(move || drop(lines(&shared, stream)));
    }
}

fn lines(shared: &Shared, mut stream: TcpStream) -> io::Result<()> {
    let client = stream.peer_addr()?;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?;
        if line.starts_with("GET ") {
            return http(&shared.backend, client, &mut stream);
        }
        let mut answer = serde_json::to_vec(&shared.greeting(client, line))?;
        answer.push(b'\n');
        stream.write_all(&answer)?;
    }
    Ok(())
}

/// For those who come with curl.
fn http(backend: &str, client: SocketAddr, stream: &mut TcpStream) -> io::Result<()> {
    let body = format!("{backend} answers {client}\n");
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    // Closing with unread request headers would reset the connection under the answer.
    stream.shutdown(Shutdown::Write)?;
    io::copy(stream, &mut io::sink()).map(drop)
}

fn answer(shared: &Shared, socket: &UdpSocket) {
    let mut space = [0; 4096];
    while !shared.is_stopped() {
        // An error here is a client's refusal of an earlier answer.
        let Ok((count, client)) = socket.recv_from(&mut space) else {
            continue;
        };
        if shared.is_stopped() {
            return;
        }
        shared.came();
        let echoed = String::from_utf8_lossy(space.get(..count).unwrap_or_default());
        let greeting = shared.greeting(client, echoed.trim_end().to_owned());
        if let Ok(answer) = serde_json::to_vec(&greeting) {
            drop(socket.send_to(&answer, client));
        }
    }
}
