//! One manifest that is in memory, for tests of other crates.

use std::io;

use svclb_core::model::Object;

use crate::manifests::Reader;

/// What was read from a manifest.
#[derive(Debug)]
pub struct Manifest {
    /// The objects in it, in their order.
    pub objects: Vec<Object>,
    /// What is wrong in it, a line each.
    pub problems: Vec<String>,
    /// A document is no YAML or JSON at all, so that the file stays as it was.
    pub is_broken: bool,
}

/// Reads a manifest as one that is found in a folder, on a node of this name.
///
/// # Errors
/// If it is not UTF-8.
pub fn manifest(node_name: &str, text: &[u8], is_json: bool) -> io::Result<Manifest> {
    let read = Reader::new(node_name.into()).read(text, is_json, &[])?;
    let mut manifest = Manifest {
        objects: Vec::new(),
        problems: Vec::new(),
        is_broken: false,
    };
    for document in read {
        manifest.objects.extend(document.objects);
        manifest.problems.extend(document.state.problems);
        manifest.is_broken |= document.broken;
    }
    Ok(manifest)
}
