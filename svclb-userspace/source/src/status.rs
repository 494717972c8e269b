use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::kube::timeouts::NOTICED_WITHIN;

/// The state of a source, for metrics and health. A clone is another handle to the same.
#[derive(Clone, Default, Debug)]
pub struct Status(Arc<Inner>);

#[derive(Default, Debug)]
struct Inner {
    synced: AtomicBool,
    connected: AtomicBool,
    problems: AtomicU64,
    unreadable: AtomicU64,
    restarts: AtomicU64,
    events: AtomicU64,
    last_event: AtomicU64,
    heard: Mutex<Heard>,
}

/// When the API server last said something.
#[derive(Clone, Copy, Default, Debug)]
struct Heard {
    /// Anything at all, also that a request was accepted.
    any: Option<Instant>,
    /// What was asked for.
    content: Option<Instant>,
}

impl Status {
    /// Whether everything that exists was sent once.
    pub fn synced(&self) -> bool {
        self.0.synced.load(Relaxed)
    }

    /// Whether the folder is there, or every watch stands and the API server was heard of in the
    /// last 45 seconds.
    pub fn connected(&self) -> bool {
        let is_silent = self.heard_ago().is_some_and(|ago| ago > NOTICED_WITHIN);
        self.0.connected.load(Relaxed) && !is_silent
    }

    /// How long ago something was last heard of the API server; `None` before, and for a folder.
    pub fn heard_ago(&self) -> Option<Duration> {
        self.lock_heard().any.map(|at| at.elapsed())
    }

    /// How many problems of the configuration stand now.
    pub fn problems(&self) -> u64 {
        self.0.problems.load(Relaxed)
    }

    /// How many objects cannot be read now. What was served of them before goes on being served.
    pub fn unreadable(&self) -> u64 {
        self.0.unreadable.load(Relaxed)
    }

    /// How often a watch began with a listing, the first time included.
    pub fn restarts(&self) -> u64 {
        self.0.restarts.load(Relaxed)
    }

    /// How many events were sent.
    pub fn events(&self) -> u64 {
        self.0.events.load(Relaxed)
    }

    /// When the last event was sent, in milliseconds since the epoch; zero before the first.
    pub fn last_event_millis(&self) -> u64 {
        self.0.last_event.load(Relaxed)
    }

    /// When something was last heard of the API server.
    pub fn last_heard(&self) -> Option<SystemTime> {
        // By the clock of now: it may have been set since.
        SystemTime::now().checked_sub(self.heard_ago()?)
    }

    /// The API server responded.
    pub(crate) fn heard(&self) {
        self.lock_heard().any = Some(Instant::now());
    }

    /// A part of a response came, or its end.
    pub(crate) fn said(&self) {
        let now = Some(Instant::now());
        *self.lock_heard() = Heard {
            any: now,
            content: now,
        };
    }

    /// When a part of a response last came.
    pub(crate) fn last_said(&self) -> Option<Instant> {
        self.lock_heard().content
    }

    fn lock_heard(&self) -> MutexGuard<'_, Heard> {
        let heard = self.0.heard.lock();
        heard.unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_synced(&self) {
        self.0.synced.store(true, Relaxed);
    }

    /// Returns whether this is a change.
    pub(crate) fn set_connected(&self, connected: bool) -> bool {
        self.0.connected.swap(connected, Relaxed) != connected
    }

    /// Replaces a number of problems by another one. The watches count theirs together.
    pub(crate) fn replace_problems(&self, before: usize, after: usize) {
        self.0.problems.fetch_add(after as u64, Relaxed);
        self.0.problems.fetch_sub(before as u64, Relaxed);
    }

    /// Replaces a number of objects that cannot be read by another one.
    pub(crate) fn replace_unreadable(&self, before: usize, after: usize) {
        self.0.unreadable.fetch_add(after as u64, Relaxed);
        self.0.unreadable.fetch_sub(before as u64, Relaxed);
    }

    pub(crate) fn restarted(&self) {
        self.0.restarts.fetch_add(1, Relaxed);
    }

    pub(crate) fn sent(&self, events: usize) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis());
        self.0.events.fetch_add(events as u64, Relaxed);
        self.0
            .last_event
            .store(u64::try_from(now).unwrap_or(u64::MAX), Relaxed);
    }
}
