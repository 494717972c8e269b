//! The HTTP listeners of the agent, and what they serve.

pub(crate) mod server;

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tracing::{info, warn};

use self::server::Limits;
use super::health::Health;
use super::metrics::Metrics;

const BACKLOG: i32 = 1024;
const RETRY: Duration = Duration::from_secs(5);

/// As kube-proxy does: clients must not guess another type than the stated one.
const NO_SNIFF: [(HeaderName, &str); 1] = [(header::X_CONTENT_TYPE_OPTIONS, "nosniff")];

/// Serves routes at an address for as long as the agent runs. A port that another process has (the
/// kube-proxy that is being replaced, for example) is tried again.
pub(crate) fn serve(addr: SocketAddr, routes: Router, limits: Limits, flag: &'static str) {
    tokio::spawn(async move {
        let mut warned = false;
        loop {
            match listen(addr) {
                Ok(listener) => {
                    if warned {
                        info!("{flag} {addr} is open now");
                    }
                    let never = std::future::pending();
                    return server::serve(listener, routes, limits, never).await;
                }
                Err(error) if !warned => {
                    warn!("{flag} {addr} cannot be opened and is tried again: {error}");
                    warned = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(RETRY).await;
        }
    });
}

/// Opens a port. As with Go's listeners, and so kube-proxy's, `0.0.0.0` and `[::]` are all addresses
/// of both families, whatever net.ipv6.bindv6only says; a kernel without IPv6 has those of IPv4.
fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    if !addr.ip().is_unspecified() {
        return open(addr);
    }
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, addr.port()));
    match open(both) {
        Err(error) if addr.is_ipv4() && lacks_ipv6(&error) => open(addr),
        opened => opened,
    }
}

fn lacks_ipv6(error: &io::Error) -> bool {
    let errors = [nix::libc::EAFNOSUPPORT, nix::libc::EADDRNOTAVAIL];
    error
        .raw_os_error()
        .is_some_and(|error| errors.contains(&error))
}

fn open(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    if addr.is_ipv6() {
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The public routes: `/healthz` for load balancers, and `/livez` as with kube-proxy.
pub(crate) fn health_routes(health: Health) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/livez", get(livez))
        .with_state(health)
}

/// The routes for the kubelet's probes, which clients outside the node cannot reach.
pub(crate) fn probe_routes(health: Health) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(health)
}

/// 200 once the first full sync is in the maps, if this node is eligible for traffic. A Service
/// that cannot be written is named in the body and changes nothing else: it would be the same on
/// every node, and take all of them out of every load balancer.
async fn healthz(State(health): State<Health>) -> impl IntoResponse {
    let report = health.of_node(Instant::now());
    let is_ok = report.healthy && report.node_eligible == Some(true);
    (status(is_ok), NO_SNIFF, Json(report))
}

/// 200 unless the agent's loop hangs: the kubelet restarts the agent for anything else, and only
/// this is mended by a restart.
async fn livez(State(health): State<Health>) -> impl IntoResponse {
    let now = Instant::now();
    let report = health.of_proxy(now);
    (status(health.is_live(now)), NO_SNIFF, Json(report))
}

/// 200 once the first full sync is in the maps.
async fn readyz(State(health): State<Health>) -> impl IntoResponse {
    let report = health.of_proxy(Instant::now());
    (status(health.is_ready()), NO_SNIFF, Json(report))
}

const fn status(is_ok: bool) -> StatusCode {
    if is_ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

/// `/metrics` in the OpenMetrics text format, and `/proxyMode`.
pub(crate) fn metrics_routes(metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/metrics", get(scrape))
        .route("/proxyMode", get(async || "ebpf"))
        .route("/healthz", get(async || "ok"))
        .with_state(metrics)
}

async fn scrape(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, OPEN_METRICS)], metrics.encode())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use tokio::net::TcpStream;

    use super::*;

    const LOOPBACKS: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];

    #[tokio::test]
    async fn all_addresses_are_those_of_both_families() {
        for all in ["0.0.0.0:0", "[::]:0"] {
            let listener = listen(all.parse().unwrap()).unwrap();
            let port = listener.local_addr().unwrap().port();
            for ip in LOOPBACKS {
                let connected = TcpStream::connect((ip, port)).await;
                assert!(connected.is_ok(), "{all} does not answer at {ip}");
            }
        }
    }

    #[tokio::test]
    async fn an_address_is_only_itself() {
        for (ip, other) in [(0, 1), (1, 0)].map(|(a, b)| (LOOPBACKS[a], LOOPBACKS[b])) {
            let listener = listen((ip, 0).into()).unwrap();
            let port = listener.local_addr().unwrap().port();
            assert!(TcpStream::connect((ip, port)).await.is_ok());
            assert!(TcpStream::connect((other, port)).await.is_err());
        }
    }
}
