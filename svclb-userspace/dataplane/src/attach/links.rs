//! The links. The agent holds them beside their pins, so that removing pins under a running agent
//! detaches nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::pins::Pins;
use crate::sys;

/// The links of this agent, by the names of their pins.
#[derive(Debug)]
pub(crate) struct Links {
    pins: Pins,
    held: BTreeMap<String, OwnedFd>,
}

impl Links {
    pub(crate) const fn new(pins: Pins) -> Self {
        Self {
            pins,
            held: BTreeMap::new(),
        }
    }

    /// The link that is pinned under a name, or is still held although its pin was removed.
    pub(crate) fn find(&mut self, name: &str) -> io::Result<Option<BorrowedFd<'_>>> {
        match sys::open_pin(&self.pins.link(name)) {
            Ok(link) => {
                self.held.insert(name.to_owned(), link);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(self.held.get(name).map(AsFd::as_fd))
    }

    /// Pins and holds a new link.
    pub(crate) fn keep(&mut self, name: &str, link: OwnedFd) -> io::Result<()> {
        sys::pin(link.as_fd(), &self.pins.link(name))?;
        self.held.insert(name.to_owned(), link);
        Ok(())
    }

    /// Detaches a link and takes its pin away, if it is there.
    pub(crate) fn release(&mut self, name: &str) -> io::Result<()> {
        if let Some(link) = self.held.remove(name) {
            // EINVAL or ENOLINK: what it was attached to is gone.
            let _already_detached = sys::detach_link(link.as_fd());
        }
        release(&self.pins.link(name))
    }

    /// The names of those that are held.
    pub(crate) fn names(&self) -> Vec<String> {
        self.held.keys().cloned().collect()
    }

    /// Pins what is held and no longer pinned; returns how many.
    pub(crate) fn pin_again(&self) -> io::Result<usize> {
        let mut pinned = 0;
        for (name, link) in &self.held {
            let path = self.pins.link(name);
            if !path.exists() {
                sys::pin(link.as_fd(), &path)?;
                pinned += 1;
            }
        }
        Ok(pinned)
    }
}

/// Detaches and unpins a link, if it is there.
pub(crate) fn release(path: &Path) -> io::Result<()> {
    match sys::open_pin(path) {
        Ok(link) => {
            // EINVAL or ENOLINK: what it was attached to is gone.
            let _already_detached = sys::detach_link(link.as_fd());
            fs::remove_file(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
