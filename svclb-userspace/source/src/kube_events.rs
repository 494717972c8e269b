//! What people who look at a Service are told of it: Events (`events.k8s.io/v1`).

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use svclb_core::model::ObjectName;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tracing::debug;

/// Something that whoever wrote a Service should know.
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

/// Where event_recorder go. A source without anybody to tell drops them.
pub type EventRecorder = Sender<KubeEvent>;

/// Both ends. So few are sent that those beyond what the channel holds are repetitions.
pub fn event_recorder() -> (EventRecorder, Receiver<KubeEvent>) {
    mpsc::channel(16)
}

/// Writes them into the cluster, until nobody sends any more. Nothing depends on it: one that is
/// refused is told of in the log alone.
pub(crate) async fn publish(
    client: Client,
    node_name: &str,
    mut event_recorder: Receiver<KubeEvent>,
) {
    let reporter = Reporter {
        controller: "svclb".to_owned(),
        instance: Some(node_name.to_owned()),
    };
    let recorder = Recorder::new(client, reporter);
    while let Some(kube_event) = event_recorder.recv().await {
        let about = ObjectReference {
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
        if let Err(error) = recorder.publish(&event, &about).await {
            debug!(
                "no Event can be written about Service {}: {error}",
                kube_event.service
            );
        }
    }
}
