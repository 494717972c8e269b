//! The corpora, replayed; and a short run of what `cargo xtask fuzz` does for long, with the same
//! bytes each time.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// How often each file of a corpus is changed and tried.
const CHANGES: usize = 10;

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    // Cargo starts a test in the directory of its package.
    let dir = Path::new("corpus").join(name);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("the corpus can be listed").path())
        .map(|path| (path.clone(), fs::read(&path).expect("it can be read")))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", dir.display());
    files
}

/// Bytes changed, taken out, doubled, or put in from another file.
fn changed(numbers: &mut fastrand::Rng, bytes: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=numbers.usize(..3) {
        let at = numbers.usize(..bytes.len().max(1));
        let end = (at + 1 + numbers.usize(..32)).min(bytes.len());
        match numbers.usize(..5) {
            0 | 1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = numbers.u8(..);
                }
            }
            2 => drop(bytes.drain(at..end)),
            3 => {
                let copy = bytes.get(at..end).unwrap_or_default().to_vec();
                drop(bytes.splice(at..at, copy));
            }
            _ => {
                let from = numbers.usize(..other.len().max(1));
                let to = (from + numbers.usize(..64)).min(other.len());
                let piece = other.get(from..to).unwrap_or_default().to_vec();
                drop(bytes.splice(at..at, piece));
            }
        }
    }
    bytes
}

fn holds(name: &str, property: fn(&[u8])) {
    let files = corpus(name);
    // The same numbers at every run.
    let mut numbers = fastrand::Rng::with_seed(1);
    let tried = |path: &Path, bytes: &[u8]| {
        if catch_unwind(AssertUnwindSafe(|| property(bytes))).is_err() {
            panic!(
                "{name} does not hold for what came of {}: {}",
                path.display(),
                bytes.escape_ascii()
            );
        }
    };
    for (path, bytes) in &files {
        tried(path, bytes);
        for _ in 0..CHANGES {
            let (_, other) = &files[numbers.usize(..files.len().max(1))];
            tried(path, &changed(&mut numbers, bytes, other));
        }
    }
}

#[test]
fn manifests() {
    holds("manifests", svclb_fuzz::manifests);
}

#[test]
fn objects() {
    holds("objects", svclb_fuzz::objects);
}

#[test]
fn plan() {
    holds("plan", svclb_fuzz::plan);
}

#[test]
fn frames() {
    holds("frames", svclb_fuzz::frames);
}
