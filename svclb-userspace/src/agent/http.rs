//! The listeners.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tracing::{info, warn};

use super::connections::Limited;
use super::health::Health;
use super::metrics::Metrics;

const RETRY: Duration = Duration::from_secs(5);

/// As kube-proxy says it: the body is what its type says, and nothing else.
const NO_SNIFF: [(HeaderName, &str); 1] = [(header::X_CONTENT_TYPE_OPTIONS, "nosniff")];

/// Serves routes at an address. A port that is taken (by the kube-proxy that is being
/// replaced, say) is tried again, and is no reason to stop.
pub(crate) fn serve(addr: SocketAddr, routes: Router, flag: &'static str) {
    tokio::spawn(async move {
        let mut warned = false;
        loop {
            match TcpListener::bind(addr).await {
                Ok(listener) => {
                    if warned {
                        info!("{flag} {addr} answers now");
                    }
                    if let Err(error) = axum::serve(Limited::new(listener), routes.clone()).await {
                        warn!("{flag} {addr} stopped answering: {error}");
                    }
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

/// `/healthz`: 200 if every Service is as it should be, and this node is not about to go:
/// load balancers ask it. `/livez`: 200 while the agent runs, so that nothing restarts it for
/// a fault that a restart does not mend.
pub(crate) fn health_routes(health: Health) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/livez", get(livez))
        .with_state(health)
}

async fn healthz(State(health): State<Health>) -> impl IntoResponse {
    let report = health.of_node();
    let code = if report.healthy && report.node_eligible == Some(true) {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, NO_SNIFF, Json(report))
}

async fn livez(State(health): State<Health>) -> impl IntoResponse {
    (NO_SNIFF, Json(health.of_proxy()))
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
