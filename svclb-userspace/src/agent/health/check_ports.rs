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
use svclb_core::model::{ObjectKey, ObjectName};
use svclb_core::plan::HealthCheck;
use svclb_source::{EventRecorder, KubeEvent};
use tokio::net::TcpListener;
use tokio::sync::mpsc::error::TrySendError;
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
    limits: Limits,
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
        limits: Limits,
    ) -> Self {
        Self {
            addresses,
            health,
            event_recorder,
            limits,
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
            let at = SocketAddr::new(*ip, port);
            tokio::spawn(serve_at(at, check, event_recorder, self.limits.clone()));
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
async fn serve_at(at: SocketAddr, checked: Checked, event_recorder: EventRecorder, limits: Limits) {
    let listener = tokio::select! {
        listener = open_with_retry(at, &checked, &event_recorder) => listener,
        () = checked.clone().closed() => return,
    };
    let routes = Router::new().fallback(answer).with_state(checked.clone());
    server::serve(listener, routes, limits, checked.closed()).await;
}

/// Tries until the port can be opened: another process may have it for a while.
async fn open_with_retry(
    at: SocketAddr,
    checked: &Checked,
    event_recorder: &EventRecorder,
) -> TcpListener {
    let service = checked.check.borrow().service.clone();
    let [mut delay, longest] = RETRY;
    let mut problem = Problem::default();
    loop {
        match listen(at) {
            Ok(listener) => {
                if problem.warned {
                    info!("the health check of Service {service} is served at {at} now");
                } else {
                    debug!("the health check of Service {service} is served at {at}");
                }
                return listener;
            }
            Err(error) if delay >= WARN_AFTER => {
                problem.report(&service, at, &error, event_recorder);
            }
            Err(_) => {}
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(longest);
    }
}

/// What was said about a port that cannot be opened.
#[derive(Default)]
struct Problem {
    /// Logged.
    warned: bool,
    /// Given to the event recorder.
    reported: bool,
}

impl Problem {
    /// Logs the problem once and sends one Event. While the recorder's queue is full (many
    /// Services may have the problem at once) the Event is left to the next try, which has its
    /// pace.
    fn report(
        &mut self,
        service: &ObjectName,
        at: SocketAddr,
        error: &io::Error,
        event_recorder: &EventRecorder,
    ) {
        if self.warned && self.reported {
            return;
        }
        let line = format!(
            "the health check of Service {service} cannot be opened at {at} and is tried again: \
             {error}; `ss -ltnp` shows who has the port"
        );
        if !std::mem::replace(&mut self.warned, true) {
            warn!("{line}");
        }
        // kube-proxy's reason.
        let event = KubeEvent {
            regarding: ObjectKey::Service(service.clone()),
            uid: None,
            reason: "FailedToStartServiceHealthcheck",
            action: "Listen",
            note: line,
        };
        self.reported = match event_recorder.try_send(event) {
            Err(TrySendError::Full(_)) => false,
            // No source is there to take it.
            Ok(()) | Err(TrySendError::Closed(_)) => true,
        };
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

#[cfg(test)]
mod tests {
    use svclb_source::event_recorder;

    use super::*;

    #[test]
    fn an_event_that_does_not_fit_the_queue_is_sent_at_a_later_try_and_once() {
        let (recorder, mut events) = event_recorder();
        let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 32000));
        let error = io::Error::from(io::ErrorKind::AddrInUse);
        let mut problems: Vec<_> = (0..40).map(|_| Problem::default()).collect();
        let mut services = std::collections::BTreeSet::new();
        let mut sent = 0;
        for _try in 0..5 {
            for (number, problem) in problems.iter_mut().enumerate() {
                let service = ObjectName::new("default", format!("s{number}"));
                problem.report(&service, at, &error, &recorder);
                assert!(problem.warned);
            }
            while let Ok(event) = events.try_recv() {
                services.insert(event.regarding);
                sent += 1;
            }
        }
        assert_eq!((services.len(), sent), (40, 40));
    }
}
