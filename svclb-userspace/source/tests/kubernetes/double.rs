//! An API server that lists and watches three kinds, and misbehaves on demand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout_at};

use super::SELECTOR;
use super::tls::{Clients, TlsListener};

/// kube-apiserver's is a minute.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(1);

/// How the API server behaves.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mood {
    #[default]
    Well,
    /// The response to every request is 500.
    Broken,
    /// Every response takes so long.
    Slow(Duration),
    /// No list is responded to.
    HangsAtLists,
    /// No watch is responded to.
    HangsAtWatches,
    /// Watches are accepted; nothing ever comes, not even their end.
    Mute,
    /// 429, with this `Retry-After`.
    Busy(u64),
}

/// By resource, then by name.
pub(crate) type Objects = BTreeMap<String, BTreeMap<String, Value>>;

#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) mood: Mood,
    version: u64,
    pub(crate) objects: Objects,
    pub(crate) watches: BTreeMap<String, Vec<UnboundedSender<String>>>,
    /// What a watch that begins at an earlier version gets first: version, resource, line.
    history: Vec<(u64, String, String)>,
    pub(crate) selectors: Vec<(String, String)>,
    pub(crate) listings: usize,
    /// The `resourceVersion` that each list was requested at, by resource.
    pub(crate) lists: Vec<(String, Option<String>)>,
    /// How many requests were responded to with an error.
    pub(crate) failures: usize,
    /// The token that a request has to have, if any.
    pub(crate) token: Option<String>,
    /// When each request came, and with which `Authorization`.
    pub(crate) requests: Vec<(Instant, String)>,
    /// What clients did by TLS.
    pub(crate) clients: Arc<Mutex<Clients>>,
    /// Events that were written, with the namespace.
    pub(crate) written: Vec<(String, Value)>,
}

/// A handle to it.
#[derive(Clone, Default)]
pub(crate) struct Double(Arc<Mutex<Inner>>);

impl Double {
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.0.lock().unwrap())
    }

    /// Adds or replaces an object. To a watch, one that the selector leaves out is
    /// deleted.
    pub(crate) fn put(&self, resource: &str, mut object: Value) {
        if is_left_out(&object) {
            self.remove(resource, object["metadata"]["name"].as_str().unwrap());
            return;
        }
        self.with(|inner| {
            inner.version += 1;
            object["metadata"]["resourceVersion"] = json!(inner.version.to_string());
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            let objects = inner.objects.entry(resource.to_owned()).or_default();
            let kind = if objects.insert(name, object.clone()).is_some() {
                "MODIFIED"
            } else {
                "ADDED"
            };
            inner.record(
                resource,
                &json!({"type": kind, "object": object}).to_string(),
            );
        });
    }

    pub(crate) fn remove(&self, resource: &str, name: &str) {
        self.with(|inner| {
            let gone = inner
                .objects
                .get_mut(resource)
                .and_then(|all| all.remove(name))
                .unwrap();
            inner.version += 1;
            inner.record(
                resource,
                &json!({"type": "DELETED", "object": gone}).to_string(),
            );
        });
    }

    /// What happens while no watch stands.
    pub(crate) fn quietly(&self, act: impl FnOnce(&Self)) {
        self.drop_watches();
        act(self);
    }

    pub(crate) fn drop_watches(&self) {
        self.with(|inner| inner.watches.clear());
    }

    /// As etcd does when the history that a watch asks for is compacted.
    pub(crate) fn gone(&self) {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
            "code": 410, "reason": "Expired", "message": "too old resource version"});
        self.with(|inner| {
            for resource in ["services", "endpointslices", "nodes"] {
                inner.send(
                    resource,
                    &json!({"type": "ERROR", "object": status}).to_string(),
                );
            }
        });
        self.drop_watches();
    }

    /// Serves HTTP/1 in clear.
    pub(crate) async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = self.routes();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        format!("http://{address}")
    }

    /// Serves HTTP/2 and HTTP/1 by TLS, at 127.0.0.1; returns the port. A client may show a
    /// certificate.
    pub(crate) async fn start_tls(&self) -> u16 {
        self.start_tls_at(0).await
    }

    pub(crate) async fn start_tls_at(&self, port: u16) -> u16 {
        let clients = self.with(|inner| Arc::clone(&inner.clients));
        let listener = TlsListener::bind(port, clients).await;
        let port = listener.port();
        let routes = self.routes();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        port
    }

    /// The next line of a watch without one: a bookmark.
    fn bookmark(&self, receiver: &mut UnboundedReceiver<String>) -> String {
        self.with(|inner| {
            let version = inner.version.to_string();
            let bookmark = json!({"type": "BOOKMARK", "object": {"kind": "", "apiVersion": "",
                "metadata": {"resourceVersion": version}}});
            receiver.try_recv().unwrap_or(format!("{bookmark}\n"))
        })
    }

    fn routes(&self) -> Router {
        Router::new()
            .route("/api/v1/{resource}", get(read))
            .route(
                "/api/v1/namespaces/{namespace}/services",
                get(list_services_by_name),
            )
            .route("/apis/discovery.k8s.io/v1/{resource}", get(read))
            .route(
                "/apis/events.k8s.io/v1/namespaces/{namespace}/events",
                post(write_event),
            )
            .layer(from_fn_with_state(self.clone(), admit))
            .with_state(self.clone())
    }
}

/// Who is refused before anything is read.
async fn admit(State(double): State<Double>, request: Request, next: Next) -> Response {
    let authorization = request.headers().get(header::AUTHORIZATION);
    let authorization = authorization.map_or("", |value| value.to_str().unwrap());
    let refused = double.with(|inner| {
        let is_wrong = |token| authorization != format!("Bearer {token}");
        let refused = match inner.mood {
            _ if inner.token.as_ref().is_some_and(is_wrong) => {
                Some(StatusCode::UNAUTHORIZED.into_response())
            }
            Mood::Busy(seconds) => {
                let after = [(header::RETRY_AFTER, seconds.to_string())];
                Some((StatusCode::TOO_MANY_REQUESTS, after).into_response())
            }
            _ => None,
        };
        inner
            .requests
            .push((Instant::now(), authorization.to_owned()));
        refused
    });
    match refused {
        Some(refused) => refused,
        None => next.run(request).await,
    }
}

impl Inner {
    /// Something that belongs to the history.
    fn record(&mut self, resource: &str, line: &str) {
        self.history
            .push((self.version, resource.to_owned(), format!("{line}\n")));
        self.send(resource, line);
    }

    fn send(&mut self, resource: &str, line: &str) {
        if let Some(watches) = self.watches.get_mut(resource) {
            watches.retain(|watch| watch.send(format!("{line}\n")).is_ok());
        }
    }
}

/// Whether [`SELECTOR`] leaves an object out.
fn is_left_out(object: &Value) -> bool {
    let labels = object["metadata"]["labels"].as_object();
    SELECTOR
        .split(",!")
        .map(|label| label.trim_start_matches('!'))
        .any(|label| labels.is_some_and(|labels| labels.contains_key(label)))
}

async fn write_event(
    State(double): State<Double>,
    Path(namespace): Path<String>,
    event: Bytes,
) -> Response {
    let written = serde_json::from_slice(&event).unwrap();
    double.with(|inner| inner.written.push((namespace, written)));
    ([("content-type", "application/json")], event).into_response()
}

async fn list_services_by_name(
    State(double): State<Double>,
    Path(namespace): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let name = query["fieldSelector"].strip_prefix("metadata.name=");
    let items = double.with(|inner| {
        let services = inner.objects.get("services").into_iter();
        let found = services.flat_map(|services| services.get(name.unwrap()));
        let found = found.filter(|service| service["metadata"]["namespace"] == namespace);
        found.cloned().collect::<Vec<_>>()
    });
    let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
        "metadata": {}, "items": items});
    let json_type = [("content-type", "application/json")];
    (json_type, list.to_string()).into_response()
}

async fn read(
    State(double): State<Double>,
    Path(resource): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let is_watch = query.get("watch").is_some_and(|watch| watch != "false");
    match double.with(|inner| inner.mood) {
        Mood::Slow(time) => tokio::time::sleep(time).await,
        Mood::HangsAtLists if !is_watch => std::future::pending().await,
        Mood::HangsAtWatches if is_watch => std::future::pending().await,
        Mood::Mute if is_watch => {
            let nothing = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
            return Body::from_stream(nothing).into_response();
        }
        _ => {}
    }
    double.with(|inner| {
        if inner.mood == Mood::Broken {
            inner.failures += 1;
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
        let selector = query.get("labelSelector").or(query.get("fieldSelector"));
        inner
            .selectors
            .push((resource.clone(), selector.cloned().unwrap_or_default()));
        if is_watch {
            let (sender, receiver) = unbounded_channel::<String>();
            let from: u64 = query["resourceVersion"].parse().unwrap();
            for (version, of, line) in &inner.history {
                if *version > from && *of == resource {
                    sender.send(line.clone()).unwrap();
                }
            }
            inner.watches.entry(resource).or_default().push(sender);
            // As kube-apiserver, it ends a watch after the time that it was asked for.
            let seconds = query
                .get("timeoutSeconds")
                .map(|time| time.parse().unwrap());
            let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(300));
            let open = (receiver, double.clone(), end);
            let lines = futures_util::stream::unfold(open, async |(mut receiver, double, end)| {
                let bookmark_at = Instant::now() + BOOKMARK_INTERVAL;
                let line = timeout_at(end.min(bookmark_at), receiver.recv()).await;
                let line = match line {
                    Ok(line) => line?,
                    Err(_) if end < bookmark_at => return None,
                    Err(_) => double.bookmark(&mut receiver),
                };
                Some((
                    Ok::<_, std::io::Error>(Bytes::from(line)),
                    (receiver, double, end),
                ))
            });
            return Body::from_stream(lines).into_response();
        }
        inner.listings += 1;
        inner
            .lists
            .push((resource.clone(), query.get("resourceVersion").cloned()));
        let (kind, version) = match resource.as_str() {
            "services" => ("ServiceList", "v1"),
            "nodes" => ("NodeList", "v1"),
            _ => ("EndpointSliceList", "discovery.k8s.io/v1"),
        };
        let items: Vec<_> = inner
            .objects
            .get(&resource)
            .into_iter()
            .flat_map(BTreeMap::values)
            .collect();
        axum::http::Response::builder()
            .header("content-type", "application/json")
            .body(Body::from(
                json!({"kind": kind, "apiVersion": version,
                    "metadata": {"resourceVersion": inner.version.to_string()}, "items": items})
                .to_string(),
            ))
            .unwrap()
    })
}
