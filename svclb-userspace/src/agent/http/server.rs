//! An HTTP/1.1 server that no client can occupy for long: it limits the connections of a
//! listener, the time for the head of a request, and the life of a connection.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tracing::debug;

/// What the clients of one listener may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at once. Others wait in the listener's backlog, so that they take no file
    /// descriptor of the agent.
    pub(crate) connections: usize,
    /// From the start of a connection, or the end of a response, to the end of the next
    /// request's head.
    pub(crate) head: Duration,
    /// From the start of a connection to its end. A response that is under way is finished,
    /// within the time of `head`.
    pub(crate) lifetime: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            head: Duration::from_secs(5),
            lifetime: Duration::from_secs(60),
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
    // Connections notice that the sender is dropped.
    let (_stopping, stopped) = watch::channel(());
    let mut stop = pin!(stop);
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let slot = Arc::clone(&slots).acquire_owned().await.ok();
            // axum's `accept` waits a second after an error such as EMFILE, and tries again.
            let (stream, _client) = Listener::accept(&mut listener).await;
            (slot, stream)
        };
        tokio::select! {
            (slot, stream) = accepted => {
                let (routes, stopped) = (routes.clone(), stopped.clone());
                tokio::spawn(async move {
                    serve_connection(stream, routes, limits, stopped).await;
                    drop(slot);
                });
            }
            () = &mut stop => return,
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    routes: Router,
    limits: Limits,
    mut stopped: watch::Receiver<()>,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    let mut connection = pin!(connection);
    tokio::select! {
        ended = &mut connection => {
            if let Err(error) = ended {
                debug!("a client's connection ended: {error}");
            }
            return;
        }
        () = tokio::time::sleep(limits.lifetime) => {}
        _dropped = stopped.changed() => {}
    }
    connection.as_mut().graceful_shutdown();
    // A client that does not read the response is cut off.
    let _elapsed = tokio::time::timeout(limits.head, connection).await;
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

    /// A server with two slots, and a handle that stops it when it is dropped.
    async fn server(lifetime: Duration) -> (std::net::SocketAddr, watch::Sender<()>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let limits = Limits {
            connections: 2,
            head: HEAD,
            lifetime,
        };
        let routes = Router::new().route("/", get(async || "ok"));
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
    async fn silent_and_trickling_clients_are_cut_off_and_another_is_answered() {
        let (addr, _server) = server(SOON * 10).await;
        let mut clients = JoinSet::new();
        // More than there are slots, of both kinds.
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
    async fn a_connection_is_kept_between_requests_for_the_time_of_a_head() {
        let (addr, _server) = server(SOON * 10).await;
        let mut stream = TcpStream::connect(addr).await.unwrap();
        for _ in 0..3 {
            assert!(is_answered(&mut stream).await);
            tokio::time::sleep(HEAD / 3).await;
        }
        assert!(is_closed(&mut stream).await, "it is idle and open");
    }

    #[tokio::test]
    async fn a_client_that_asks_without_end_is_cut_off_as_well() {
        let (addr, _server) = server(HEAD).await;
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let asked = tokio::time::timeout(SOON, async {
            while is_answered(&mut stream).await {
                tokio::time::sleep(HEAD / 10).await;
            }
        });
        assert!(asked.await.is_ok(), "it is still answered");
    }

    #[tokio::test]
    async fn connections_end_with_the_server() {
        let (addr, server) = server(SOON * 10).await;
        let mut stream = TcpStream::connect(addr).await.unwrap();
        assert!(is_answered(&mut stream).await);
        drop(server);
        assert!(is_closed(&mut stream).await);
        assert!(TcpStream::connect(addr).await.is_err());
    }
}
