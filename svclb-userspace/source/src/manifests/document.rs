//! One document: which kind it is, and its object, in a single pass.
//!
//! `apiVersion` and `kind` stand first in nearly every manifest, so the rest of the
//! mapping is read straight into the type of that kind. Where they come later, what stands
//! before them is kept aside.

use std::fmt;

use k8s_openapi::api::core::v1::{Endpoints, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};

/// A document of a manifest.
#[derive(Debug)]
pub(super) enum Document {
    /// Nothing but comments.
    Empty,
    /// `v1 Service`.
    Service(Box<Service>),
    /// `discovery.k8s.io/v1 EndpointSlice`.
    EndpointSlice(Box<EndpointSlice>),
    /// `v1 Endpoints`.
    Endpoints(Box<Endpoints>),
    /// `v1 Node`.
    Node(Box<Node>),
    /// `v1 List`, or a list of one of the kinds above.
    List(Vec<Document>),
    /// Anything else: its version and kind.
    Other(String, String),
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DocumentVisitor)
    }
}

struct DocumentVisitor;

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a Kubernetes object")
    }

    fn visit_unit<E: Error>(self) -> Result<Document, E> {
        Ok(Document::Empty)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
        let (mut api_version, mut kind) = (None::<String>, None::<String>);
        let mut aside = Map::new();
        loop {
            if let (Some(api_version), Some(kind)) = (&api_version, &kind) {
                return read(api_version, kind, aside, map);
            }
            match map.next_key::<String>()?.as_deref() {
                Some("apiVersion") => api_version = Some(map.next_value::<String>()?),
                Some("kind") => kind = Some(map.next_value::<String>()?),
                Some(other) => {
                    aside.insert(other.to_owned(), map.next_value()?);
                }
                None => return Err(A::Error::custom("an object needs an apiVersion and a kind")),
            }
        }
    }
}

/// A list's items.
#[derive(serde::Deserialize)]
struct Items {
    items: Vec<Document>,
}

fn read<'de, A: MapAccess<'de>>(
    api_version: &str,
    kind: &str,
    aside: Map<String, Value>,
    map: A,
) -> Result<Document, A::Error> {
    Ok(match (api_version, kind) {
        ("v1", "Service") => Document::Service(object(aside, map)?),
        ("discovery.k8s.io/v1", "EndpointSlice") => Document::EndpointSlice(object(aside, map)?),
        ("v1", "Endpoints") => Document::Endpoints(object(aside, map)?),
        ("v1", "Node") => Document::Node(object(aside, map)?),
        ("v1", "List" | "ServiceList" | "EndpointsList" | "NodeList")
        | ("discovery.k8s.io/v1", "EndpointSliceList") => {
            Document::List(object::<Items, A>(aside, map)?.items)
        }
        _ => {
            skip(map)?;
            Document::Other(api_version.to_owned(), kind.to_owned())
        }
    })
}

fn object<'de, T: DeserializeOwned, A: MapAccess<'de>>(
    mut aside: Map<String, Value>,
    mut map: A,
) -> Result<Box<T>, A::Error> {
    if aside.is_empty() {
        return T::deserialize(MapAccessDeserializer::new(map)).map(Box::new);
    }
    while let Some((key, value)) = map.next_entry::<String, Value>()? {
        aside.insert(key, value);
    }
    serde_json::from_value(Value::Object(aside))
        .map(Box::new)
        .map_err(A::Error::custom)
}

fn skip<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    use serde::de::IgnoredAny;
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

/// What names an object in a document that is not as it should be.
#[derive(serde::Deserialize, Default)]
#[serde(default)]
pub(super) struct Head {
    pub(super) kind: String,
    pub(super) metadata: HeadMetadata,
}

/// Its name.
#[derive(serde::Deserialize, Default)]
#[serde(default)]
pub(super) struct HeadMetadata {
    pub(super) name: String,
    pub(super) namespace: Option<String>,
}
