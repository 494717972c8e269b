//! The paths of the pins.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::error::OpenError;

/// `<pin dir>/maps` and `<pin dir>/links`; and `maps-new` and `maps-old` while maps of another
/// layout are replaced. (A bpffs takes no dots in names.)
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    dir: PathBuf,
    maps: &'static str,
}

impl Pins {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            maps: "maps",
        }
    }

    /// The paths of maps that are made beside those of another layout.
    pub(crate) fn beside(&self) -> Self {
        Self {
            dir: self.dir.clone(),
            maps: "maps-new",
        }
    }

    pub(crate) fn is_beside(&self) -> bool {
        self.maps != "maps"
    }

    /// The paths of maps that were replaced.
    pub(crate) fn superseded(&self) -> Self {
        Self {
            dir: self.dir.clone(),
            maps: "maps-old",
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn maps(&self) -> PathBuf {
        self.dir.join(self.maps)
    }

    pub(crate) fn links(&self) -> PathBuf {
        self.dir.join("links")
    }

    /// The map that records which ports svclb reserved; beside `maps`, since it belongs to no
    /// layout version.
    pub(crate) fn reserved_ports(&self) -> PathBuf {
        self.dir.join("reserved_ports")
    }

    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    pub(crate) fn link(&self, name: &str) -> PathBuf {
        self.links().join(name)
    }

    /// Makes the directories that are not there.
    ///
    /// # Errors
    /// [`OpenError::PinDir`].
    pub(crate) fn make_dirs(&self) -> Result<(), OpenError> {
        [self.dir().to_owned(), self.maps(), self.links()]
            .iter()
            .try_for_each(|path| make_dir(path))
    }
}

/// A directory that only root may look into, if it is not there.
pub(crate) fn make_dir(path: &Path) -> Result<(), OpenError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| OpenError::PinDir {
            path: path.to_owned(),
            source,
        })
}
