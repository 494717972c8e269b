//! The network namespaces of this node.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use super::namespace_id::NamespaceId;

/// Where namespaces are searched.
#[derive(Debug)]
pub(super) struct NetnsPaths {
    /// A proc filesystem.
    pub(super) processes: PathBuf,
    /// Directories of named namespaces, which may be without a process.
    pub(super) named: Vec<PathBuf>,
}

impl Default for NetnsPaths {
    fn default() -> Self {
        Self {
            processes: "/proc".into(),
            // The second is the node's where svclb itself runs in a container.
            named: vec!["/run/netns".into(), "/proc/1/root/run/netns".into()],
        }
    }
}

impl NetnsPaths {
    /// Hands out each namespace once; returns why some process's could not be looked at.
    pub(super) fn each(
        &self,
        mut found: impl FnMut(NamespaceId, &File),
    ) -> io::Result<Option<io::Error>> {
        let mut seen = HashSet::new();
        let mut unseen = None;
        let processes = fs::read_dir(&self.processes)?
            .flatten()
            .filter(|entry| is_number(&entry.file_name()))
            .map(|entry| entry.path().join("ns/net"));
        let named = self.named.iter().flat_map(files);
        for path in processes.chain(named) {
            match open_new(&path, &seen) {
                Ok(Some((id, file))) => {
                    if seen.insert(id) {
                        found(id, &file);
                    }
                }
                Ok(None) => {}
                Err(error) if has_vanished(&error) => {}
                Err(error) => unseen = Some(error),
            }
        }
        Ok(unseen)
    }
}

/// Opens a namespace that was not seen yet. What is looked at and what is opened may be two:
/// the process may have gone, and its number may be another's.
fn open_new(path: &Path, seen: &HashSet<NamespaceId>) -> io::Result<Option<(NamespaceId, File)>> {
    if seen.contains(&NamespaceId::of(&fs::metadata(path)?)) {
        return Ok(None);
    }
    // Not blocking, since a named namespace's place may hold a FIFO.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    if fstatfs(&file)?.filesystem_type() != NSFS_MAGIC {
        return Ok(None);
    }
    Ok(Some((NamespaceId::of(&file.metadata()?), file)))
}

/// The files of a directory; none if it cannot be read.
fn files(dir: &PathBuf) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(dir).ok();
    entries.into_iter().flatten().flatten().map(|e| e.path())
}

fn is_number(name: &OsStr) -> bool {
    name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
}

/// Whether a process ended while it was looked at.
fn has_vanished(error: &io::Error) -> bool {
    [Errno::ENOENT, Errno::ESRCH].contains(&Errno::from_raw(error.raw_os_error().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_namespace_is_found_once_and_what_is_none_is_passed_over() {
        let root = std::env::temp_dir().join(format!("svclb-namespaces-{}", std::process::id()));
        let (processes, named) = (root.join("proc"), root.join("netns"));
        for process in ["1", "2", "self"] {
            fs::create_dir_all(processes.join(process).join("ns")).unwrap();
            symlink("/proc/self/ns/net", processes.join(process).join("ns/net")).unwrap();
        }
        // Process 3 has vanished.
        fs::create_dir_all(processes.join("3")).unwrap();
        fs::create_dir_all(&named).unwrap();
        fs::write(named.join("plain"), "").unwrap();
        symlink("/proc/self/ns/net", named.join("a")).unwrap();

        let ours = NamespaceId::of(&fs::metadata("/proc/self/ns/net").unwrap());
        let found = |named: &[&Path]| {
            let paths = NetnsPaths {
                processes: processes.clone(),
                named: named.iter().map(|&dir| dir.to_owned()).collect(),
            };
            let mut found = Vec::new();
            assert!(paths.each(|id, _| found.push(id)).unwrap().is_none());
            found
        };
        let with_processes = found(&[&named, &root.join("missing")]);
        fs::remove_dir_all(&processes).unwrap();
        fs::create_dir(&processes).unwrap();
        let (by_name, nowhere) = (found(&[&named]), found(&[]));
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(with_processes, [ours]);
        assert_eq!(by_name, [ours]);
        assert_eq!(nowhere, []);
    }
}
