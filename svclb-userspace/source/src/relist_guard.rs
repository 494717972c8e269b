//! A source that comes back and says that nothing is left, or less than it knew before, is not
//! believed at once: an API server that was just restored, or a volume that is not mounted yet,
//! would take everything from a node that serves well.

use std::time::{Duration, Instant};

/// How long a source has to say something before it is believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuardTimeouts {
    /// That a file is gone. Editors and copies take a file away for a moment, and a folder that
    /// is deleted loses its files one by one.
    pub gone: Duration,
    /// That nothing is left, or that things are as they were before.
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

/// Whether a source is doubted.
#[derive(Debug)]
pub(crate) struct RelistGuard {
    confirm_after: Duration,
    since: Option<Instant>,
}

impl RelistGuard {
    pub(crate) const fn new(confirm_after: Duration) -> Self {
        Self {
            confirm_after,
            since: None,
        }
    }

    /// For how long something has to be said.
    pub(crate) const fn confirm_after(&self) -> Duration {
        self.confirm_after
    }

    /// Something was said: whether it is to be believed. Also whether it is the first of its
    /// kind, which is worth a line in the log.
    pub(crate) fn check(&mut self, is_doubtful: bool) -> Verdict {
        if !is_doubtful {
            self.since = None;
            return Verdict::Believed;
        }
        match self.since {
            None => {
                self.since = Some(Instant::now());
                Verdict::DoubtedNow
            }
            Some(since) if since.elapsed() >= self.confirm_after => {
                self.since = None;
                Verdict::Proven
            }
            Some(_) => Verdict::DoubtedStill,
        }
    }

    /// Whether the time is over, so that what is said next is believed.
    pub(crate) fn is_over(&self) -> bool {
        self.since
            .is_some_and(|since| since.elapsed() >= self.confirm_after)
    }

    /// When to ask again, while there is a doubt.
    pub(crate) fn ask_again_in(&self) -> Option<Duration> {
        self.since.map(|_| self.confirm_after / 6)
    }
}

/// What becomes of something that was said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It is nothing to wonder at.
    Believed,
    /// It is not believed, for the first time.
    DoubtedNow,
    /// It is not believed, as before.
    DoubtedStill,
    /// It was said for long enough.
    Proven,
}

impl Verdict {
    pub(crate) const fn is_believed(self) -> bool {
        matches!(self, Self::Believed | Self::Proven)
    }
}
