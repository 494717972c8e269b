//! A client of the API server that notices when nothing comes back, and whose credentials change.
//!
//! Each phase of a request has a limit (see [`ApiTimeouts`]). After silence the next request is
//! sent over a new connection, to the next address of the API server's name. Before requests the
//! files with credentials are read again from time to time, and plugins run again before what they
//! gave expires; both at once when the API server says 401.

mod access;
mod body;
pub(super) mod connector;
mod exec_plugin;
mod identity;
mod proxy;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::Shared;
use http::header::{AUTHORIZATION, RETRY_AFTER};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use jiff::Timestamp;
use kube::Client;
use kube::client::{Body, ConfigExt as _};
use rustls::pki_types::ServerName;
use svclb_core::error_chain::error_chain;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};
use tower::util::BoxCloneService;
use tower::util::rng::{HasherRng, Rng as _};
use tower::{BoxError, ServiceBuilder, ServiceExt as _, service_fn};
use tracing::{debug, warn};

use super::KubeOptions;
use super::timeouts::ApiTimeouts;
use crate::error::SourceError;
use crate::status::Status;
use access::{Access, Files, bearer};
use body::{GuardedBody, Limits, Silent, guarded};
use connector::{FirstAddress, Route};
use identity::Identity;

/// A plugin is not run again sooner than this because of a 401.
const PLUGIN_PAUSE: Duration = Duration::from_secs(5);

/// What is sent to the API server goes through this.
pub(super) struct ApiClient {
    options: KubeOptions,
    timeouts: ApiTimeouts,
    status: Status,
    first: FirstAddress,
    held: tokio::sync::Mutex<Held>,
    /// Before this time no request is sent: the API server asked for it.
    not_before: Mutex<Option<Instant>>,
    /// The watches that stand end when the sender is dropped.
    watches: Mutex<(oneshot::Sender<()>, WatchesEnd)>,
}

type WatchesEnd = Shared<oneshot::Receiver<()>>;

/// The credentials, and the connections that were made with them.
struct Held {
    access: Access,
    files: Files,
    /// When the files were last looked at.
    checked: Instant,
    plugged: Option<Plugged>,
    /// Counts up with every change of `connections`.
    generation: u64,
    connections: Option<Connections>,
    /// Whether it is logged that credentials cannot be renewed.
    warned: bool,
}

/// What a plugin gave.
struct Plugged {
    identity: Option<Identity>,
    authorization: Option<HeaderValue>,
    at: Instant,
    renew_at: Option<Timestamp>,
}

/// A pool of connections, with the credentials that they were made with.
#[derive(Clone)]
struct Connections {
    generation: u64,
    authorization: Option<HeaderValue>,
    requests: BoxCloneService<Request<Body>, Response<Incoming>, BoxError>,
}

/// Marks a request for a watch that is to bring a word, and soon.
#[derive(Clone, Copy)]
pub(super) struct AsksForWord;

/// Some connections.
#[derive(Clone, Copy)]
pub(super) struct Present {
    turn: usize,
    generation: u64,
}

impl ApiClient {
    /// # Errors
    /// [`SourceError`] for a configuration that cannot be used. A plugin is not run yet.
    pub(super) async fn new(
        options: &KubeOptions,
        status: Status,
    ) -> Result<Arc<Self>, SourceError> {
        let (access, files) = access::read(options).await?;
        let start = usize::try_from(HasherRng::new().next_u64() / 2).unwrap_or_default();
        let first = FirstAddress::new(start);
        let timeouts = options.api_timeouts;
        let mut held = Held {
            access,
            files,
            checked: Instant::now(),
            plugged: None,
            generation: 0,
            connections: None,
            warned: false,
        };
        // What is wrong with certificates is said at the start.
        let connected = held.connect(&first, &timeouts);
        connected.map_err(|reason| SourceError::Config { reason })?;
        Ok(Arc::new(Self {
            options: options.clone(),
            timeouts,
            status,
            first,
            held: tokio::sync::Mutex::new(held),
            not_before: Mutex::new(None),
            watches: Mutex::new(watches()),
        }))
    }

    /// kube's client over this one.
    pub(super) async fn client(self: &Arc<Self>) -> Client {
        let held = self.held.lock().await;
        let default_namespace = held.access.config.default_namespace.clone();
        let own = Arc::clone(self);
        let service = service_fn(move |request| {
            let own = Arc::clone(&own);
            async move { own.send(request).await }
        });
        Client::new(service, default_namespace)
    }

    pub(super) const fn timeouts(&self) -> &ApiTimeouts {
        &self.timeouts
    }

    /// Ends the watches that stand, so that they are begun anew where they were.
    pub(super) fn end_watches(&self) {
        *lock(&self.watches) = watches();
    }

    /// Sends a request, and guards its response.
    async fn send(&self, request: Request<Body>) -> Result<Response<GuardedBody>, BoxError> {
        self.wait_for_retry_after().await;
        let asks_for_watch = is_watch(&request);
        let asks_for_word = request.extensions().get::<AsksForWord>().is_some();
        let (parts, body) = request.into_parts();
        let again = body.try_clone();
        let request = Request::from_parts(parts.clone(), body);
        let (mut response, generation) = self.attempt(request, asks_for_watch).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(body) = again
            && self.renew_after_401(generation).await
        {
            let request = Request::from_parts(parts, body);
            (response, _) = self.attempt(request, asks_for_watch).await?;
        }
        self.note_retry_after(&response);
        let is_http1 = response.version() < Version::HTTP_2;
        let is_watch = asks_for_watch && response.status().is_success() && !asks_for_word;
        let limits = match (is_watch, asks_for_word) {
            (true, _) => Limits {
                silence: match is_http1 {
                    true => self.timeouts.quiet,
                    false => self.timeouts.bookmark,
                },
                whole: None,
                // No ping says whether the connection is still one: the watch is begun anew.
                silence_is_end: is_http1,
                is_watch,
            },
            (false, true) => Limits {
                silence: self.timeouts.watch_response,
                whole: None,
                silence_is_end: false,
                is_watch,
            },
            (false, false) => Limits {
                silence: self.timeouts.body,
                whole: Some(self.timeouts.whole),
                silence_is_end: false,
                is_watch,
            },
        };
        let watches_end = lock(&self.watches).1.clone().map(|_dropped| ());
        let status = self.status.clone();
        Ok(response.map(|body| guarded(body, limits, watches_end, move || status.said())))
    }

    async fn attempt(
        &self,
        mut request: Request<Body>,
        asks_for_watch: bool,
    ) -> Result<(Response<Incoming>, u64), BoxError> {
        let connections = self.connections().await?;
        if let Some(authorization) = connections.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization);
        }
        let limit = match asks_for_watch {
            true => self.timeouts.watch_response,
            false => self.timeouts.response,
        };
        let turn = self.first.turn();
        match timeout(limit, connections.requests.oneshot(request)).await {
            Ok(Ok(response)) => {
                self.status.heard();
                Ok((response, connections.generation))
            }
            Ok(Err(error)) => {
                let kind = error.downcast_ref::<hyper_util::client::legacy::Error>();
                if kind.is_some_and(hyper_util::client::legacy::Error::is_connect) {
                    self.first.advance(turn);
                }
                Err(error)
            }
            Err(_elapsed) => {
                let generation = connections.generation;
                self.leave(Present { turn, generation }).await;
                Err(Silent::NoResponse(limit).into())
            }
        }
    }

    /// The connections to use now. The credentials are renewed first, if that is due.
    async fn connections(&self) -> Result<Connections, BoxError> {
        let mut held = self.held.lock().await;
        if held.checked.elapsed() >= self.timeouts.credentials {
            held.checked = Instant::now();
            if held.files.have_changed() {
                self.read_again(&mut held).await;
            }
        }
        if held.is_plugin_due() {
            let ran = self.run_plugin(&mut held).await;
            // What it gave before may still do.
            if held.plugged.is_none() {
                ran?;
            }
        }
        let connections = held.connections.clone();
        connections.ok_or_else(|| "there are no credentials yet".into())
    }

    /// The API server has taken a request for unauthorized that was sent by this generation of
    /// connections. Returns whether there are others now.
    async fn renew_after_401(&self, generation: u64) -> bool {
        let mut held = self.held.lock().await;
        if held.generation != generation {
            return true;
        }
        if held.files.have_changed() {
            self.read_again(&mut held).await;
        }
        let may_run =
            |plugged: &Plugged| plugged.at.elapsed() >= PLUGIN_PAUSE.min(self.timeouts.credentials);
        if held.generation == generation && held.plugged.as_ref().is_some_and(may_run) {
            // It is logged, and the 401 is passed on.
            drop(self.run_plugin(&mut held).await);
        }
        held.generation != generation
    }

    /// Reads the files again. Where they cannot be used, what was read before goes on: files may be
    /// written one after the other.
    async fn read_again(&self, held: &mut Held) {
        let read = access::read(&self.options).await;
        let read = read.map_err(|error| error_chain(&error));
        let connected = read.and_then(|(access, files)| {
            let before = std::mem::replace(&mut held.access, access);
            // One file of several may have been read before it was replaced.
            let before_files = std::mem::replace(&mut held.files, files);
            let connected = held.connect(&self.first, &self.timeouts);
            if connected.is_err() {
                held.access = before;
                held.files = before_files;
            }
            connected
        });
        match connected {
            Ok(()) => {
                // A plugin of before may not be the one of now.
                held.plugged = None;
                held.warned = false;
                debug!("the credentials for the API server were read again");
            }
            Err(error) => held.warn(&error),
        }
    }

    async fn run_plugin(&self, held: &mut Held) -> Result<(), String> {
        let Some(exec) = held.access.exec.clone() else {
            return Ok(());
        };
        let ran = exec_plugin::run(&exec, self.timeouts.plugin).await;
        let plugged = ran.and_then(|given| {
            let from = format!("the plugin {}", exec.command.as_deref().unwrap_or_default());
            let token = given.token.as_deref();
            let pair = given.client_certificate_data.zip(given.client_key_data);
            let now = Timestamp::now();
            Ok(Plugged {
                authorization: token.map(|token| bearer(token, &from)).transpose()?,
                identity: pair.map(|(certificate, key)| Identity {
                    certificate: certificate.into_bytes(),
                    key: key.into_bytes(),
                    from,
                }),
                at: Instant::now(),
                renew_at: given.expiration_timestamp.map(|at| renew_at(now, at)),
            })
        });
        let connected = plugged.and_then(|plugged| {
            let before = held.plugged.replace(plugged);
            let connected = held.connect(&self.first, &self.timeouts);
            if connected.is_err() {
                held.plugged = before;
            }
            connected
        });
        match &connected {
            Ok(()) => held.warned = false,
            Err(error) => {
                held.warn(error);
                // Not at each request.
                if let Some(plugged) = &mut held.plugged {
                    plugged.renew_at = Some(Timestamp::now() + self.timeouts.credentials);
                }
            }
        }
        connected
    }

    /// What the next request would be sent over.
    pub(super) async fn present(&self) -> Present {
        let turn = self.first.turn();
        let generation = self.held.lock().await.generation;
        Present { turn, generation }
    }

    /// The next requests take new connections, to another address: over these nothing came back.
    pub(super) async fn leave(&self, present: Present) {
        self.first.advance(present.turn);
        let mut held = self.held.lock().await;
        if held.generation == present.generation {
            // It succeeded before with the same.
            drop(held.connect(&self.first, &self.timeouts));
        }
    }

    async fn wait_for_retry_after(&self) {
        loop {
            let until = *lock(&self.not_before);
            match until {
                Some(until) if until > Instant::now() => sleep_until(until).await,
                _ => return,
            }
        }
    }

    /// An API server that is too busy says when to come again. All agents of a cluster are told the
    /// same, so that each adds a share of its own, up to as much again.
    fn note_retry_after(&self, response: &Response<Incoming>) {
        let status = response.status();
        if status != StatusCode::TOO_MANY_REQUESTS && !status.is_server_error() {
            return;
        }
        let after = response.headers().get(RETRY_AFTER);
        let after = after.and_then(|after| after.to_str().ok()?.trim().parse().ok());
        let Some(after) = after.map(Duration::from_secs) else {
            return;
        };
        let after = spread(
            after.min(self.timeouts.retry_after),
            HasherRng::new().next_f64(),
        );
        debug!("the API server is too busy ({status}); it is asked again in {after:?}");
        let until = Some(Instant::now() + after);
        let mut not_before = lock(&self.not_before);
        *not_before = until.max(*not_before);
    }
}

impl Held {
    /// Makes a new pool of connections with the present credentials.
    fn connect(&mut self, first: &FirstAddress, timeouts: &ApiTimeouts) -> Result<(), String> {
        let config = &self.access.config;
        let failed = |error: kube::Error| error_chain(&error);
        let mut tls = config.rustls_client_config().map_err(failed)?;
        let plugged = self.plugged.as_ref();
        let identity = plugged.and_then(|plugged| plugged.identity.as_ref());
        if let Some(identity) = self.access.identity.as_ref().or(identity) {
            tls.client_auth_cert_resolver = identity.resolver(tls.crypto_provider())?;
        }
        let server_name = config.tls_server_name.clone();
        let server_name = server_name.map(|name| {
            let parsed = ServerName::try_from(name.clone());
            parsed.map_err(|error| format!("tls-server-name: {name}: {error}"))
        });
        let route = Route {
            tls,
            server_name: server_name.transpose()?,
            proxy: self.access.proxy.clone(),
            first: first.clone(),
        };
        let requests = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(config.auth_layer().map_err(failed)?)
            .layer(config.extra_headers_layer().map_err(failed)?)
            .map_err(BoxError::from)
            .service(connector::requests(route, timeouts));
        let authorization = self.access.authorization.as_ref();
        let authorization = authorization.or(plugged.and_then(|p| p.authorization.as_ref()));
        self.generation += 1;
        self.connections = Some(Connections {
            generation: self.generation,
            authorization: authorization.cloned(),
            requests: requests.boxed_clone(),
        });
        Ok(())
    }

    fn is_plugin_due(&self) -> bool {
        let renew_at = self.plugged.as_ref().map(|plugged| plugged.renew_at);
        self.access.exec.is_some()
            && renew_at.is_none_or(|at| at.is_some_and(|at| at <= Timestamp::now()))
    }

    /// Logged once, until they can be renewed.
    fn warn(&mut self, error: &str) {
        if !std::mem::replace(&mut self.warned, true) {
            warn!(
                "the credentials for the API server cannot be renewed, and those of before go on: {error}"
            );
        }
    }
}

fn watches() -> (oneshot::Sender<()>, WatchesEnd) {
    let (sender, end) = oneshot::channel();
    (sender, end.shared())
}

fn is_watch(request: &Request<Body>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    query
        .split('&')
        .any(|field| field == "watch=true" || field == "watch=1")
}

/// A minute before they expire, or when three quarters of their time are over.
fn renew_at(now: Timestamp, expires: Timestamp) -> Timestamp {
    let minute = Duration::from_secs(60);
    let left = Duration::try_from(now.duration_until(expires)).unwrap_or_default();
    expires - minute.min(left / 4)
}

/// `share` is from 0 to 1. A second at least is spread over.
fn spread(after: Duration, share: f64) -> Duration {
    after
        + after
            .max(Duration::from_secs(1))
            .mul_f64(share.clamp(0.0, 1.0))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_renewed_before_they_expire() {
        let now = Timestamp::now();
        let in_seconds = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(renew_at(now, in_seconds(3600)), in_seconds(3540));
        assert_eq!(renew_at(now, in_seconds(40)), in_seconds(30));
        assert_eq!(renew_at(now, now), now);
        assert!(renew_at(now, now - Duration::from_secs(60)) < now);
    }

    #[test]
    fn agents_that_are_told_the_same_come_back_at_different_times() {
        let second = Duration::from_secs(1);
        assert_eq!(spread(second * 10, 0.0), second * 10);
        assert_eq!(spread(second * 10, 0.5), second * 15);
        assert_eq!(spread(Duration::ZERO, 0.5), second / 2);
    }

    #[test]
    fn watches_are_told_from_lists() {
        for (path, expected) in [
            ("/api/v1/services?&watch=true&resourceVersion=1", true),
            ("/api/v1/services?&resourceVersion=0&watch=1", true),
            ("/api/v1/services?&labelSelector=watch%3Dtrue", false),
            ("/api/v1/services", false),
        ] {
            let request = Request::get(path).body(Body::empty()).unwrap();
            assert_eq!(is_watch(&request), expected, "{path}");
        }
    }
}
