//! The identity of a network namespace.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// A network namespace: device and inode of its file. The inode may be used again for
/// another one, once nothing is left of the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct NamespaceId {
    device: u64,
    inode: u64,
}

impl NamespaceId {
    /// The namespace whose file this is.
    pub(super) fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
        }
    }
}

/// As `ip netns identify` and `ls -l /proc/*/ns` show it.
impl fmt::Display for NamespaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}]", self.inode)
    }
}
