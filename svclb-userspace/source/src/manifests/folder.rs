//! The folder: which files changed, and what that changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use svclb_core::model::{Event, ObjectKey};

use super::FolderOptions;
use super::file::{Known, Reader, STAYS, Stamp};
use crate::BATCH;
use crate::event_sender::{Closed, EventSender};
use crate::problems::Problems;
use crate::relist_guard::RelistGuard;
use crate::status::Status;

struct FileState {
    /// `None` to read the file again.
    stamp: Option<Stamp>,
    documents: Vec<Known>,
    /// Objects that a file earlier in the order has too.
    shadowed: BTreeSet<ObjectKey>,
}

struct Said {
    fingerprint: u64,
    file: Arc<str>,
}

/// A folder of manifests, as it was last seen.
pub(super) struct Folder {
    dir: PathBuf,
    /// How long a file has to be gone.
    gone_for: Duration,
    /// Since when files are gone that were read.
    gone_since: BTreeMap<Arc<str>, Instant>,
    /// Whether an empty folder has to stand by it: it was away, or something is served already
    /// at the start.
    was_away: bool,
    guard: RelistGuard,
    reader: Reader,
    files: BTreeMap<Arc<str>, FileState>,
    said: HashMap<ObjectKey, Said>,
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
            reader: Reader::new(node_name),
            files: BTreeMap::new(),
            said: HashMap::new(),
            event_sender,
            problems: Problems::new(status.clone()),
            status,
        }
    }

    /// Looks at the folder and says what changed.
    pub(super) fn scan(&mut self) -> Result<(), Closed> {
        let place = self.dir.display().to_string();
        let found = match self.list() {
            Ok(found) => found,
            Err(error) => {
                // What was said stays said.
                self.status.set_connected(false);
                self.was_away = true;
                self.gone_since.clear();
                let line = format!("{error}; what was read before stays; make it readable again");
                self.problems.set(&place, [line]);
                return Ok(());
            }
        };
        self.status.set_connected(true);
        let is_doubtful = self.was_away && found.is_empty();
        if !self.guard.check(is_doubtful).is_believed() {
            let line = format!(
                "the folder is empty; what was served before goes on being served, and the folder \
                 is believed if it stays empty for {} seconds",
                self.guard.confirm_after().as_secs()
            );
            self.problems.set(&place, [line]);
            return Ok(());
        }
        self.was_away = false;
        self.problems.set(&place, []);
        let gone = self.gone(&found);
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
        if !self.status.synced() {
            self.status.set_synced();
            self.event_sender.send_blocking(vec![Event::Synced])?;
        }
        Ok(())
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

    /// When to look again though nothing is told: files that are gone may be by then for long
    /// enough, and a folder that was away may be back.
    pub(super) fn look_again_in(&self) -> Option<Duration> {
        const AWAY: Duration = Duration::from_secs(1);
        let gone = (!self.gone_since.is_empty()).then_some(self.gone_for);
        gone.or_else(|| self.was_away.then_some(AWAY))
    }

    /// The manifests and their stamps. Names that begin with a dot are a ConfigMap
    /// volume's own, and nobody's manifests.
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
        let known_before = self.files.get(name);
        let again = known_before.is_some_and(|file| file.stamp.is_none());
        let before: &[Known] = match known_before {
            Some(file) if !again => &file.documents,
            _ => &[],
        };
        let documents = match self.reader.read_file(&self.dir.join(&**name), before) {
            Ok(documents) => documents,
            Err(error) => {
                self.problems
                    .set(name, [format!("{error}; the file stays as it was")]);
                return Ok(());
            }
        };
        self.problems.set(
            name,
            documents
                .iter()
                .flat_map(|document| document.known.problems.iter().cloned()),
        );
        let had_objects = known_before
            .is_some_and(|file| file.documents.iter().any(|known| !known.objects.is_empty()));
        if documents.iter().any(|document| document.broken) && had_objects {
            if let Some(file) = self.files.get_mut(name) {
                file.stamp = Some(stamp);
            }
            return Ok(());
        }
        self.replace(name, Some(stamp), documents)
    }

    /// Says the differences between a file as it was and as it is.
    fn replace(
        &mut self,
        name: &Arc<str>,
        stamp: Option<Stamp>,
        documents: Vec<super::file::Read1>,
    ) -> Result<(), Closed> {
        let before = self
            .files
            .remove(name)
            .map(|file| file.documents)
            .unwrap_or_default();
        let mut shadowed = BTreeSet::new();
        let mut kept = BTreeSet::new();
        let mut events = Vec::new();
        let mut known = Vec::with_capacity(documents.len());
        for mut document in documents {
            document.known.objects.retain(|(key, fingerprint)| {
                *fingerprint != STAYS || self.said.get(key).is_some_and(|said| said.file == *name)
            });
            for (key, _) in &document.known.objects {
                kept.insert(key.clone());
            }
            for object in document.fresh {
                let key = object.key();
                match self.said.get(&key) {
                    Some(said) if said.file < *name => {
                        kept.remove(&key);
                        shadowed.insert(key);
                        continue;
                    }
                    Some(said) if said.file != *name => {
                        if let Some(file) = self.files.get_mut(&said.file) {
                            file.shadowed.insert(key.clone());
                        }
                    }
                    _ => {}
                }
                let fingerprint = crate::fingerprint::fingerprint(&object);
                let said = Said {
                    fingerprint,
                    file: Arc::clone(name),
                };
                let old = self.said.insert(key, said);
                if old.is_none_or(|old| old.fingerprint != fingerprint) {
                    events.push(Event::Apply(object));
                }
                if events.len() >= BATCH {
                    self.event_sender
                        .send_blocking(std::mem::take(&mut events))?;
                }
            }
            document.known.objects.shrink_to_fit();
            known.push(document.known);
        }
        for (key, _) in before.into_iter().flat_map(|known| known.objects) {
            let ours = self.said.get(&key).is_some_and(|said| said.file == *name);
            if ours && !kept.contains(&key) {
                self.said.remove(&key);
                // Another file may have it too: then it is read again, and not gone.
                for file in self.files.values_mut() {
                    if file.shadowed.remove(&key) {
                        file.stamp = None;
                    }
                }
                events.push(Event::Delete(key));
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
                    documents: known,
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
