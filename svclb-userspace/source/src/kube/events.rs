//! Kubernetes Events (`events.k8s.io/v1`) about Services, for people who look at them.

use k8s_openapi::api::core::v1::{ObjectReference, Service};
use kube::api::ListParams;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client};
use svclb_core::error_chain::error_chain;
use svclb_core::model::ObjectName;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tracing::debug;

/// A warning about a Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KubeEvent {
    /// Which Service.
    pub service: ObjectName,
    /// Why, in a word of CamelCase: what alerts look for.
    pub reason: &'static str,
    /// What was tried, in a word of CamelCase.
    pub action: &'static str,
    /// A sentence.
    pub note: String,
}

/// Where to send Events to. A source without a cluster drops them.
pub type EventRecorder = Sender<KubeEvent>;

/// Both ends of a channel of Events. It holds 16; a sender learns that one does not fit, and tries
/// again.
pub fn event_recorder() -> (EventRecorder, Receiver<KubeEvent>) {
    mpsc::channel(16)
}

/// Writes Events into the cluster until all senders are dropped. Nothing depends on them: one that
/// the API server refuses is only logged.
pub(super) async fn publish(client: Client, node_name: &str, mut kube_events: Receiver<KubeEvent>) {
    let reporter = Reporter {
        controller: "svclb".to_owned(),
        instance: Some(node_name.to_owned()),
    };
    let recorder = Recorder::new(client.clone(), reporter);
    while let Some(kube_event) = kube_events.recv().await {
        let regarding = ObjectReference {
            uid: uid(&client, &kube_event.service).await,
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(kube_event.service.namespace.to_string()),
            name: Some(kube_event.service.name.to_string()),
            ..ObjectReference::default()
        };
        let event = Event {
            type_: EventType::Warning,
            reason: kube_event.reason.to_owned(),
            note: Some(kube_event.note),
            action: kube_event.action.to_owned(),
            secondary: None,
        };
        if let Err(error) = recorder.publish(&event, &regarding).await {
            debug!(
                "no Event can be written about Service {}: {}",
                kube_event.service,
                error_chain(&error)
            );
        }
    }
}

/// `metadata.uid` of a Service: `kubectl describe` selects Events by it. It is asked for, and not
/// kept for each Service: Events are few. By a list, since an agent may not get Services, and from
/// the API server's cache.
async fn uid(client: &Client, service: &ObjectName) -> Option<String> {
    let api = Api::<Service>::namespaced(client.clone(), &service.namespace);
    let of_name = ListParams::default()
        .fields(&format!("metadata.name={}", service.name))
        .match_any();
    let list = api.list_metadata(&of_name).await;
    let list = list.inspect_err(|error| {
        debug!(
            "no uid of Service {service} is known: {}",
            error_chain(error)
        );
    });
    list.ok()?.items.pop()?.metadata.uid
}
