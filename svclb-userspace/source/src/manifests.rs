//! A folder of manifests: YAML (several documents in a file) or JSON.
//!
//! The folder is watched by inotify, and scanned every ten seconds besides. Only what changed
//! is read again: files by their stamp, and in them documents by their text, so that one
//! endpoint changed in a file of ten thousand Services costs one document's parsing.

mod document;
mod documents;
mod file;
mod folder;
mod list;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use inotify::{Inotify, WatchMask};
use svclb_core::model::Event;
use tokio::sync::mpsc::Sender;

use crate::error::SourceError;
use crate::event_sender::{Closed, EventSender};
use crate::kube::relist_guard::GuardTimeouts;
use crate::status::Status;
#[cfg(feature = "testing")]
pub(crate) use file::Reader;
use folder::Folder;

/// How often the folder is scanned without an event of inotify.
const POLL: Duration = Duration::from_secs(10);

/// A folder of manifests, and the node on which it is read.
#[derive(Clone, Debug)]
pub struct FolderOptions {
    /// The folder.
    pub dir: PathBuf,
    /// `metadata.name` of this node's Node.
    pub node_name: Arc<str>,
    /// Whether something is served already: then a folder that is empty at the start is suspicious,
    /// as one is that was away.
    pub serves: bool,
    /// How long something has to be gone.
    pub guard_timeouts: GuardTimeouts,
}

/// Sends the objects of a folder's manifests and their changes to `tx` until its receiver is
/// closed.
///
/// # Errors
/// [`SourceError`] where the folder cannot be read at the start. A folder that goes away
/// later is a problem, and what was sent before stays.
pub async fn manifests(
    options: FolderOptions,
    tx: Sender<Vec<Event>>,
    status: Status,
) -> Result<(), SourceError> {
    let dir = options.dir.clone();
    let failed = |source| SourceError::Folder {
        dir: dir.clone(),
        source,
    };
    // Watched before it is first read, so that nothing happens unseen in between.
    std::fs::read_dir(&dir).map_err(failed)?;
    let inotify = Inotify::init().map_err(failed)?;
    let mut watches = inotify.watches();
    let mask = WatchMask::CLOSE_WRITE
        | WatchMask::MOVED_TO
        | WatchMask::MOVED_FROM
        | WatchMask::DELETE
        | WatchMask::CREATE
        | WatchMask::ATTRIB;
    let mut watched = Some(watches.add(&dir, mask).map_err(failed)?);
    let mut changes = inotify.into_event_stream(vec![0; 4096]).map_err(failed)?;

    let closed = tx.clone();
    let event_sender = EventSender::new(tx, status.clone());
    let mut folder = Folder::new(options, event_sender, status);
    loop {
        let scan = tokio::task::spawn_blocking(move || {
            let result = folder.scan();
            (folder, result)
        });
        let result;
        (folder, result) = scan
            .await
            .map_err(|source| SourceError::Reader { source })?;
        let Ok(()) = result.map_err(|Closed| ()) else {
            return Ok(());
        };
        // The folder may have been replaced by another of its name, which is read once more: it was
        // not watched when it was read.
        let before = std::mem::replace(&mut watched, watches.add(&dir, mask).ok());
        if before != watched {
            continue;
        }
        let pause = folder.scan_again_in().unwrap_or(POLL).min(POLL);
        tokio::select! {
            _ = closed.closed() => return Ok(()),
            _ = changes.next() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests;
