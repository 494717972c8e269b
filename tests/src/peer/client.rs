//! The lab's side of a peer.

use std::env;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::protocol::{
    Answer, Connected, Failure, Kind, Received, Request, Tally, Target, Transport,
};
use super::sockets::failure;

/// Finds `svclb-lab-peer`: where `SVCLB_LAB_PEER` says, or beside the running binary.
///
/// # Errors
/// If it is in neither place.
pub fn peer_binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("SVCLB_LAB_PEER") {
        return Ok(path.into());
    }
    let own = env::current_exe().context("the path of the running binary is unknown")?;
    // Test binaries lie one folder deeper than ordinary ones.
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("svclb-lab-peer"))
        .find(|path| path.is_file())
        .context("svclb-lab-peer is not built: run `cargo build -p svclb-tests`")
}

/// A process in a pod (or in a node's host) that opens sockets there. It ends with its
/// lab, or when this is dropped.
#[derive(Debug)]
pub struct Peer {
    place: String,
    pipes: Mutex<Pipes>,
    stays: AtomicBool,
}

#[derive(Debug)]
struct Pipes {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Reply {
    Ok(Value),
    Failed(Failure),
}

impl Peer {
    /// Starts a process in a namespace and a cgroup; servers in it call themselves `name`.
    pub(crate) fn spawn(name: &str, netns: &Path, cgroup: &Path) -> Result<Self> {
        let binary = peer_binary()?;
        let mut child = Command::new(&binary)
            .arg("--netns")
            .arg(netns)
            .arg("--cgroup")
            .arg(cgroup)
            .args(["work", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", binary.display()))?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("{} has no pipes", binary.display())
        };
        let place = netns.file_name().unwrap_or_default();
        Ok(Self {
            place: place.to_string_lossy().into_owned(),
            pipes: Mutex::new(Pipes {
                child,
                to: Some(to),
                from: BufReader::new(from),
            }),
            stays: AtomicBool::new(false),
        })
    }

    /// Where it is: the name of its network namespace, which names lab, node and pod.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Answers at a port of every address, in both families, from now on. As with any
    /// program that listens so, a datagram is answered from the address that the kernel
    /// chooses for the way back, whichever was asked.
    ///
    /// # Errors
    /// What `bind` or `socket` say.
    pub fn serve(&self, transport: Transport, port: u16) -> Result<(), Failure> {
        self.call(&Request::Serve { transport, port })
    }

    /// Closes the server there: further clients are refused. Returns how long ago the last client
    /// came, if there was one.
    ///
    /// # Errors
    /// If it does not serve there.
    pub fn withdraw(&self, transport: Transport, port: u16) -> Result<Option<Duration>, Failure> {
        let idle: Option<u64> = self.call(&Request::Withdraw { transport, port })?;
        Ok(idle.map(Duration::from_micros))
    }

    /// One question on a socket of its own.
    ///
    /// # Errors
    /// Which call failed and how.
    pub fn ask(&self, kind: impl Into<Kind>, to: SocketAddr) -> Result<Answer, Failure> {
        let kind = kind.into();
        self.call(&Request::Ask { kind, to })
    }

    /// Many questions, one after the other, each on a socket of its own.
    ///
    /// # Errors
    /// Only if the peer is gone: what single questions get is in the tally.
    pub fn repeat(
        &self,
        kind: impl Into<Kind>,
        to: SocketAddr,
        times: u32,
    ) -> Result<Tally, Failure> {
        let kind = kind.into();
        self.call(&Request::Repeat { kind, to, times })
    }

    /// Asks in the background, with a pause after each answer, until [`stop_load`](Self::stop_load).
    ///
    /// # Errors
    /// Only if the peer is gone.
    pub fn start_load(
        &self,
        kind: impl Into<Kind>,
        to: SocketAddr,
        pause: Duration,
    ) -> Result<(), Failure> {
        let kind = kind.into();
        let port = None;
        self.start_loads(vec![Target { kind, to, port }], pause)
    }

    /// The same with many to ask, one after the other and then from the first again.
    ///
    /// # Errors
    /// Only if the peer is gone.
    pub fn start_loads(&self, targets: Vec<Target>, pause: Duration) -> Result<(), Failure> {
        self.call(&Request::StartLoad {
            targets,
            pause_us: u64::try_from(pause.as_micros()).unwrap_or(u64::MAX),
        })
    }

    /// From now on, leaves most of a processor to whatever else wants it. An agent that starts beside
    /// clients which never rest takes ten times as long where there is one processor for all.
    ///
    /// # Errors
    /// Only if the peer is gone.
    pub fn yield_processor(&self) -> Result<(), Failure> {
        self.call(&Request::Yield)
    }

    /// What the background questions got since the last time.
    ///
    /// # Errors
    /// Only if the peer is gone.
    pub fn take_load(&self) -> Result<Tally, Failure> {
        self.call(&Request::TakeLoad)
    }

    /// Stops asking in the background; what was got since the last time.
    ///
    /// # Errors
    /// Only if the peer is gone.
    pub fn stop_load(&self) -> Result<Tally, Failure> {
        self.call(&Request::StopLoad)
    }

    /// Makes a socket; `v6` chooses `AF_INET6`.
    ///
    /// # Errors
    /// What `socket` says.
    pub fn socket(&self, kind: impl Into<Kind>, v6: bool) -> Result<PeerSocket<'_>, Failure> {
        let kind = kind.into();
        let number = self.call(&Request::Open { kind, v6 })?;
        Ok(PeerSocket { peer: self, number })
    }

    /// Sends datagrams of one byte from so many sockets, as fast as one thread can, and returns
    /// how many. No answer is waited for.
    ///
    /// # Errors
    /// If a socket cannot be made.
    pub fn flood(&self, to: SocketAddr, flows: u32, time: Duration) -> Result<u64, Failure> {
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.call(&Request::Flood {
            to,
            flows,
            milliseconds,
        })
    }

    /// HTTP GET: status and body.
    ///
    /// # Errors
    /// What `connect` or `read` say.
    pub fn get(&self, at: SocketAddr, path: &str) -> Result<(u16, String), Failure> {
        let path = path.to_owned();
        self.call(&Request::Get { at, path })
    }

    /// Lets the process live on when this is dropped, until its lab is removed.
    ///
    /// # Errors
    /// Only if the peer is gone.
    pub fn stay(&self) -> Result<(), Failure> {
        self.call::<()>(&Request::Stay)?;
        self.stays.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn call<T: DeserializeOwned>(&self, request: &Request) -> Result<T, Failure> {
        let start = Instant::now();
        let reply = self
            .pipes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .exchange(request);
        match reply.map_err(|error| failure("the lab's pipe", start, &error))? {
            Reply::Failed(failure) => Err(failure),
            Reply::Ok(value) => serde_json::from_value(value)
                .map_err(|error| failure("the lab's pipe", start, &io::Error::other(error))),
        }
    }
}

impl Pipes {
    fn exchange(&mut self, request: &Request) -> io::Result<Reply> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        let to = self.to.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        to.write_all(&line)?;
        let mut answer = String::new();
        if self.from.read_line(&mut answer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&answer)?)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if *self.stays.get_mut() {
            return;
        }
        let pipes = self.pipes.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(pipes.to.take());
        drop(pipes.child.kill());
        drop(pipes.child.wait());
    }
}

/// A socket in a peer; closed on drop.
#[derive(Debug)]
pub struct PeerSocket<'a> {
    peer: &'a Peer,
    number: u32,
}

impl PeerSocket<'_> {
    /// `bind(2)` to an address, which other sockets may have as well (`SO_REUSEADDR`).
    ///
    /// # Errors
    /// What it says.
    pub fn bind(&self, at: SocketAddr) -> Result<(), Failure> {
        let socket = self.number;
        self.peer.call(&Request::Bind { socket, at })
    }

    /// `connect(2)`, again if need be.
    ///
    /// # Errors
    /// What it says.
    pub fn connect(&self, to: SocketAddr) -> Result<Connected, Failure> {
        let socket = self.number;
        self.peer.call(&Request::Connect { socket, to })
    }

    /// Sends to where the socket is connected.
    ///
    /// # Errors
    /// What `send` says.
    pub fn send(&self, text: &str) -> Result<(), Failure> {
        self.deliver(None, text)
    }

    /// `sendto(2)`.
    ///
    /// # Errors
    /// What it says.
    pub fn send_to(&self, to: SocketAddr, text: &str) -> Result<(), Failure> {
        self.deliver(Some(to), text)
    }

    /// `recvfrom(2)`, or a line of a stream.
    ///
    /// # Errors
    /// What it says; `EAGAIN` after 2 s without an answer.
    pub fn receive(&self) -> Result<Received, Failure> {
        let socket = self.number;
        self.peer.call(&Request::Receive { socket })
    }

    /// `getpeername(2)`.
    ///
    /// # Errors
    /// What it says.
    pub fn peer_name(&self) -> Result<SocketAddr, Failure> {
        let socket = self.number;
        self.peer.call(&Request::PeerName { socket })
    }

    /// `getsockname(2)`.
    ///
    /// # Errors
    /// What it says.
    pub fn local_name(&self) -> Result<SocketAddr, Failure> {
        let socket = self.number;
        self.peer.call(&Request::LocalName { socket })
    }

    /// Closes it and forgets it at once, as a machine does that is switched off, but for an RST
    /// of TCP, which has to be kept from leaving for that.
    ///
    /// # Errors
    /// What `setsockopt` says.
    pub fn abort(self) -> Result<(), Failure> {
        let socket = self.number;
        self.peer.call(&Request::Abort { socket })
    }

    fn deliver(&self, to: Option<SocketAddr>, text: &str) -> Result<(), Failure> {
        let socket = self.number;
        let text = text.to_owned();
        self.peer.call(&Request::Send { socket, to, text })
    }
}

impl Drop for PeerSocket<'_> {
    fn drop(&mut self) {
        let socket = self.number;
        drop(self.peer.call::<()>(&Request::Close { socket }));
    }
}
