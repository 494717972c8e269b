//! What people who look at a Service are told of it: Events (`events.k8s.io/v1`).

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use svclb_core::model::ObjectName;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tracing::debug;

/// Something that whoever wrote a Service should know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// Which Service.
    pub service: ObjectName,
    /// Why, in a word of CamelCase: what alerts look for.
    pub reason: &'static str,
    /// What was tried, in a word of CamelCase.
    pub action: &'static str,
    /// A sentence.
    pub note: String,
}

/// Where notices go. A source without anybody to tell drops them.
pub type Notices = Sender<Notice>;

/// Both ends. So few are sent that those beyond what the channel holds are repetitions.
pub fn notices() -> (Notices, Receiver<Notice>) {
    mpsc::channel(16)
}

/// Writes them into the cluster, until nobody sends any more. Nothing depends on it: one that is
/// refused is told of in the log alone.
pub(crate) async fn publish(client: Client, node_name: &str, mut notices: Receiver<Notice>) {
    let reporter = Reporter {
        controller: "svclb".to_owned(),
        instance: Some(node_name.to_owned()),
    };
    let recorder = Recorder::new(client, reporter);
    while let Some(notice) = notices.recv().await {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(notice.service.namespace.to_string()),
            name: Some(notice.service.name.to_string()),
            ..ObjectReference::default()
        };
        let event = Event {
            type_: EventType::Warning,
            reason: notice.reason.to_owned(),
            note: Some(notice.note),
            action: notice.action.to_owned(),
            secondary: None,
        };
        if let Err(error) = recorder.publish(&event, &about).await {
            debug!(
                "no Event can be written about Service {}: {error}",
                notice.service
            );
        }
    }
}
