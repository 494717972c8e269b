//! Kubernetes Events (`events.k8s.io/v1`) about Services, for people who look at them.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
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

/// Both ends of a channel of Events. It holds 16; those that do not fit are repetitions.
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
    let recorder = Recorder::new(client, reporter);
    while let Some(kube_event) = kube_events.recv().await {
        let regarding = ObjectReference {
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
