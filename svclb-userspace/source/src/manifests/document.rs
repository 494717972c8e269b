//! One document: which kind it is, and its object.
//!
//! The kind is looked for first, cheaply, so that the document is then read straight into
//! the type of that kind, wherever its `kind` stands: `kubectl get -o yaml` sorts the
//! fields, and an EndpointSlice's endpoints come before it. Where the cheap look finds
//! nothing (in a list, in unusual notations), what stands before the kind is kept aside.

use std::borrow::Cow;
use std::fmt;

use k8s_openapi::api::core::v1::{Endpoints, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};

/// Reads a document. The text is JSON, or YAML (of which JSON is a part).
///
/// # Errors
/// One line: what is wrong, and where.
pub(super) fn parse(text: &str, json: bool) -> Result<Document, String> {
    let braced = text.trim_start().starts_with('{');
    if json || braced {
        let read = parse_json(text);
        // Braces alone make no JSON: YAML's own notation has them, too.
        if json || read.is_ok() {
            return read;
        }
    }
    match kind_of_yaml(text) {
        Some((api_version, kind)) => parse_as(api_version, kind, &Yaml(text)),
        None => Yaml(text).read(),
    }
}

fn parse_json(text: &str) -> Result<Document, String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kind<'a> {
        #[serde(borrow)]
        api_version: Cow<'a, str>,
        #[serde(borrow)]
        kind: Cow<'a, str>,
    }
    match serde_json::from_str::<Kind<'_>>(text) {
        Ok(kind) => parse_as(&kind.api_version, &kind.kind, &Json(text)),
        Err(_) => Json(text).read(),
    }
}

/// The version and kind of a document in YAML's block notation: two lines that are not
/// indented. Only a guess, which reading the document confirms.
fn kind_of_yaml(text: &str) -> Option<(&str, &str)> {
    let field = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let value = line.trim();
        (!value.is_empty()).then_some(value)
    };
    Some((field("apiVersion")?, field("kind")?))
}

/// Reads a document that is likely of a kind.
fn parse_as(api_version: &str, kind: &str, text: &impl Text) -> Result<Document, String> {
    // These types refuse a document of another version or kind.
    match (api_version, kind) {
        ("v1", "Service") => text.read().map(Document::Service),
        ("discovery.k8s.io/v1", "EndpointSlice") => text.read().map(Document::EndpointSlice),
        ("v1", "Endpoints") => text.read().map(Document::Endpoints),
        ("v1", "Node") => text.read().map(Document::Node),
        _ => text.read(),
    }
}

/// Text in one of the notations.
trait Text {
    fn read<T: DeserializeOwned>(&self) -> Result<T, String>;
}

struct Json<'a>(&'a str);
struct Yaml<'a>(&'a str);

impl Text for Json<'_> {
    fn read<T: DeserializeOwned>(&self) -> Result<T, String> {
        let mut deserializer = serde_json::Deserializer::from_str(self.0);
        let read = serde_path_to_error::deserialize(&mut deserializer);
        let read = read.map_err(|error| one_line(&error))?;
        deserializer.end().map_err(|error| one_line(&error))?;
        Ok(read)
    }
}

impl Text for Yaml<'_> {
    fn read<T: DeserializeOwned>(&self) -> Result<T, String> {
        serde_saphyr::from_str(self.0).map_err(|error| one_line(&error))
    }
}

/// An error's message without the picture of the text around it.
fn one_line(error: &dyn fmt::Display) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().trim().to_owned()
}

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
