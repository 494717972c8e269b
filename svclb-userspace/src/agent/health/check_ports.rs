//! The listeners at which load balancers ask whether this node has an endpoint of a Service
//! (`healthCheckNodePort`). The plan decides how many endpoints there are.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Json, Router};
use serde::Serialize;
use socket2::{Domain, Socket, Type};
use svclb_core::log_once::LogOnce;
use svclb_core::model::ObjectName;
use svclb_core::plan::HealthCheck;
use svclb_source::{EventRecorder, KubeEvent};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::Health;
use crate::agent::http::server::{self, Limits};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 128;
/// How long until a port that could not be opened is tried again: at first, and at most. A port
/// whose listener was closed a moment ago is free within a few tries.
const RETRY: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(30)];
/// A port that is still not open when the delay has grown to this is logged.
const WARN_AFTER: Duration = Duration::from_secs(1);

/// The listeners of all health checks.
pub(crate) struct CheckPorts {
    addresses: Vec<IpAddr>,
    health: Health,
    event_recorder: EventRecorder,
    /// Dropping a sender closes the listeners that watch it.
    open: HashMap<ObjectName, watch::Sender<HealthCheck>>,
}

/// All addresses of the node, in the families that its kernel has.
pub(crate) fn all_addresses() -> Vec<IpAddr> {
    let mut addresses = vec![Ipv4Addr::UNSPECIFIED.into()];
    if Path::new("/proc/net/if_inet6").exists() {
        addresses.push(Ipv6Addr::UNSPECIFIED.into());
    }
    addresses
}

impl CheckPorts {
    /// Health checks are served at these addresses of the node.
    pub(crate) fn new(
        addresses: Vec<IpAddr>,
        health: Health,
        event_recorder: EventRecorder,
    ) -> Self {
        Self {
            addresses,
            health,
            event_recorder,
            open: HashMap::new(),
        }
    }

    /// Takes a round's changes in. Ports that are no longer wanted are closed before others are
    /// opened, since a port may pass from one Service to another.
    pub(crate) fn update(
        &mut self,
        changes: BTreeMap<ObjectName, Option<HealthCheck>>,
        log_once: &mut LogOnce,
        now: Duration,
    ) {
        for (service, check) in &changes {
            let port = check.as_ref().filter(|check| check.waits_for.is_none());
            let port = port.map(|check| check.port);
            if let Some(open) = self.open.get(service)
                && port != Some(open.borrow().port)
            {
                self.open.remove(service);
            }
        }
        for (service, check) in changes {
            let Some(check) = check else { continue };
            if let Some(holder) = &check.waits_for {
                let line = format!(
                    "Service {service} waits for the health check port {}, which the older Service {holder} has",
                    check.port
                );
                if log_once.first(&line, now) {
                    warn!("{line}");
                }
            } else if let Some(open) = self.open.get(&service) {
                open.send_replace(check);
            } else {
                self.open(service, check);
            }
        }
    }

    fn open(&mut self, service: ObjectName, check: HealthCheck) {
        let port = check.port;
        let (sender, check) = watch::channel(check);
        for ip in &self.addresses {
            let check = Checked {
                check: check.clone(),
                health: self.health.clone(),
            };
            let event_recorder = self.event_recorder.clone();
            tokio::spawn(serve_at(SocketAddr::new(*ip, port), check, event_recorder));
        }
        self.open.insert(service, sender);
    }
}

/// What a listener's responses are made from.
#[derive(Clone)]
struct Checked {
    check: watch::Receiver<HealthCheck>,
    health: Health,
}

impl Checked {
    fn is_closed(&self) -> bool {
        self.check.has_changed().is_err()
    }

    /// Resolves when the health check is removed.
    async fn closed(mut self) {
        while self.check.changed().await.is_ok() {}
    }
}

/// Serves at one address until the health check is removed; connections that wait for a request
/// end with it.
async fn serve_at(at: SocketAddr, checked: Checked, event_recorder: EventRecorder) {
    let listener = tokio::select! {
        listener = open_with_retry(at, &checked, &event_recorder) => listener,
        () = checked.clone().closed() => return,
    };
    let routes = Router::new().fallback(answer).with_state(checked.clone());
    server::serve(listener, routes, Limits::default(), checked.closed()).await;
}

/// Tries until the port can be opened: another process may have it for a while.
async fn open_with_retry(
    at: SocketAddr,
    checked: &Checked,
    event_recorder: &EventRecorder,
) -> TcpListener {
    let service = checked.check.borrow().service.clone();
    let [mut delay, longest] = RETRY;
    let mut warned = false;
    loop {
        match listen(at) {
            Ok(listener) => {
                if warned {
                    info!("the health check of Service {service} is served at {at} now");
                } else {
                    debug!("the health check of Service {service} is served at {at}");
                }
                return listener;
            }
            Err(error) if !warned && delay >= WARN_AFTER => {
                let line = format!(
                    "the health check of Service {service} cannot be opened at {at} and is tried \
                     again: {error}; `ss -ltnp` shows who has the port"
                );
                warn!("{line}");
                // kube-proxy's reason. A full queue holds enough Events about the same.
                let _queue_is_full = event_recorder.try_send(KubeEvent {
                    service: service.clone(),
                    reason: "FailedToStartServiceHealthcheck",
                    action: "Listen",
                    note: line,
                });
                warned = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(longest);
    }
}

/// IPv6 sockets are for IPv6 alone, so that both families have a listener whatever
/// net.ipv6.bindv6only says.
fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The response's body, with kube-proxy's fields.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    service: Name,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct Name {
    namespace: String,
    name: String,
}

async fn answer(State(checked): State<Checked>) -> impl IntoResponse {
    let check = checked.check.borrow();
    let healthy = checked.health.can_serve(&check.service, Instant::now());
    // A request may arrive on a connection that is older than the removal of the health check.
    let endpoints = if checked.is_closed() {
        0
    } else {
        check.local_endpoints
    };
    let code = if endpoints > 0 && healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let headers = [
        (
            header::X_CONTENT_TYPE_OPTIONS.as_str(),
            "nosniff".to_owned(),
        ),
        ("x-load-balancing-endpoint-weight", endpoints.to_string()),
    ];
    let answer = Answer {
        service: Name {
            namespace: check.service.namespace.to_string(),
            name: check.service.name.to_string(),
        },
        local_endpoints: endpoints,
        service_proxy_healthy: healthy,
    };
    (code, headers, Json(answer))
}
