//! The folder: which files changed, and what that changes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use svclb_core::model::{Event, ObjectKey};

use super::FolderOptions;
use super::file::{DocumentState, ReadDocument, Reader, STAYS, Stamp};
use crate::BATCH;
use crate::cache::Cache;
use crate::event_sender::{Closed, EventSender};
use crate::kube::relist_guard::RelistGuard;
use crate::problems::Problems;
use crate::status::Status;

struct FileState {
    /// `None` to read the file again.
    stamp: Option<Stamp>,
    documents: Vec<DocumentState>,
    /// Objects that a file earlier in the order has too.
    shadowed: BTreeSet<ObjectKey>,
}

/// A folder of manifests, as it was last seen.
pub(super) struct Folder {
    dir: PathBuf,
    /// How long a file has to be gone before its objects are removed.
    gone_for: Duration,
    /// Since when files are gone that were read.
    gone_since: BTreeMap<Arc<str>, Instant>,
    /// Whether an empty folder is suspicious: it was away, or something is served already at the
    /// start.
    was_away: bool,
    guard: RelistGuard,
    /// Whether something is served already at the start.
    serves: bool,
    /// Files that were not read whole before the first sync, so that nothing is known to stay.
    unread: BTreeSet<Arc<str>>,
    /// Holds the first sync back while there are such files.
    sync_guard: RelistGuard,
    reader: Reader,
    files: BTreeMap<Arc<str>, FileState>,
    /// The objects, with the name of the file that each is from.
    cache: Cache<Arc<str>>,
    event_sender: EventSender,
    problems: Problems,
    status: Status,
}

impl Folder {
    pub(super) fn new(options: FolderOptions, event_sender: EventSender, status: Status) -> Self {
        let FolderOptions {
            dir,
            node_name,
            serves,
            guard_timeouts,
        } = options;
        Self {
            dir,
            gone_since: BTreeMap::new(),
            gone_for: guard_timeouts.gone,
            was_away: serves,
            guard: RelistGuard::new(guard_timeouts.confirm_after),
            serves,
            unread: BTreeSet::new(),
            sync_guard: RelistGuard::new(guard_timeouts.confirm_after),
            reader: Reader::new(node_name),
            files: BTreeMap::new(),
            cache: Cache::default(),
            event_sender,
            problems: Problems::new(status.clone()),
            status,
        }
    }

    #[cfg(test)]
    pub(super) fn cached(&self) -> usize {
        self.cache.len()
    }

    /// Reads what changed in the folder, and sends the differences.
    pub(super) fn scan(&mut self) -> Result<(), Closed> {
        let place = self.dir.display().to_string();
        let found = match self.list() {
            Ok(found) => found,
            Err(error) => {
                // What was sent stays.
                self.status.set_connected(false);
                self.was_away = true;
                self.gone_since.clear();
                let line = format!("{error}; what was read before stays; make it readable again");
                self.problems.set(&place, [line]);
                return Ok(());
            }
        };
        self.status.set_connected(true);
        let is_suspicious = self.was_away && found.is_empty();
        let now = Instant::now();
        if !self.guard.check(is_suspicious, now, now).is_accepted() {
            let line = format!(
                "the folder is empty; what was served before goes on being served, and is removed \
                 if the folder stays empty for {} seconds",
                self.guard.confirm_after().as_secs()
            );
            self.problems.set(&place, [line]);
            return Ok(());
        }
        self.was_away = false;
        self.problems.set(&place, []);
        let gone = self.gone(&found);
        self.unread.retain(|name| found.contains_key(name));
        for (name, stamp) in found {
            if self
                .files
                .get(&name)
                .is_none_or(|file| file.stamp != Some(stamp))
            {
                self.read(&name, stamp)?;
            }
        }
        // Last, so that an object that moved to another file is never away.
        for name in gone {
            self.replace(&name, None, Vec::new())?;
            self.files.remove(&name);
            self.problems.set(&name, []);
        }
        // A file whose object was shadowed by one that is gone.
        let again: Vec<_> = self
            .files
            .iter()
            .filter(|(_, file)| file.stamp.is_none())
            .map(|(name, _)| Arc::clone(name))
            .collect();
        for name in again {
            if let Ok(metadata) = fs::metadata(self.dir.join(&*name)) {
                self.read(&name, Stamp::of(&metadata))?;
            }
        }
        if !self.status.synced() && self.may_sync() {
            self.status.set_synced();
            self.event_sender.send_blocking(vec![Event::Synced])?;
        }
        Ok(())
    }

    /// Whether the first sync, which removes whatever is served and was not read, may come now. A
    /// file that is half written keeps what it had, also over a start of the agent.
    fn may_sync(&mut self) -> bool {
        const PLACE: &str = "the first sync";
        let now = Instant::now();
        let is_suspicious = self.serves && !self.unread.is_empty();
        if self.sync_guard.check(is_suspicious, now, now).is_accepted() {
            self.unread.clear();
            self.problems.set(PLACE, []);
            return true;
        }
        let seconds = self.sync_guard.confirm_after().as_secs();
        let lines = self.unread.iter().map(|name| {
            format!(
                "{name} cannot be read whole; all that was served before goes on being served as it \
                 was, and what the file lacks is removed if it stays so for {seconds} seconds"
            )
        });
        self.problems.set(PLACE, lines.collect::<Vec<_>>());
        false
    }

    /// The files that have been gone for long enough.
    fn gone(&mut self, found: &BTreeMap<Arc<str>, Stamp>) -> Vec<Arc<str>> {
        let missing = self.files.keys().filter(|name| !found.contains_key(*name));
        let missing: Vec<_> = missing.cloned().collect();
        self.gone_since.retain(|name, _| missing.contains(name));
        let now = Instant::now();
        let mut gone = Vec::new();
        for name in missing {
            let since = *self.gone_since.entry(Arc::clone(&name)).or_insert(now);
            if now.duration_since(since) >= self.gone_for {
                self.gone_since.remove(&name);
                gone.push(name);
            }
        }
        gone
    }

    /// When to scan again without an event of inotify: files may then have been gone for long
    /// enough, a folder that was away may be back, and the first sync may be due.
    pub(super) fn scan_again_in(&self) -> Option<Duration> {
        const AWAY: Duration = Duration::from_secs(1);
        let gone = (!self.gone_since.is_empty()).then_some(self.gone_for);
        let waits = self.was_away || !self.unread.is_empty();
        gone.or_else(|| waits.then_some(AWAY))
    }

    /// Whether an object is from a file.
    fn is_from(&self, key: &ObjectKey, name: &Arc<str>) -> bool {
        let cached = self.cache.get(key);
        cached.is_some_and(|cached| cached.origin == *name)
    }

    /// The manifests and their stamps. Names that begin with a dot belong to
    /// a ConfigMap volume itself, and are no manifests.
    fn list(&self) -> std::io::Result<BTreeMap<Arc<str>, Stamp>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&self.dir)? {
            let Some(name) = manifest_name(entry?.file_name()) else {
                continue;
            };
            // Follows links: the files of a ConfigMap volume are links. One that is gone
            // by now is as if it had not been listed.
            if let Ok(metadata) = fs::metadata(self.dir.join(&*name))
                && metadata.is_file()
            {
                found.insert(name, Stamp::of(&metadata));
            }
        }
        Ok(found)
    }

    fn read(&mut self, name: &Arc<str>, stamp: Stamp) -> Result<(), Closed> {
        let file_before = self.files.get(name);
        let again = file_before.is_some_and(|file| file.stamp.is_none());
        let before: &[DocumentState] = match file_before {
            Some(file) if !again => &file.documents,
            _ => &[],
        };
        let documents = match self.reader.read_file(&self.dir.join(&**name), before) {
            Ok(documents) => documents,
            Err(error) => {
                self.problems
                    .set(name, [format!("{error}; the file stays as it was")]);
                self.note_unread(name, true);
                return Ok(());
            }
        };
        let is_broken = documents.iter().any(|document| document.broken);
        self.problems.set(
            name,
            documents
                .iter()
                .flat_map(|document| document.state.problems.iter().cloned()),
        );
        let had_objects = file_before
            .is_some_and(|file| file.documents.iter().any(|state| !state.objects.is_empty()));
        let mut objects = documents.iter().flat_map(|read| &read.state.objects);
        let lacks_objects = objects.any(|(_, fingerprint)| *fingerprint == STAYS);
        self.note_unread(name, is_broken || lacks_objects);
        if is_broken && had_objects {
            if let Some(file) = self.files.get_mut(name) {
                file.stamp = Some(stamp);
            }
            return Ok(());
        }
        self.replace(name, Some(stamp), documents)
    }

    fn note_unread(&mut self, name: &Arc<str>, is_unread: bool) {
        if is_unread && !self.status.synced() {
            self.unread.insert(Arc::clone(name));
        } else {
            self.unread.remove(name);
        }
    }

    /// Sends the differences between a file as it was and as it is.
    fn replace(
        &mut self,
        name: &Arc<str>,
        stamp: Option<Stamp>,
        documents: Vec<ReadDocument>,
    ) -> Result<(), Closed> {
        let before = self
            .files
            .remove(name)
            .map(|file| file.documents)
            .unwrap_or_default();
        let mut shadowed = BTreeSet::new();
        let mut kept = BTreeSet::new();
        let mut events = Vec::new();
        let mut states = Vec::with_capacity(documents.len());
        for mut document in documents {
            document
                .state
                .objects
                .retain(|(key, fingerprint)| *fingerprint != STAYS || self.is_from(key, name));
            for (key, _) in &document.state.objects {
                kept.insert(key.clone());
            }
            for object in document.objects {
                let key = object.key();
                match self.cache.get(&key).map(|cached| &cached.origin) {
                    Some(file) if file < name => {
                        kept.remove(&key);
                        shadowed.insert(key);
                        continue;
                    }
                    Some(file) if file != name => {
                        if let Some(file) = self.files.get_mut(file) {
                            file.shadowed.insert(key.clone());
                        }
                    }
                    _ => {}
                }
                events.extend(self.cache.record(object, Arc::clone(name)));
                if events.len() >= BATCH {
                    self.event_sender
                        .send_blocking(std::mem::take(&mut events))?;
                }
            }
            document.state.objects.shrink_to_fit();
            states.push(document.state);
        }
        for (key, _) in before.into_iter().flat_map(|state| state.objects) {
            if self.is_from(&key, name) && !kept.contains(&key) {
                events.extend(self.cache.remove(&key));
                // Another file may have it too: then it is read again, and not gone.
                for file in self.files.values_mut() {
                    if file.shadowed.remove(&key) {
                        file.stamp = None;
                    }
                }
            }
        }
        let lines = shadowed
            .iter()
            .map(|key| format!("{key:?}: another file, earlier by its name, has it too; left out"));
        self.problems
            .set(&format!("{name} (twice)"), lines.collect::<Vec<_>>());
        if stamp.is_some() {
            self.files.insert(
                Arc::clone(name),
                FileState {
                    stamp,
                    documents: states,
                    shadowed,
                },
            );
        }
        self.event_sender.send_blocking(events)
    }
}

/// The name, if it is a manifest's.
fn manifest_name(name: OsString) -> Option<Arc<str>> {
    let name = name.into_string().ok()?;
    let manifest = [".yaml", ".yml", ".json"]
        .iter()
        .any(|ending| name.ends_with(ending));
    (manifest && !name.starts_with('.')).then(|| name.into())
}
