//! The Kubernetes source against an API server that misbehaves.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use svclb_core::model::{Event, Object, ObjectKey};
use svclb_source::{KubeOptions, Status, kubernetes};
use tokio::sync::mpsc::{Receiver, UnboundedSender, channel, unbounded_channel};
use tokio::time::timeout;

/// How the API server behaves.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Mood {
    #[default]
    Well,
    /// Every request is answered with 500.
    Broken,
}

#[derive(Default)]
struct Inner {
    mood: Mood,
    version: u64,
    /// By resource, then by name.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    watches: BTreeMap<String, Vec<UnboundedSender<String>>>,
    /// What a watch that begins at an earlier version is told: version, resource, line.
    history: Vec<(u64, String, String)>,
    selectors: Vec<(String, String)>,
    listings: usize,
}

/// An API server that lists and watches three kinds.
#[derive(Clone, Default)]
struct Double(Arc<Mutex<Inner>>);

impl Double {
    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.0.lock().unwrap())
    }

    fn put(&self, resource: &str, mut object: Value) {
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

    fn remove(&self, resource: &str, name: &str) {
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

    /// What happens while nobody watches.
    fn quietly(&self, act: impl FnOnce(&Self)) {
        self.drop_watches();
        act(self);
    }

    fn drop_watches(&self) {
        self.with(|inner| inner.watches.clear());
    }

    /// As etcd does when the history that a watch asks for is compacted.
    fn gone(&self) {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
            "code": 410, "reason": "Expired", "message": "too old resource version"});
        self.with(|inner| {
            for resource in ["services", "endpointslices", "nodes"] {
                inner.say(
                    resource,
                    &json!({"type": "ERROR", "object": status}).to_string(),
                );
            }
        });
        self.drop_watches();
    }

    async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new()
            .route("/api/v1/{resource}", get(answer))
            .route("/apis/discovery.k8s.io/v1/{resource}", get(answer))
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        format!("http://{address}")
    }
}

impl Inner {
    /// Something that belongs to the history.
    fn record(&mut self, resource: &str, line: &str) {
        self.history
            .push((self.version, resource.to_owned(), format!("{line}\n")));
        self.say(resource, line);
    }

    fn say(&mut self, resource: &str, line: &str) {
        if let Some(watches) = self.watches.get_mut(resource) {
            watches.retain(|watch| watch.send(format!("{line}\n")).is_ok());
        }
    }
}

async fn answer(
    State(double): State<Double>,
    Path(resource): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    double.with(|inner| {
        if inner.mood == Mood::Broken {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
        let selector = query.get("labelSelector").or(query.get("fieldSelector"));
        inner
            .selectors
            .push((resource.clone(), selector.cloned().unwrap_or_default()));
        if query.get("watch").is_some_and(|watch| watch != "false") {
            let (sender, receiver) = unbounded_channel::<String>();
            let from: u64 = query["resourceVersion"].parse().unwrap();
            for (version, of, line) in &inner.history {
                if *version > from && *of == resource {
                    sender.send(line.clone()).unwrap();
                }
            }
            inner.watches.entry(resource).or_default().push(sender);
            let lines = futures_util::stream::unfold(receiver, async |mut receiver| {
                let line = receiver.recv().await?;
                Some((Ok::<_, std::io::Error>(Bytes::from(line)), receiver))
            });
            return Body::from_stream(lines).into_response();
        }
        inner.listings += 1;
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

fn service(name: &str, port: u16) -> Value {
    json!({"metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": port}]}})
}

fn slice(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default",
            "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}],
        "ports": [{"name": "", "port": 8080}]})
}

struct Run {
    double: Double,
    events: Receiver<Vec<Event>>,
    status: Status,
    _dir: tempfile::TempDir,
}

/// A source that follows a double with one Service and one slice.
async fn run() -> Run {
    let double = Double::default();
    double.put("services", service("web", 80));
    double.put("endpointslices", slice("web-1"));
    let url = double.start().await;
    let dir = tempfile::TempDir::new().unwrap();
    let kubeconfig = dir.path().join("config");
    std::fs::write(
        &kubeconfig,
        json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "k", "cluster": {"server": "http://127.0.0.1:1"}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}]})
        .to_string(),
    )
    .unwrap();
    let (sender, events) = channel(64);
    let status = Status::default();
    let options = KubeOptions {
        kubeconfig: Some(kubeconfig),
        apiserver: Some(url),
        node_name: "node1".into(),
    };
    tokio::spawn(kubernetes(options, sender, status.clone()));
    Run {
        double,
        events,
        status,
        _dir: dir,
    }
}

impl Run {
    /// The next event, in words.
    async fn next(&mut self, waiting: &mut Vec<Event>) -> String {
        while waiting.is_empty() {
            *waiting = timeout(Duration::from_secs(20), self.events.recv())
                .await
                .expect("nothing was said in 20 s")
                .expect("the source ended");
        }
        match waiting.remove(0) {
            Event::Apply(Object::Service(s)) => format!("{} {}", s.name.name, s.ports[0].port),
            Event::Apply(Object::EndpointSlice(s)) => s.name.name.to_string(),
            Event::Apply(Object::Node(n)) => n.name.to_string(),
            Event::Delete(ObjectKey::Service(n) | ObjectKey::EndpointSlice(n)) => {
                format!("no {}", n.name)
            }
            Event::Delete(ObjectKey::Node) => "no node".to_owned(),
            Event::Synced => "synced".to_owned(),
        }
    }

    async fn expect(&mut self, expected: &[&str]) {
        let mut waiting = Vec::new();
        let mut said = Vec::new();
        for _ in expected {
            said.push(self.next(&mut waiting).await);
        }
        let mut expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
        expected.sort();
        said.sort();
        assert_eq!(said, expected);
        assert!(waiting.is_empty(), "and more: {waiting:?}");
    }

    async fn silence(&mut self, time: Duration) {
        let said = timeout(time, self.events.recv()).await;
        assert!(said.is_err(), "{said:?}");
    }
}

#[tokio::test]
async fn what_exists_is_said_once_and_then_what_changes() {
    let mut run = run().await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    assert!(run.status.synced() && run.status.connected());
    let selectors = run.double.with(|inner| inner.selectors.clone());
    let ours = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";
    for (resource, selector) in selectors {
        let expected = if resource == "nodes" {
            "metadata.name=node1"
        } else {
            ours
        };
        assert_eq!(selector, expected, "of {resource}");
    }
    // The watches begin shortly after the listing.
    while run.double.with(|inner| inner.watches.len()) < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    run.double.put("services", service("web", 81));
    run.expect(&["web 81"]).await;
    run.double.remove("endpointslices", "web-1");
    run.expect(&["no web-1"]).await;
}

#[tokio::test]
async fn after_410_gone_only_the_differences_are_said() {
    let mut run = run().await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    while run.double.with(|inner| inner.watches.len()) < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let listings = run.double.with(|inner| inner.listings);
    run.double.gone();
    run.double.quietly(|double| {
        double.put("services", service("other", 90));
        double.remove("endpointslices", "web-1");
    });
    run.expect(&["other 90", "no web-1"]).await;
    assert!(
        run.double.with(|inner| inner.listings) > listings,
        "nothing was listed again"
    );
    run.silence(Duration::from_secs(2)).await;
}

#[tokio::test]
async fn while_the_api_server_is_broken_what_was_said_stays_said() {
    let mut run = run().await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    run.double.with(|inner| inner.mood = Mood::Broken);
    run.double.drop_watches();
    run.silence(Duration::from_secs(3)).await;
    assert!(!run.status.connected(), "nobody noticed");
    run.double.with(|inner| inner.mood = Mood::Well);
    run.double.put("services", service("late", 70));
    run.expect(&["late 70"]).await;
    assert!(run.status.synced());
}

#[tokio::test]
async fn an_event_cut_in_half_is_no_event() {
    let mut run = run().await;
    run.expect(&["web 80", "web-1", "synced"]).await;
    while run.double.with(|inner| inner.watches.len()) < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    run.double.with(|inner| {
        for watch in inner.watches.get("services").into_iter().flatten() {
            watch
                .send("{\"type\":\"MODIFIED\",\"object\":{\"metadata\":{\"na".to_owned())
                .unwrap();
        }
    });
    run.double
        .quietly(|double| double.put("services", service("web", 82)));
    run.expect(&["web 82"]).await;
}
