//! A list that would take away what is served takes effect only when the source confirms it.
//!
//! An API server that was just restored, or a volume that is not mounted yet, lists nothing, or
//! less than before. Taken at once, such a list would remove everything from a node that serves
//! well.

use std::time::{Duration, Instant};

/// How long something has to be so before it takes effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuardTimeouts {
    /// That a file is gone. Editors and copies take a file away for a moment, and a folder that
    /// is deleted loses its files one by one.
    pub gone: Duration,
    /// That a suspicious list is confirmed: one that is empty, or older than what was sent.
    pub confirm_after: Duration,
}

impl Default for GuardTimeouts {
    fn default() -> Self {
        Self {
            gone: Duration::from_millis(500),
            confirm_after: Duration::from_secs(60),
        }
    }
}

/// Holds suspicious lists back until they were seen for `confirm_after`.
#[derive(Debug)]
pub(crate) struct RelistGuard {
    confirm_after: Duration,
    /// When the first of the suspicious lists was seen.
    suspicious_since: Option<Instant>,
}

impl RelistGuard {
    pub(crate) const fn new(confirm_after: Duration) -> Self {
        Self {
            confirm_after,
            suspicious_since: None,
        }
    }

    /// For how long a suspicious list has to be seen.
    pub(crate) const fn confirm_after(&self) -> Duration {
        self.confirm_after
    }

    /// Decides about a list.
    pub(crate) fn check(&mut self, is_suspicious: bool) -> Decision {
        if !is_suspicious {
            self.suspicious_since = None;
            return Decision::Accepted;
        }
        match self.suspicious_since {
            None => {
                self.suspicious_since = Some(Instant::now());
                Decision::FirstHeld
            }
            Some(since) if since.elapsed() >= self.confirm_after => {
                self.suspicious_since = None;
                Decision::Confirmed
            }
            Some(_) => Decision::Held,
        }
    }

    /// Whether the next list is accepted whatever it has.
    pub(crate) fn is_over(&self) -> bool {
        self.suspicious_since
            .is_some_and(|since| since.elapsed() >= self.confirm_after)
    }

    /// In what time to list again, while a list is held back.
    pub(crate) fn relist_in(&self) -> Option<Duration> {
        self.suspicious_since.map(|_| self.confirm_after / 6)
    }
}

/// What becomes of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Decision {
    /// It is not suspicious.
    Accepted,
    /// It is held back, as the first one: worth a line in the log.
    FirstHeld,
    /// It is held back, as the one before.
    Held,
    /// It is suspicious, and was confirmed for long enough.
    Confirmed,
}

impl Decision {
    pub(crate) const fn is_accepted(self) -> bool {
        matches!(self, Self::Accepted | Self::Confirmed)
    }
}
