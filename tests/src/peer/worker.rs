//! The loop of the process in the pod.

use std::collections::HashMap;
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::nice;
use serde::Serialize;
use serde_json::{Value, json};
use socket2::Socket;

use super::load::Load;
use super::protocol::{Connected, Failure, Kind, Request, Tally, Transport};
use super::serve::Server;
use super::sockets::{self, failure};

/// By how much the niceness of a peer rises that yields: a process without gets 28 times as much of a
/// processor.
const NICER: i32 = 15;

/// Does what the lines of the standard input say until it ends.
///
/// # Errors
/// If a line is no [`Request`], or the other side of the pipe is gone.
pub fn work(name: &str) -> Result<()> {
    let mut worker = Worker {
        name: name.to_owned(),
        sockets: HashMap::new(),
        next: 1,
        servers: HashMap::new(),
        load: None,
        stay: false,
    };
    let mut output = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let request = serde_json::from_str(&line.context("cannot read a request")?)
            .context("not a request")?;
        let reply = match worker.handle(request) {
            Ok(value) => json!({ "ok": value }),
            Err(failure) => json!({ "failed": failure }),
        };
        writeln!(output, "{reply}").context("cannot answer")?;
        output.flush().context("cannot answer")?;
    }
    if worker.stay {
        loop {
            std::thread::park();
        }
    }
    Ok(())
}

struct Worker {
    name: String,
    sockets: HashMap<u32, (Socket, Kind)>,
    next: u32,
    servers: HashMap<(Transport, u16), Server>,
    load: Option<Load>,
    stay: bool,
}

impl Worker {
    fn handle(&mut self, request: Request) -> Result<Value, Failure> {
        match request {
            Request::Serve { transport, port } => {
                let server = Server::start(&self.name, transport, port)?;
                self.servers.insert((transport, port), server);
                reply(())
            }
            Request::Withdraw { transport, port } => {
                let server = self.servers.remove(&(transport, port));
                let none = || failure("withdraw", Instant::now(), &io::ErrorKind::NotFound.into());
                let idle = server.ok_or_else(none)?.stop();
                let micros = |idle: Duration| u64::try_from(idle.as_micros()).unwrap_or(u64::MAX);
                reply(idle.map(micros))
            }
            Request::Open { kind, v6 } => {
                let number = self.next;
                self.next += 1;
                self.sockets
                    .insert(number, (sockets::open(kind, v6)?, kind));
                reply(number)
            }
            Request::Bind { socket, at } => {
                let (socket, _) = self.socket(socket)?;
                reply(sockets::bind(socket, at)?)
            }
            Request::Connect { socket, to } => {
                let (socket, kind) = self.socket(socket)?;
                let nanos = sockets::connect(socket, *kind, to)?;
                reply(Connected { nanos })
            }
            Request::Send { socket, to, text } => {
                let (socket, kind) = self.socket(socket)?;
                let to = to.map(|to| sockets::destination(*kind, to));
                reply(sockets::send(socket, to, &text)?)
            }
            Request::Receive { socket } => {
                let (socket, kind) = self.socket(socket)?;
                reply(sockets::receive(socket, kind.transport.is_stream())?)
            }
            Request::PeerName { socket } => {
                let (socket, _) = self.socket(socket)?;
                reply(sockets::name("getpeername", || socket.peer_addr())?)
            }
            Request::LocalName { socket } => {
                let (socket, _) = self.socket(socket)?;
                reply(sockets::name("getsockname", || socket.local_addr())?)
            }
            Request::Close { socket } => {
                self.sockets.remove(&socket);
                reply(())
            }
            Request::Abort { socket } => {
                if let Some((socket, _)) = self.sockets.remove(&socket) {
                    sockets::abort(&socket)?;
                }
                reply(())
            }
            Request::Ask { kind, to } => reply(sockets::ask(kind, to)?),
            Request::Repeat { kind, to, times } => reply(sockets::repeat(kind, to, times)),
            Request::StartLoad { targets, pause_us } => {
                self.load = Some(Load::start(targets, Duration::from_micros(pause_us)));
                reply(())
            }
            Request::Yield => {
                // Of this thread, and of those that it starts.
                nice(NICER).map_err(|errno| failure("nice", Instant::now(), &errno.into()))?;
                reply(())
            }
            Request::TakeLoad => reply(self.load.as_ref().map_or_else(Tally::default, Load::take)),
            Request::StopLoad => reply(self.load.take().map_or_else(Tally::default, Load::stop)),
            Request::Flood {
                to,
                flows,
                milliseconds,
            } => reply(sockets::flood(
                to,
                flows,
                Duration::from_millis(milliseconds),
            )?),
            Request::Get { at, path } => {
                let start = Instant::now();
                reply(get(at, &path).map_err(|error| failure("get", start, &error))?)
            }
            Request::Stay => {
                self.stay = true;
                reply(())
            }
        }
    }

    fn socket(&self, number: u32) -> Result<&(Socket, Kind), Failure> {
        let closed = || failure("socket", Instant::now(), &io::ErrorKind::NotFound.into());
        self.sockets.get(&number).ok_or_else(closed)
    }
}

fn reply(value: impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value)
        .map_err(|error| failure("reply", Instant::now(), &io::Error::other(error)))
}

/// HTTP/1.1 GET (RFC 9112): status and body.
fn get(at: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let limit = Duration::from_secs(10);
    let mut stream = TcpStream::connect_timeout(&at, limit)?;
    stream.set_read_timeout(Some(limit))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let status = text
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok())
        .ok_or(io::ErrorKind::InvalidData)?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}
