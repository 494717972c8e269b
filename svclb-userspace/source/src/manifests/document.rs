//! One document: which kind it is, and its object.
//!
//! The kind is looked for first, cheaply, so that the document is then read straight into
//! the type of that kind, wherever its `kind` stands: `kubectl get -o yaml` sorts the
//! fields, and an EndpointSlice's endpoints come before it. Where the cheap look finds
//! nothing (in a list, in unusual notations), what stands before the kind is kept aside.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::{DuplicateKeyPolicy, Options};

use super::list::Type;
use crate::objects::{self, EndpointSlice, Endpoints, KubeObject, Node, Service};

/// Reads a document. The text is JSON, or YAML (of which JSON is a part). `of_list` is its type if it
/// has none of its own.
///
/// # Errors
/// One line: what is wrong, and where.
pub(super) fn parse(text: &str, json: bool, of_list: Option<&Type>) -> Result<Document, String> {
    let braced = text.trim_start().starts_with('{');
    if json || braced {
        let read = parse_json(text, of_list);
        // Braces alone make no JSON: YAML's own notation has them, too.
        if json || read.is_ok() {
            return read;
        }
    }
    match (kind_of_yaml(text), of_list) {
        (Some((api_version, kind)), _) => parse_as(api_version, kind, false, &Yaml(text)),
        (None, Some(of)) => parse_as(&of.api_version, &of.kind, true, &Yaml(text)),
        (None, None) => Yaml(text).read(),
    }
}

fn parse_json(text: &str, of_list: Option<&Type>) -> Result<Document, String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kind<'a> {
        #[serde(borrow)]
        api_version: Cow<'a, str>,
        #[serde(borrow)]
        kind: Cow<'a, str>,
    }
    match (serde_json::from_str::<Kind<'_>>(text), of_list) {
        (Ok(kind), _) => parse_as(&kind.api_version, &kind.kind, false, &Json(text)),
        (Err(_), Some(of)) => parse_as(&of.api_version, &of.kind, true, &Json(text)),
        (Err(_), None) => Json(text).read(),
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

/// The version and kind of a document in YAML.
pub(super) fn type_of_yaml(text: &str) -> Option<[String; 2]> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        api_version: String,
        kind: String,
    }
    let head: Head = Yaml(text).read().ok()?;
    Some([head.api_version, head.kind])
}

/// Reads a document that is likely of a kind. One of a list of this kind need not say so.
fn parse_as(
    api_version: &str,
    kind: &str,
    is_of_list: bool,
    text: &impl Text,
) -> Result<Document, String> {
    match (api_version, kind) {
        ("v1", "Service") => read_as(text, is_of_list, Document::Service),
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            read_as(text, is_of_list, Document::EndpointSlice)
        }
        ("v1", "Endpoints") => read_as(text, is_of_list, Document::Endpoints),
        ("v1", "Node") => read_as(text, is_of_list, Document::Node),
        _ => text.read(),
    }
}

/// Reads a document into a type, if it says that it is of this type.
fn read_as<T: KubeObject>(
    text: &impl Text,
    is_of_list: bool,
    document: fn(Box<T>) -> Document,
) -> Result<Document, String> {
    let object: T = text.read()?;
    let is_type = object.type_meta() == [Some(T::API_VERSION), Some(T::KIND)];
    if is_type || (is_of_list && object.type_meta() == [None, None]) {
        Ok(document(Box::new(object)))
    } else {
        text.read()
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
        objects::from_json(self.0)
    }
}

impl Text for Yaml<'_> {
    fn read<T: DeserializeOwned>(&self) -> Result<T, String> {
        serde_saphyr::from_str_with_options(self.0, yaml(DuplicateKeyPolicy::Error))
            .map_err(|error| one_line(&error))
    }
}

/// How YAML is read. What costs no more than the text is long has the limit of a file's size, and none
/// of its own; what aliases stand for keeps the library's limits.
fn yaml(duplicate_keys: DuplicateKeyPolicy) -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_total_scalar_bytes: usize::MAX,
        },
        duplicate_keys: duplicate_keys,
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
    items: Option<Vec<Document>>,
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
        _ if Type::of_items(api_version, kind).is_ok() => {
            Document::List(object::<Items, A>(aside, map)?.items.unwrap_or_default())
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

/// What names the object of a document that is not as it should be: one of its fields has a wrong type,
/// or it has a key twice. `None` if the text is broken.
pub(super) fn head(text: &str, json: bool) -> Option<Head> {
    if json {
        // Of two keys of one name it takes the last.
        let value: Value = serde_json::from_str(text).ok()?;
        return serde_json::from_value(value).ok();
    }
    serde_saphyr::from_str_with_options(text, yaml(DuplicateKeyPolicy::FirstWins)).ok()
}

/// What names an object.
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
