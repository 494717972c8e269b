//! Kubernetes Events (`events.k8s.io/v1`) about objects, for people who look at them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, ObjectReference, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource};
use svclb_core::error_chain::error_chain;
use svclb_core::model::{ObjectKey, ObjectName};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tracing::debug;

/// The longest note that the API server takes, in bytes (`events.k8s.io/v1`).
const LONGEST_NOTE: usize = 1024;

/// A warning about an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KubeEvent {
    /// Which object.
    pub regarding: ObjectKey,
    /// `metadata.uid` of the object, if it is known. That of a Service is asked for.
    pub uid: Option<String>,
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
pub(super) async fn publish(
    client: Client,
    node_name: Arc<str>,
    [mut of_agent, mut of_source]: [Receiver<KubeEvent>; 2],
) {
    let reporter = Reporter {
        controller: "svclb".to_owned(),
        instance: Some(node_name.to_string()),
    };
    let recorder = Recorder::new(client.clone(), reporter);
    loop {
        let mut kube_event = tokio::select! {
            Some(kube_event) = of_agent.recv() => kube_event,
            Some(kube_event) = of_source.recv() => kube_event,
            else => return,
        };
        if let (ObjectKey::Service(name), None) = (&kube_event.regarding, &kube_event.uid) {
            kube_event.uid = uid(&client, name).await;
        }
        let regarding = ObjectReference {
            uid: kube_event.uid,
            ..reference(&kube_event.regarding, &node_name)
        };
        let event = Event {
            type_: EventType::Warning,
            reason: kube_event.reason.to_owned(),
            note: Some(shortened(kube_event.note)),
            action: kube_event.action.to_owned(),
            secondary: None,
        };
        if let Err(error) = recorder.publish(&event, &regarding).await {
            debug!(
                "no Event can be written about {:?}: {}",
                kube_event.regarding,
                error_chain(&error)
            );
        }
    }
}

fn reference(to: &ObjectKey, node_name: &str) -> ObjectReference {
    fn of<K: Resource<DynamicType = ()>>(namespace: Option<&str>, name: &str) -> ObjectReference {
        ObjectReference {
            api_version: Some(K::api_version(&()).into_owned()),
            kind: Some(K::kind(&()).into_owned()),
            namespace: namespace.map(str::to_owned),
            name: Some(name.to_owned()),
            ..ObjectReference::default()
        }
    }
    match to {
        ObjectKey::Service(of_service) => {
            of::<Service>(Some(&of_service.namespace), &of_service.name)
        }
        ObjectKey::EndpointSlice(of_slice) => {
            of::<EndpointSlice>(Some(&of_slice.namespace), &of_slice.name)
        }
        ObjectKey::Node => of::<Node>(None, node_name),
    }
}

fn shortened(mut note: String) -> String {
    note.truncate(note.floor_char_boundary(LONGEST_NOTE));
    note
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
