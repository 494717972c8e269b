//! Connections to the API server.
//!
//! kube's own have no TCP keepalive, no HTTP/2, and no limit for each address: one that answers
//! nothing would take the whole time, and the next one never have its turn.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use std::{io, vec};

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connection, HttpConnector};
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::Body;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tower::util::BoxCloneService;
use tower::{Service, ServiceExt};

use super::proxy::{Proxy, ProxyKind};
use crate::kube::timeouts::ApiTimeouts;

/// Sends requests over a pool of connections.
pub(super) type Requests = BoxCloneService<Request<Body>, Response<Incoming>, Error>;

/// Between two keepalives.
pub(crate) fn keepalive_interval(timeouts: &ApiTimeouts) -> Duration {
    (timeouts.tcp / 2 / keepalive_retries()).max(Duration::from_secs(1))
}

/// How many keepalives may go unanswered.
pub(crate) const fn keepalive_retries() -> u32 {
    3
}

/// Which of the API server's addresses is tried first. A clone is another handle to the same.
///
/// The addresses of a name are sorted, so that the next one after a failure is another one whatever
/// the order of the DNS server's answer; each agent begins with one of its own.
#[derive(Clone, Debug)]
pub(super) struct FirstAddress {
    start: usize,
    turn: Arc<AtomicUsize>,
}

impl FirstAddress {
    pub(super) fn new(start: usize) -> Self {
        Self {
            start,
            turn: Arc::default(),
        }
    }

    /// Whose turn it is.
    pub(super) fn turn(&self) -> usize {
        self.turn.load(Ordering::Relaxed)
    }

    /// The address whose turn it was failed: it is that of the next one. Of several requests that
    /// failed by the same address, one counts.
    pub(super) fn advance(&self, turn: usize) {
        let next = turn.wrapping_add(1);
        let _counted = self
            .turn
            .compare_exchange(turn, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// At first those of the family that the system prefers.
    fn order(&self, addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
        let mut addresses: Vec<_> = addresses.collect();
        let prefers_ipv4 = addresses.first().is_some_and(IpAddr::is_ipv4);
        addresses.sort_unstable();
        addresses.dedup();
        let (mut preferred, other): (Vec<_>, Vec<_>) = addresses
            .into_iter()
            .partition(|ip| ip.is_ipv4() == prefers_ipv4);
        rotate(&mut preferred, self.start);
        preferred.extend(other);
        rotate(&mut preferred, self.turn());
        preferred
    }
}

fn rotate(addresses: &mut [IpAddr], by: usize) {
    let by = by.checked_rem(addresses.len()).unwrap_or_default();
    addresses.rotate_left(by);
}

/// The system's resolver, with the addresses in [`FirstAddress`]'s order.
#[derive(Clone)]
pub(super) struct Resolver {
    system: GaiResolver,
    first: FirstAddress,
}

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.system.poll_ready(context)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let found = self.system.call(name);
        let first = self.first.clone();
        Box::pin(async move {
            let found = found.await?;
            let ordered = first.order(found.map(|address| address.ip()));
            let addresses = ordered.into_iter().map(|ip| SocketAddr::new(ip, 0));
            Ok(addresses.collect::<Vec<_>>().into_iter())
        })
    }
}

/// How to reach one API server.
pub(super) struct Route {
    pub(super) tls: ClientConfig,
    /// Instead of the URL's host.
    pub(super) server_name: Option<ServerName<'static>>,
    pub(super) proxy: Option<Proxy>,
    pub(super) first: FirstAddress,
}

/// A pool of connections, which has none yet.
pub(super) fn requests(route: Route, timeouts: &ApiTimeouts) -> Requests {
    let tcp = tcp(route.first.clone(), timeouts);
    match route.proxy.clone() {
        None => pool(tcp, route, timeouts),
        Some(proxy) => match proxy.kind {
            ProxyKind::Socks { user } => {
                let mut socks = SocksV5::new(proxy.uri, tcp);
                if let Some((user, password)) = user {
                    socks = socks.with_auth(user, password);
                }
                pool(socks, route, timeouts)
            }
            ProxyKind::Http { authorization } => {
                // It passes addresses of scheme http on in clear.
                let to_proxy = HttpsConnectorBuilder::new()
                    .with_tls_config(route.tls.clone())
                    .https_or_http()
                    .enable_http1()
                    .wrap_connector(tcp);
                let mut tunnel = Tunnel::new(proxy.uri, to_proxy);
                if let Some(authorization) = authorization {
                    tunnel = tunnel.with_auth(authorization);
                }
                pool(tunnel, route, timeouts)
            }
        },
    }
}

fn tcp(first: FirstAddress, timeouts: &ApiTimeouts) -> HttpConnector<Resolver> {
    let system = GaiResolver::new();
    let mut tcp = HttpConnector::new_with_resolver(Resolver { system, first });
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    // Every address has a part of it.
    tcp.set_connect_timeout(Some(timeouts.connect * 3 / 4));
    tcp.set_keepalive(Some((timeouts.tcp / 2).max(Duration::from_secs(1))));
    tcp.set_keepalive_interval(Some(keepalive_interval(timeouts)));
    tcp.set_keepalive_retries(Some(keepalive_retries()));
    tcp.set_tcp_user_timeout(Some(timeouts.tcp));
    tcp
}

fn pool<C>(connector: C, route: Route, timeouts: &ApiTimeouts) -> Requests
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Connection + Read + Write + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: Into<Box<dyn std::error::Error + Send + Sync>> + std::error::Error + Send + Sync,
{
    let mut builder = HttpsConnectorBuilder::new()
        .with_tls_config(route.tls)
        .https_or_http();
    if let Some(name) = route.server_name {
        builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    let https: HttpsConnector<C> = builder
        .enable_http1()
        .enable_http2()
        .wrap_connector(connector);
    let mut limited = TimeoutConnector::new(https);
    limited.set_connect_timeout(Some(timeouts.connect));
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_keep_alive_interval(timeouts.ping)
        .http2_keep_alive_timeout(timeouts.pong)
        .build::<_, Body>(limited)
        .boxed_clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failure_another_address_is_first_whatever_the_resolvers_order() {
        let first = FirstAddress::new(0);
        let ips = |ips: [&str; 3]| ips.map(|ip| ip.parse::<IpAddr>().unwrap());
        let resolved = ips(["192.0.2.2", "2001:db8::1", "192.0.2.1"]);
        let order = first.order(resolved.into_iter());
        assert_eq!(order, ips(["192.0.2.1", "192.0.2.2", "2001:db8::1"]));
        // Two requests fail by one address.
        first.advance(0);
        first.advance(0);
        let resolved = ips(["192.0.2.1", "2001:db8::1", "192.0.2.2"]);
        let order = first.order(resolved.into_iter());
        assert_eq!(order, ips(["192.0.2.2", "2001:db8::1", "192.0.2.1"]));
        first.advance(1);
        let order = first.order(ips(["192.0.2.1", "2001:db8::1", "192.0.2.1"]).into_iter());
        assert_eq!(order.len(), 2);
    }

    #[test]
    fn agents_begin_with_different_addresses_of_the_preferred_family() {
        let ips = ["192.0.2.1", "192.0.2.2", "2001:db8::1"];
        let ips = ips.map(|ip| ip.parse::<IpAddr>().unwrap());
        let begin = |start| FirstAddress::new(start).order(ips.into_iter())[0];
        assert_eq!([0, 1, 2].map(begin), [ips[0], ips[1], ips[0]]);
    }
}
