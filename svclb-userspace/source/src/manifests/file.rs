//! One file: its documents, and the objects in them.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use svclb_core::model::{Object, ObjectKey, ObjectName, ServiceType};

use super::document::{self, Document, Head};
use crate::convert::{self, Names, Problem};
use crate::fingerprint::fingerprint;

/// What differs when a file was written or replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp([i64; 5]);

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self([
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.size().cast_signed(),
            metadata.ino().cast_signed(),
            metadata.dev().cast_signed(),
        ])
    }
}

/// What is kept of a document that was read, instead of its text.
#[derive(Clone, Debug, Default)]
pub(crate) struct DocumentState {
    /// Of its text.
    pub(super) hash: u64,
    /// The objects in it, with the fingerprints of what was read.
    pub(super) objects: Vec<(ObjectKey, u64)>,
    /// What is wrong in it, a line each.
    pub(crate) problems: Vec<String>,
}

/// The outcome of reading a document.
pub(crate) struct ReadDocument {
    pub(crate) state: DocumentState,
    /// The objects in it; none if its text is that of a document that was read before.
    pub(crate) objects: Vec<Object>,
    /// The text cannot be read, and it is not known which objects it had.
    pub(crate) broken: bool,
}

/// How a folder's files are read.
pub(crate) struct Reader {
    node_name: Arc<str>,
    names: Names,
}

/// The most documents that are parsed at once, over all CPUs.
const PARALLEL: usize = 512;

impl Reader {
    /// For manifests that are found on a node.
    pub(crate) fn new(node_name: Arc<str>) -> Self {
        Self {
            node_name,
            names: Names::default(),
        }
    }

    /// Reads the documents of a file in a folder, as [`read`](Self::read) does.
    pub(super) fn read_file(
        &self,
        path: &Path,
        before: &[DocumentState],
    ) -> io::Result<Vec<ReadDocument>> {
        let json = path
            .extension()
            .is_some_and(|extension| extension == "json");
        let file = BufReader::with_capacity(1 << 16, File::open(path)?);
        self.read(file, json, before)
    }

    /// Reads a file's documents; those of `before` whose text is the same are not parsed.
    pub(crate) fn read(
        &self,
        mut file: impl BufRead,
        json: bool,
        before: &[DocumentState],
    ) -> io::Result<Vec<ReadDocument>> {
        let before: HashMap<u64, &DocumentState> =
            before.iter().map(|state| (state.hash, state)).collect();
        let mut read = Vec::new();
        let mut texts = Vec::new();
        loop {
            let text = if json {
                whole(&mut file)?
            } else {
                next_document(&mut file)?
            };
            let end = text.is_none();
            texts.extend(text);
            if texts.len() >= PARALLEL || end {
                let number = read.len();
                read.extend(self.parse_all(&texts, number, json, &before));
                texts.clear();
            }
            if end {
                return Ok(read);
            }
        }
    }

    /// Parses documents on all CPUs, in order.
    fn parse_all(
        &self,
        texts: &[String],
        first: usize,
        json: bool,
        before: &HashMap<u64, &DocumentState>,
    ) -> Vec<ReadDocument> {
        let parse =
            |(offset, text): (usize, &String)| self.one(text, first + offset + 1, json, before);
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        if texts.len() < 16 || cpus == 1 {
            return texts.iter().enumerate().map(parse).collect();
        }
        let share = texts.len().div_ceil(cpus);
        std::thread::scope(|scope| {
            let threads: Vec<_> = texts
                .chunks(share)
                .enumerate()
                .map(|(number, chunk)| {
                    let from = number * share;
                    scope.spawn(move || -> Vec<ReadDocument> {
                        chunk
                            .iter()
                            .enumerate()
                            .map(|(i, text)| parse((from + i, text)))
                            .collect()
                    })
                })
                .collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap_or_default())
                .collect()
        })
    }

    fn one(
        &self,
        text: &str,
        number: usize,
        json: bool,
        before: &HashMap<u64, &DocumentState>,
    ) -> ReadDocument {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let hash = hasher.finish();
        if let Some(state) = before.get(&hash) {
            return ReadDocument {
                state: (*state).clone(),
                objects: Vec::new(),
                broken: false,
            };
        }
        let mut objects = Vec::new();
        let mut state = DocumentState {
            hash,
            ..DocumentState::default()
        };
        let place = format!("document {number}");
        match document::parse(text, json) {
            Ok(document) => self.convert(document, &place, &mut objects, &mut state.problems),
            Err(error) => {
                // An object of wrong types stays as it was. If the text is broken, or has several
                // objects, it is not known which ones, and those of the whole file stay.
                match head(text, json).filter(|head| !has_several_objects(head)) {
                    Some(head) => {
                        let object = describe(&head, &place);
                        state
                            .problems
                            .push(format!("{object}: {error}; it stays as it was"));
                        state.objects.extend(key(&head).map(|key| (key, STAYS)));
                    }
                    None => {
                        state
                            .problems
                            .push(format!("{place}: {error}; the file stays as it was"));
                        return ReadDocument {
                            state,
                            objects,
                            broken: true,
                        };
                    }
                }
            }
        }
        state.objects.extend(
            objects
                .iter()
                .map(|object| (object.key(), fingerprint(object))),
        );
        ReadDocument {
            state,
            objects,
            broken: false,
        }
    }

    fn convert(
        &self,
        document: Document,
        place: &str,
        objects: &mut Vec<Object>,
        lines: &mut Vec<String>,
    ) {
        let mut problems = Vec::new();
        let names = &self.names;
        let what = match document {
            Document::Empty => return,
            Document::List(items) => {
                for item in items {
                    self.convert(item, place, objects, lines);
                }
                return;
            }
            Document::Other(version, kind) => {
                lines.push(format!(
                    "{place}: {version} {kind} is of no use to a proxy; left out"
                ));
                return;
            }
            Document::Service(from) => {
                let what = naming("Service", &from.metadata);
                if convert::not_ours(from.metadata.labels.as_ref()) {
                    return;
                }
                let headless = from.spec.as_ref().is_some_and(|spec| {
                    spec.cluster_ip.as_deref() == Some("None")
                        || spec.cluster_ips.iter().flatten().any(|ip| ip == "None")
                });
                let service = convert::service(*from, names, &mut problems);
                if let Some(service) = &service
                    && service.kind != ServiceType::ExternalName
                    && service.cluster_ips.is_empty()
                    && !headless
                    && problems.is_empty()
                {
                    problems.push(Problem {
                        field: "spec.clusterIP".to_owned(),
                        reason: "missing; without a cluster none is assigned, so it is not served"
                            .to_owned(),
                    });
                }
                objects.extend(service.map(Object::Service));
                what
            }
            Document::EndpointSlice(from) => {
                let what = naming("EndpointSlice", &from.metadata);
                if convert::not_ours(from.metadata.labels.as_ref()) {
                    return;
                }
                let slice = convert::endpoint_slice(*from, names, &mut problems);
                objects.extend(slice.map(Object::EndpointSlice));
                what
            }
            Document::Endpoints(from) => {
                let what = naming("Endpoints", &from.metadata);
                let slices = convert::endpoints(*from, names, &mut problems);
                objects.extend(slices.into_iter().map(Object::EndpointSlice));
                what
            }
            Document::Node(from) => {
                let what = naming("Node", &from.metadata);
                let node = convert::node(*from, names, &mut problems);
                objects.extend(
                    node.filter(|node| node.name == self.node_name)
                        .map(Object::Node),
                );
                what
            }
        };
        lines.extend(problems.iter().map(|problem| format!("{what}: {problem}")));
    }
}

/// The fingerprint of an object whose document is not as it should be: it stays as it was.
pub(super) const STAYS: u64 = 0;

fn head(text: &str, json: bool) -> Option<Head> {
    if json {
        return serde_json::from_str(text).ok();
    }
    serde_saphyr::from_str(text).ok()
}

/// Endpoints become a slice for each subset and family.
fn has_several_objects(head: &Head) -> bool {
    head.kind == "Endpoints" || head.kind.ends_with("List")
}

fn describe(head: &Head, place: &str) -> String {
    if head.metadata.name.is_empty() {
        return place.to_owned();
    }
    let namespace = head.metadata.namespace.as_deref().unwrap_or("default");
    format!("{} {namespace}/{}", head.kind, head.metadata.name)
}

fn key(head: &Head) -> Option<ObjectKey> {
    let namespace = head.metadata.namespace.as_deref().unwrap_or("default");
    let name = ObjectName::new(namespace, head.metadata.name.as_str());
    match head.kind.as_str() {
        "Service" => Some(ObjectKey::Service(name)),
        "EndpointSlice" => Some(ObjectKey::EndpointSlice(name)),
        "Node" => Some(ObjectKey::Node),
        _ => None,
    }
}

fn naming(
    kind: &str,
    metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
) -> String {
    format!(
        "{kind} {}/{}",
        metadata.namespace.as_deref().unwrap_or("default"),
        metadata.name.as_deref().unwrap_or("(without a name)")
    )
}

/// All that is left, or `None` if that is blank.
fn whole(file: &mut impl Read) -> io::Result<Option<String>> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok((!text.trim().is_empty()).then_some(text))
}

/// The next document that holds more than comments (YAML 1.2.2 section 9.2: a line that
/// begins with `---` begins one).
fn next_document(file: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut text = String::new();
    let mut line = String::new();
    let mut content = false;
    loop {
        line.clear();
        if file.read_line(&mut line)? == 0 {
            return Ok(content.then_some(text));
        }
        let marker = line
            .strip_prefix("---")
            .filter(|rest| rest.trim_start().is_empty() || rest.starts_with([' ', '\t']));
        if let Some(rest) = marker {
            if content {
                return Ok(Some(text));
            }
            text.clear();
            line = rest.to_owned();
        }
        let trimmed = line.trim();
        content |= !(trimmed.is_empty() || trimmed.starts_with('#') || trimmed == "...");
        text.push_str(&line);
    }
}
