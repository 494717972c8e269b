//! An HTTP/1.1 server that no client can occupy for long: it limits the connections of a
//! listener and of all public ones together, the time for the head of a request, and the life of a
//! connection, which is for one request.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::AbortHandle;
use tracing::debug;

/// What the clients of one listener may take.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Connections at once. One more takes the place of the one that has been silent longest: of those
    /// without a whole head of a request. Where there is none it waits, and others behind it in the
    /// listener's backlog, so that they take no file descriptor of the agent.
    pub(crate) connections: usize,
    /// Connections at once of several listeners together. A listener accepts one more than it
    /// has a slot for, and serves it when it has.
    pub(crate) shared: Option<Arc<Semaphore>>,
    /// From the start of a connection to the end of its request's head.
    pub(crate) head: Duration,
    /// From the start of a connection to its end. A response that is under way is finished,
    /// within the time of `head`.
    pub(crate) lifetime: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            shared: None,
            head: Duration::from_secs(5),
            lifetime: Duration::from_secs(10),
        }
    }
}

/// Serves routes on a listener until `stop` resolves. Then the listener is closed, and so are its
/// connections, idle ones at once.
pub(crate) async fn serve(
    mut listener: TcpListener,
    routes: Router,
    limits: Limits,
    stop: impl Future<Output = ()>,
) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut silent = Silent::default();
    // Connections notice that the sender is dropped.
    let (_stopping, stopped) = watch::channel(());
    let mut stop = pin!(stop);
    loop {
        let accepted = async {
            // axum's `accept` waits a second after an error such as EMFILE, and tries again.
            let (stream, _client) = Listener::accept(&mut listener).await;
            // Only now: a listener without clients takes nothing from the others.
            let slot = silent.slot(&slots).await;
            let shared = match &limits.shared {
                Some(shared) => silent.slot(shared).await,
                None => None,
            };
            ((slot, shared), stream)
        };
        tokio::select! {
            (slots, stream) = accepted => {
                let (routes, stopped) = (routes.clone(), stopped.clone());
                let Limits { head, lifetime, .. } = limits;
                let asked = Arc::new(AtomicBool::new(false));
                let connection = Connection { stream, routes, asked: Arc::clone(&asked) };
                let task = tokio::spawn(async move {
                    connection.serve(head, lifetime, stopped).await;
                    drop(slots);
                });
                silent.add(asked, task.abort_handle());
            }
            () = &mut stop => return,
        }
    }
}

/// The connections that may have no whole head of a request yet, in the order in which they came.
#[derive(Default)]
struct Silent(VecDeque<(Arc<AtomicBool>, AbortHandle)>);

impl Silent {
    /// A connection, and whether its client has asked by now.
    fn add(&mut self, asked: Arc<AtomicBool>, connection: AbortHandle) {
        self.0.retain(|(asked, connection)| {
            !asked.load(Ordering::Relaxed) && !connection.is_finished()
        });
        self.0.push_back((asked, connection));
    }

    /// A slot. Where none is free, the connection that has been silent longest is closed.
    async fn slot(&mut self, slots: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        if let Ok(slot) = Arc::clone(slots).try_acquire_owned() {
            return Some(slot);
        }
        while let Some((asked, connection)) = self.0.pop_front() {
            if !asked.load(Ordering::Relaxed) && !connection.is_finished() {
                connection.abort();
                break;
            }
        }
        // The semaphore is never closed.
        Arc::clone(slots).acquire_owned().await.ok()
    }
}

/// A client's connection.
struct Connection {
    stream: TcpStream,
    routes: Router,
    /// Set when the head of its request is whole.
    asked: Arc<AtomicBool>,
}

impl Connection {
    async fn serve(self, head: Duration, lifetime: Duration, mut stopped: watch::Receiver<()>) {
        let routes = TowerToHyperService::new(self.routes);
        let answer = service_fn(|request| {
            self.asked.store(true, Ordering::Relaxed);
            routes.call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head)
            // A client that asks again and again would keep its slot.
            .keep_alive(false)
            .serve_connection(TokioIo::new(self.stream), answer);
        let mut connection = pin!(connection);
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    debug!("a client's connection ended: {error}");
                }
                return;
            }
            () = tokio::time::sleep(lifetime) => {}
            _dropped = stopped.changed() => {}
        }
        connection.as_mut().graceful_shutdown();
        // A client that does not read the response is cut off.
        let _elapsed = tokio::time::timeout(head, connection).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::task::JoinSet;

    use super::*;

    const HEAD: Duration = Duration::from_millis(300);
    /// Much longer than `HEAD`, for a busy machine.
    const SOON: Duration = Duration::from_secs(10);
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: svclb\r\n\r\n";

    /// More than the kernel keeps for a client that does not read.
    const LARGE: usize = 32 << 20;

    /// A server with two slots, and a handle that stops it when it is dropped.
    async fn server(lifetime: Duration) -> (std::net::SocketAddr, watch::Sender<()>) {
        limited(Limits {
            connections: 2,
            shared: None,
            head: HEAD,
            lifetime,
        })
        .await
    }

    async fn limited(limits: Limits) -> (std::net::SocketAddr, watch::Sender<()>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let routes = Router::new()
            .route("/", get(async || "ok"))
            .route("/large", get(async || vec![0; LARGE]));
        let (sender, mut receiver) = watch::channel(());
        let stop = async move {
            let _dropped = receiver.changed().await;
        };
        tokio::spawn(serve(listener, routes, limits, stop));
        (addr, sender)
    }

    async fn is_closed(stream: &mut TcpStream) -> bool {
        let read = tokio::time::timeout(SOON, async {
            let mut buffer = [0; 512];
            while stream.read(&mut buffer).await.is_ok_and(|bytes| bytes > 0) {}
        });
        read.await.is_ok()
    }

    async fn is_answered(stream: &mut TcpStream) -> bool {
        let answer = tokio::time::timeout(SOON, async {
            stream.write_all(REQUEST).await.ok()?;
            let mut text = Vec::new();
            while !text.ends_with(b"\r\n\r\nok") {
                let mut buffer = [0; 512];
                let bytes = stream
                    .read(&mut buffer)
                    .await
                    .ok()
                    .filter(|bytes| *bytes > 0)?;
                text.extend_from_slice(&buffer[..bytes]);
            }
            Some(text.starts_with(b"HTTP/1.1 200"))
        });
        answer.await.ok().flatten().unwrap_or(false)
    }

    #[tokio::test]
    async fn silent_clients_that_have_all_slots_make_room_for_one_that_asks() {
        let limits = Limits {
            connections: 2,
            shared: Some(Arc::new(Semaphore::new(2))),
            head: SOON * 10,
            lifetime: SOON * 10,
        };
        let (addr, _server) = limited(limits).await;
        let mut silent = Vec::new();
        for _ in 0..6 {
            silent.push(TcpStream::connect(addr).await.unwrap());
        }
        let mut stream = TcpStream::connect(addr).await.unwrap();
        assert!(
            is_answered(&mut stream).await,
            "it waits for the silent ones"
        );
        // Those that came first are closed, and the last one is not.
        assert!(is_closed(&mut silent[0]).await);
        let last = silent.last_mut().unwrap();
        assert!(is_answered(last).await);
    }

    #[tokio::test]
    async fn silent_and_trickling_clients_are_cut_off_and_another_is_answered() {
        let limits = Limits {
            connections: 8,
            shared: None,
            head: HEAD,
            lifetime: SOON * 10,
        };
        let (addr, _server) = limited(limits).await;
        let mut clients = JoinSet::new();
        // Of both kinds.
        for number in 0..6 {
            clients.spawn(async move {
                let mut stream = TcpStream::connect(addr).await.unwrap();
                let begun = Instant::now();
                if number % 2 == 0 {
                    // A header line that never ends.
                    let start = &REQUEST[..REQUEST.len() - 4];
                    let byte_by_byte = async {
                        let mut is_open = stream.write_all(start).await.is_ok();
                        while is_open {
                            tokio::time::sleep(HEAD / 10).await;
                            is_open = stream.write_all(b"x").await.is_ok();
                        }
                    };
                    tokio::time::timeout(SOON, byte_by_byte).await.is_ok()
                } else {
                    is_closed(&mut stream).await && begun.elapsed() >= HEAD / 2
                }
            });
        }
        tokio::time::sleep(HEAD / 3).await;
        let mut stream = TcpStream::connect(addr).await.unwrap();
        assert!(is_answered(&mut stream).await, "the other is not answered");
        assert!(clients.join_all().await.iter().all(|cut| *cut));
    }

    #[tokio::test]
    async fn a_connection_ends_with_its_response_whatever_else_its_client_asks() {
        let (addr, _server) = server(SOON * 10).await;
        let mut stream = TcpStream::connect(addr).await.unwrap();
        // Five requests at once, and one every so often.
        stream.write_all(&REQUEST.repeat(5)).await.unwrap();
        let (mut reader, mut writer) = stream.into_split();
        let asks = tokio::spawn(async move {
            while writer.write_all(REQUEST).await.is_ok() {
                tokio::time::sleep(HEAD / 10).await;
            }
        });
        let mut text = Vec::new();
        let read = tokio::time::timeout(SOON, async {
            let mut buffer = [0; 512];
            // The end, or a reset because of what was not read.
            while let Ok(bytes @ 1..) = reader.read(&mut buffer).await {
                text.extend_from_slice(&buffer[..bytes]);
            }
        });
        assert!(read.await.is_ok(), "it is still open");
        assert!(tokio::time::timeout(SOON, asks).await.is_ok());
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.matches("HTTP/1.1 200").count(), 1, "{text}");
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_its_response_is_cut_off_as_well() {
        let (addr, _server) = server(HEAD).await;
        let mut clients = Vec::new();
        // All slots.
        for _ in 0..2 {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            let request = b"GET /large HTTP/1.1\r\nHost: svclb\r\n\r\n";
            stream.write_all(request).await.unwrap();
            clients.push(stream);
        }
        let mut stream = TcpStream::connect(addr).await.unwrap();
        assert!(is_answered(&mut stream).await, "they are not cut off");
    }

    #[tokio::test]
    async fn listeners_share_slots_and_one_without_clients_takes_none() {
        let shared = Arc::new(Semaphore::new(1));
        let limits = Limits {
            connections: 2,
            shared: Some(Arc::clone(&shared)),
            head: SOON * 10,
            lifetime: SOON * 10,
        };
        let (one, _one) = limited(limits.clone()).await;
        let (other, _other) = limited(limits).await;
        let silent = TcpStream::connect(one).await.unwrap();
        let is_taken = async {
            while shared.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, is_taken).await.unwrap();
        let mut stream = TcpStream::connect(other).await.unwrap();
        let early = tokio::time::timeout(HEAD, is_answered(&mut stream)).await;
        assert!(early.is_err(), "it has a slot that there is not");
        drop(silent);
        // The first request, whose answer was not waited for, is answered now.
        let mut answer = [0; 12];
        let read = tokio::time::timeout(SOON, stream.read_exact(&mut answer));
        read.await.unwrap().unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    }

    #[tokio::test]
    async fn connections_end_with_the_server() {
        let (addr, server) = server(SOON * 10).await;
        let mut stream = TcpStream::connect(addr).await.unwrap();
        assert!(is_answered(&mut stream).await);
        // One without a request yet.
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(b"G").await.unwrap();
        drop(server);
        assert!(is_closed(&mut stream).await);
        assert!(TcpStream::connect(addr).await.is_err());
    }
}
