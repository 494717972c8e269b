//! The Kubernetes API: watches on Services, EndpointSlices and this Node.
//!
//! kube's watcher lists, watches with bookmarks, and lists again after 410 Gone or a broken
//! connection, with a growing delay. A later list is compared with the cache of what was sent,
//! so that an API server that comes back after an hour changes only what changed. A later list
//! that is empty, or that has objects older than the cached ones, takes effect only after the
//! API server has confirmed it for a while: see [`RelistGuard`](relist_guard::RelistGuard).

mod client;
mod events;
mod probe;
pub(crate) mod relist_guard;
pub(crate) mod timeouts;
mod watch;
mod watched;

use std::path::PathBuf;
use std::sync::Arc;

use kube::runtime::watcher;
use svclb_core::model::{Event, Object, ObjectKey};
use tokio::sync::mpsc::{Receiver, Sender};

use crate::convert::{self, SELECTOR};
use crate::error::SourceError;
use crate::event_sender::{Closed, EventSender};
use crate::objects::{EndpointSlice, Node, Service};
use crate::status::Status;
use client::ApiClient;
pub use events::{EventRecorder, KubeEvent, event_recorder};
use relist_guard::GuardTimeouts;
use timeouts::ApiTimeouts;
use watch::{Shared, Watch, watch};

/// How to reach a cluster.
#[derive(Clone, Debug)]
pub struct KubeOptions {
    /// A kubeconfig; without one, as a pod in the cluster.
    pub kubeconfig: Option<PathBuf>,
    /// The API server's real address, instead of the one that the configuration names.
    pub apiserver: Option<String>,
    /// `metadata.name` of this node's Node.
    pub node_name: Arc<str>,
    /// Whether something is served already: then an empty first list is suspicious, too, and the
    /// first lists are quorum reads.
    pub serves: bool,
    /// For how long the API server has to confirm a suspicious list.
    pub guard_timeouts: GuardTimeouts,
    /// How long the API server may say nothing.
    pub api_timeouts: ApiTimeouts,
}

/// Sends the cluster's objects and their changes to `tx` until its receiver is closed, and
/// writes the [`KubeEvent`]s that it receives into the cluster.
///
/// # Errors
/// [`SourceError`] for a configuration that cannot be used. An API server that is away is
/// no error: the requests are repeated until it responds.
pub async fn kubernetes(
    options: KubeOptions,
    tx: Sender<Vec<Event>>,
    status: Status,
    kube_events: Receiver<KubeEvent>,
) -> Result<(), SourceError> {
    let api_client = ApiClient::new(&options, status.clone()).await?;
    let client = api_client.client().await;
    let closed = tx.clone();
    let (event_recorder, own_kube_events) = event_recorder();
    let shared = Arc::new(Shared::new(
        EventSender::new(tx, status.clone()),
        status.clone(),
        &options,
        event_recorder,
    ));
    let labelled = watcher::Config::default().labels(SELECTOR);
    let own = watcher::Config::default().fields(&format!("metadata.name={}", options.node_name));
    let services = watch::<Service>(
        &client,
        labelled.clone(),
        Watch {
            name: "Services",
            bit: 1,
            is_never_empty: true,
            key: ObjectKey::Service,
            convert: |from, names, problems| {
                convert::service(from, names, problems).map(Object::Service)
            },
        },
        &shared,
    );
    let slices = watch::<EndpointSlice>(
        &client,
        labelled,
        Watch {
            name: "EndpointSlices",
            bit: 2,
            is_never_empty: true,
            key: ObjectKey::EndpointSlice,
            convert: |from, names, problems| {
                convert::endpoint_slice(from, names, problems).map(Object::EndpointSlice)
            },
        },
        &shared,
    );
    let node = watch::<Node>(
        &client,
        own,
        Watch {
            name: "this Node",
            bit: 4,
            is_never_empty: false,
            key: |_| ObjectKey::Node,
            convert: |from, names, problems| convert::node(from, names, problems).map(Object::Node),
        },
        &shared,
    );
    let published = events::publish(
        client.clone(),
        Arc::clone(&options.node_name),
        [kube_events, own_kube_events],
    );
    let probe = probe::probe(&api_client, &client, &options.node_name, &shared, &status);
    tokio::select! {
        () = closed.closed() => {}
        () = probe => {}
        (Closed, Closed, Closed, ()) = async { tokio::join!(services, slices, node, published) } => {}
    }
    Ok(())
}
