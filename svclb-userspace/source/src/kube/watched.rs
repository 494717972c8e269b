//! An object of a list or of a watch, read by itself: one that cannot be read costs neither the list nor
//! the watch.

use std::borrow::Cow;
use std::fmt::{self, Debug};

use k8s_openapi::api::{core, discovery};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;

use crate::objects::{self, KubeObject};

/// A kind of objects that is watched.
pub(super) trait Kind: KubeObject {
    /// Where the API server has it.
    type Of: Resource<DynamicType = ()>;
}

impl Kind for objects::Service {
    type Of = core::v1::Service;
}

impl Kind for objects::EndpointSlice {
    type Of = discovery::v1::EndpointSlice;
}

impl Kind for objects::Node {
    type Of = core::v1::Node;
}

/// An object as it was sent.
#[derive(Clone, Debug)]
pub(super) struct Watched<T> {
    /// Of `metadata` what names the object.
    metadata: ObjectMeta,
    /// The object, or why it cannot be read.
    pub(super) object: Result<Box<T>, String>,
}

impl<'de, T: KubeObject> Deserialize<'de> for Watched<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Its end is found without its types.
        let json = deserializer.deserialize_newtype_struct(RAW, Json)?;
        let object = objects::from_json::<T>(&json).map(Box::new);
        let metadata = match &object {
            Ok(object) => Cow::Borrowed(object.metadata()),
            Err(_) => Cow::Owned(objects::metadata_of_unreadable(&json)),
        };
        Ok(Self {
            metadata: ObjectMeta {
                name: metadata.name.clone(),
                namespace: metadata.namespace.clone(),
                uid: metadata.uid.clone(),
                resource_version: metadata.resource_version.clone(),
                ..ObjectMeta::default()
            },
            object,
        })
    }
}

/// The name by which `serde_json` knows its `RawValue`, and gives the text as it is. Where it does not (an
/// event with `object` before `type` is no text any more) the text is made again, which takes longer.
const RAW: &str = "$serde_json::private::RawValue";

/// The text of a JSON value.
struct Json;

impl<'de> Visitor<'de> for Json {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let text = map.next_entry::<String, String>()?;
        text.map(|(_, text)| text)
            .ok_or_else(|| A::Error::custom("a value without text"))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Self::Value, D::Error> {
        Value::deserialize(deserializer).map(|value| value.to_string())
    }
}

impl<T: Kind> Resource for Watched<T> {
    type DynamicType = ();
    type Scope = <T::Of as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        T::Of::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        T::Of::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        T::Of::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        T::Of::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use kube::core::{ObjectList, WatchEvent};

    use super::*;

    type Services = ObjectList<Watched<objects::Service>>;

    #[test]
    fn one_object_of_a_list_that_cannot_be_read_costs_only_itself() {
        let list = r#"{"kind": "ServiceList", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}, "items": [
            {"metadata": {"name": "a", "resourceVersion": "1"}, "spec": {"ports": [{"port": 80}]}},
            {"metadata": {"name": "b", "namespace": "n", "resourceVersion": "2"}, "spec": {"ports": [{"port": "eighty"}]}},
            {"metadata": {"name": 7}},
            null, [], "text",
            {"metadata": {"name": "c"}, "status": {"conditions": [{"lastTransitionTime": null}]}}
        ]}"#;
        let list: Services = serde_json::from_str(list).unwrap();
        let read: Vec<_> = list
            .items
            .iter()
            .map(|item| (item.meta().name.as_deref(), item.object.is_ok()))
            .collect();
        assert_eq!(
            read,
            [
                (Some("a"), true),
                (Some("b"), false),
                (None, false),
                (None, false),
                (None, true),
                (None, false),
                (Some("c"), true)
            ]
        );
        let reason = list.items[1].object.as_ref().unwrap_err();
        assert_eq!(
            reason,
            "spec.ports[0].port: invalid type: string \"eighty\", expected i64"
        );
        assert_eq!(list.items[1].meta().namespace.as_deref(), Some("n"));
    }

    #[test]
    fn an_event_with_an_object_that_cannot_be_read_is_an_event() {
        let object =
            r#""object":{"kind":"Service","metadata":{"name":"a","resourceVersion":"5"},"spec":7}"#;
        let kind = r#""type":"MODIFIED""#;
        for line in [
            format!("{{{kind},{object}}}"),
            format!("{{{object},{kind}}}"),
        ] {
            let event: WatchEvent<Watched<objects::Service>> = serde_json::from_str(&line).unwrap();
            let WatchEvent::Modified(read) = event else {
                panic!("{event:?}");
            };
            assert_eq!(read.meta().resource_version.as_deref(), Some("5"));
            assert!(read.object.unwrap_err().starts_with("spec: invalid type"));
        }
    }
}
