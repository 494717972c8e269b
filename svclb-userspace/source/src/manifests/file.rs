//! One file: its documents, and the objects in them.

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use svclb_core::model::{Object, ObjectKey, ObjectName, ServiceType};

use super::document::{self, Document, Head};
use super::documents::Documents;
use super::list::{self, Items, Type};
use crate::convert::{self, Names, Problem};
use crate::fingerprint::fingerprint;
use crate::objects::Metadata;

/// What differs when a file was written or replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp([i64; 5]);

impl Stamp {
    pub(super) fn of(metadata: &fs::Metadata) -> Self {
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

/// A document, or an item of a list.
struct Piece {
    text: String,
    /// The number of the document in its file, from 1.
    document: usize,
    /// The number in its list, from 1.
    item: Option<usize>,
    /// The type that its list gives it.
    of_list: Option<Arc<Type>>,
}

impl Piece {
    fn place(&self) -> String {
        match self.item {
            Some(item) => format!("document {}, item {item}", self.document),
            None => format!("document {}", self.document),
        }
    }

    fn head(&self, json: bool) -> Option<Head> {
        let mut head = document::head(&self.text, json)?;
        if let Some(of) = &self.of_list
            && head.kind.is_empty()
        {
            head.kind.clone_from(&of.kind);
        }
        Some(head)
    }
}

/// A document, or the items of one that is a list.
fn pieces_of(text: String, document: usize, json: bool) -> Vec<Piece> {
    let Some(Items { texts, of }) = list::items(&text, json) else {
        return vec![Piece {
            text,
            document,
            item: None,
            of_list: None,
        }];
    };
    let pieces = texts.into_iter().zip(1..).map(|(text, item)| Piece {
        text,
        document,
        item: Some(item),
        of_list: of.clone(),
    });
    pieces.collect()
}

/// How a folder's files are read.
pub(crate) struct Reader {
    node_name: Arc<str>,
    names: Names,
}

/// The most documents that are parsed at once, over all CPUs.
const PARALLEL: usize = 512;

/// The largest manifest that is read, in MiB. One of 50,000 Services and their EndpointSlices, as
/// `kubectl get -o yaml` writes them, has about 250.
const LARGEST_MIB: u64 = 512;

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
        let file = File::open(path)?;
        let mib = file.metadata()?.len() >> 20;
        if mib >= LARGEST_MIB {
            return Err(io::Error::other(format!(
                "it has {mib} MiB, and manifests of less than {LARGEST_MIB} MiB are read; split it into \
                 several files"
            )));
        }
        let file = BufReader::with_capacity(1 << 16, file);
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
        let mut pieces = Vec::new();
        let mut documents = Documents::new(&mut file);
        for number in 1.. {
            let text = if json {
                documents.whole()?
            } else {
                documents.next_document()?
            };
            let is_end = text.is_none();
            if let Some(text) = text {
                pieces.extend(pieces_of(text, number, json));
            }
            if pieces.len() >= PARALLEL || is_end {
                read.extend(self.parse_all(&pieces, json, &before));
                pieces.clear();
            }
            if is_end {
                break;
            }
        }
        Ok(read)
    }

    /// Parses documents on all CPUs, in order.
    fn parse_all(
        &self,
        pieces: &[Piece],
        json: bool,
        before: &HashMap<u64, &DocumentState>,
    ) -> Vec<ReadDocument> {
        let parse = |piece: &Piece| self.one(piece, json, before);
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        if pieces.len() < 16 || cpus == 1 {
            return pieces.iter().map(parse).collect();
        }
        let share = pieces.len().div_ceil(cpus);
        std::thread::scope(|scope| {
            let threads: Vec<_> = pieces
                .chunks(share)
                .map(|chunk| scope.spawn(move || chunk.iter().map(parse).collect::<Vec<_>>()))
                .collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap_or_default())
                .collect()
        })
    }

    fn one(
        &self,
        piece: &Piece,
        json: bool,
        before: &HashMap<u64, &DocumentState>,
    ) -> ReadDocument {
        let Piece { text, of_list, .. } = piece;
        let mut hasher = DefaultHasher::new();
        (text, of_list).hash(&mut hasher);
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
        let place = piece.place();
        match document::parse(text, json, of_list.as_deref()) {
            Ok(document) => self.convert(document, &place, &mut objects, &mut state.problems),
            Err(error) => {
                // An object of wrong types stays as it was. If the text is broken, or has several
                // objects, it is not known which ones, and those of the whole file stay.
                match piece.head(json).filter(|head| !has_several_objects(head)) {
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
                if convert::not_ours(&from.metadata.labels) {
                    return;
                }
                let headless = from.spec.cluster_ip.as_deref() == Some("None")
                    || from.spec.cluster_ips.iter().any(|ip| ip == "None");
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
                if convert::not_ours(&from.metadata.labels) {
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

fn naming(kind: &str, metadata: &Metadata) -> String {
    format!(
        "{kind} {}/{}",
        metadata.namespace.as_deref().unwrap_or("default"),
        metadata.name.as_deref().unwrap_or("(without a name)")
    )
}
