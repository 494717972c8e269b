//! The HTTP listeners of the agent, and what they serve.

pub(crate) mod server;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tracing::{info, warn};

use self::server::Limits;
use super::health::Health;
use super::metrics::Metrics;

const RETRY: Duration = Duration::from_secs(5);

/// As kube-proxy does: clients must not guess another type than the stated one.
const NO_SNIFF: [(HeaderName, &str); 1] = [(header::X_CONTENT_TYPE_OPTIONS, "nosniff")];

/// Serves routes at an address for as long as the agent runs. A port that another process has (the
/// kube-proxy that is being replaced, for example) is tried again.
pub(crate) fn serve(addr: SocketAddr, routes: Router, limits: Limits, flag: &'static str) {
    tokio::spawn(async move {
        let mut warned = false;
        loop {
            match TcpListener::bind(addr).await {
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
