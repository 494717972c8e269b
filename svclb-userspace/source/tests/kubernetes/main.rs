//! The Kubernetes source against an API server: a double that misbehaves, and a real one.
//!
//! The scenarios of [`both`] run against the double, and, where `KUBEBUILDER_ASSETS` names a
//! folder with `etcd` and `kube-apiserver`, against those, too.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod both;
mod credentials;
mod double;
mod odd_objects;
mod only_double;
mod reach;
mod real;
mod relay;
mod silence;
mod tls;

use std::time::Duration;

use double::Double;
use real::Real;
use serde_json::{Value, json};
use svclb_core::model::{Event, Object, ObjectKey};
use svclb_source::{
    ApiTimeouts, EventRecorder, GuardTimeouts, KubeOptions, SourceError, Status, event_recorder,
    kubernetes,
};
use tempfile::TempDir;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// For how long a suspicious list is held back here.
const CONFIRM_AFTER: Duration = Duration::from_secs(3);

/// The problem that stands in most scenarios: there is no Node.
const NO_NODE: u64 = 1;

/// What the source asks the API server for, of Services and EndpointSlices.
const SELECTOR: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";

fn service(name: &str, port: u16) -> Value {
    // A number of its own for each, as a real API server insists.
    let last = 10 + name.len();
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": format!("10.96.0.{last}"), "ports": [{"port": port}]}})
}

fn slice(name: &str) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "default",
            "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}],
        "ports": [{"name": "", "port": 8080}]})
}

/// An API server.
enum Server {
    Double(Double),
    Real(Box<Real>),
}

impl Server {
    async fn put(&self, resource: &str, object: Value) {
        match self {
            Self::Double(double) => double.put(resource, object),
            Self::Real(real) => real.put(object).await,
        }
    }

    async fn remove(&self, resource: &str, name: &str) {
        match self {
            Self::Double(double) => double.remove(resource, name),
            Self::Real(real) => real.remove(resource, name).await,
        }
    }

    /// All watches break, and the changes until they stand again are missed.
    async fn restart(&mut self) {
        match self {
            Self::Double(double) => double.drop_watches(),
            Self::Real(real) => real.restart().await,
        }
    }
}

/// A source, and the API server that it watches.
struct Run<S> {
    server: S,
    events: Receiver<Vec<Event>>,
    status: Status,
    event_recorder: EventRecorder,
    source: JoinHandle<Result<(), SourceError>>,
    _dir: TempDir,
}

impl Run<Server> {
    /// Watches a server, which is given one Service and one slice first.
    async fn watch(server: Server) -> Self {
        server.put("services", service("web", 80)).await;
        server.put("endpointslices", slice("web-1")).await;
        Self::watch_as_it_is(server, false).await
    }

    /// Watches a server as it is, where something is served already or not.
    async fn watch_as_it_is(server: Server, serves: bool) -> Self {
        let (url, user) = match &server {
            Server::Double(double) => (double.start().await, json!({})),
            Server::Real(real) => (real.url(), json!({"token": Real::TOKEN})),
        };
        let setup = Setup {
            url: Some(url),
            user,
            serves,
            ..Setup::default()
        };
        setup.run(server)
    }
}

/// How a source reaches its API server.
struct Setup {
    /// `--apiserver`
    url: Option<String>,
    /// `clusters[].cluster` of the kubeconfig.
    cluster: Value,
    /// `users[].user` of the kubeconfig.
    user: Value,
    /// Without a kubeconfig, by the service account.
    in_pod: bool,
    serves: bool,
    api_timeouts: ApiTimeouts,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            url: None,
            // Where `url` is given, this address is not the one that counts.
            cluster: json!({"server": "https://127.0.0.1:1", "insecure-skip-tls-verify": true}),
            user: json!({}),
            in_pod: false,
            serves: false,
            api_timeouts: ApiTimeouts::default(),
        }
    }
}

impl Setup {
    /// Starts a source.
    fn run<S>(self, server: S) -> Run<S> {
        let dir = TempDir::new().unwrap();
        let kubeconfig = dir.path().join("config");
        std::fs::write(
            &kubeconfig,
            json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
                "clusters": [{"name": "k", "cluster": self.cluster}],
                "users": [{"name": "u", "user": self.user}],
                "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}]})
            .to_string(),
        )
        .unwrap();
        let (sender, events) = channel(64);
        let status = Status::default();
        let options = KubeOptions {
            kubeconfig: (!self.in_pod).then_some(kubeconfig),
            apiserver: self.url,
            node_name: "node1".into(),
            serves: self.serves,
            guard_timeouts: GuardTimeouts {
                confirm_after: CONFIRM_AFTER,
                ..GuardTimeouts::default()
            },
            api_timeouts: self.api_timeouts,
        };
        let (event_recorder, kube_events) = event_recorder();
        let source = kubernetes(options, sender, status.clone(), kube_events);
        Run {
            server,
            events,
            status,
            event_recorder,
            source: tokio::spawn(source),
            _dir: dir,
        }
    }
}

impl Run<Server> {
    /// The same one, with a handle to the double that it watches.
    fn of_double(self, double: &Double) -> Run<Double> {
        Run {
            server: double.clone(),
            source: self.source,
            events: self.events,
            status: self.status,
            event_recorder: self.event_recorder,
            _dir: self._dir,
        }
    }
}

impl<S> Run<S> {
    /// The events of the next batch, in words.
    async fn next(&mut self) -> Vec<String> {
        let batch = self.events.recv().await.expect("the source ended");
        batch
            .into_iter()
            .map(in_words)
            // A real API server has a Service of its own.
            .filter(|event| !event.contains("kubernetes"))
            .collect()
    }

    /// Exactly these events come, in any order.
    async fn expect(&mut self, expected: &[&str]) {
        let mut sent = Vec::new();
        while sent.len() < expected.len() {
            let more = timeout(Duration::from_secs(60), self.next()).await;
            sent.extend(more.unwrap_or_else(|_| panic!("only {sent:?} was sent in 60 s")));
        }
        let mut expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
        expected.sort();
        sent.sort();
        assert_eq!(sent, expected);
    }

    /// Waits for a state of the connection, with no event.
    async fn wait_for_connected(&self, connected: bool) {
        let wait = async {
            while self.status.connected() != connected {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .unwrap_or_else(|_| panic!("connected is not {connected} after 20 s"));
    }

    /// No more events come for some time.
    async fn silence(&mut self, time: Duration) {
        let sent = timeout(time, async {
            loop {
                let sent = self.next().await;
                if !sent.is_empty() {
                    return sent;
                }
            }
        });
        assert_eq!(sent.await.ok(), None);
    }
}

fn in_words(event: Event) -> String {
    match event {
        Event::Apply(Object::Service(s)) => {
            let port = s.ports.first().map_or(0, |port| port.port);
            format!("{} {port}", s.name.name)
        }
        Event::Apply(Object::EndpointSlice(s)) => s.name.name.to_string(),
        Event::Apply(Object::Node(n)) => n.name.to_string(),
        Event::Delete(ObjectKey::Service(n) | ObjectKey::EndpointSlice(n)) => {
            format!("no {}", n.name)
        }
        Event::Delete(ObjectKey::Node) => "no node".to_owned(),
        Event::Synced => "synced".to_owned(),
    }
}
