//! The problems that stand, each logged once when it appears and once when it is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use svclb_core::log_once::LogOnce;

use crate::status::Status;

/// Problems by the place (a file, an object) that they are in.
#[derive(Debug)]
pub(crate) struct Problems {
    standing: BTreeMap<String, BTreeSet<String>>,
    status: Status,
    log_once: LogOnce,
    since: Instant,
}

impl Problems {
    pub(crate) fn new(status: Status) -> Self {
        Self {
            standing: BTreeMap::new(),
            status,
            log_once: LogOnce::default(),
            since: Instant::now(),
        }
    }

    /// Replaces the problems of a place.
    pub(crate) fn set(&mut self, place: &str, lines: impl IntoIterator<Item = String>) {
        let new: BTreeSet<String> = lines.into_iter().collect();
        let old = self.standing.remove(place).unwrap_or_default();
        let now = self.since.elapsed();
        for line in new.difference(&old) {
            let line = format!("{place}: {line}");
            if self.log_once.first(&line, now) {
                tracing::warn!("{line}");
            }
        }
        for line in old.difference(&new) {
            let line = format!("{place}: no longer: {line}");
            if self.log_once.first(&line, now) {
                tracing::info!("{line}");
            }
        }
        self.status.replace_problems(old.len(), new.len());
        if !new.is_empty() {
            self.standing.insert(place.to_owned(), new);
        }
    }

    /// Ends the problems of the places that are not to be kept.
    pub(crate) fn retain(&mut self, is_kept: impl Fn(&str) -> bool) {
        let places = self.standing.keys();
        let gone: Vec<_> = places.filter(|place| !is_kept(place)).cloned().collect();
        for place in gone {
            self.set(&place, []);
        }
    }
}
