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
    held: Option<Held>,
}

/// While lists are held back.
#[derive(Debug)]
struct Held {
    /// When the first of them was begun.
    since: Instant,
    /// When to list again. A deadline, and not a duration: events must not postpone it.
    relist_at: Instant,
}

impl RelistGuard {
    pub(crate) const fn new(confirm_after: Duration) -> Self {
        Self {
            confirm_after,
            held: None,
        }
    }

    /// For how long a suspicious list has to be seen.
    pub(crate) const fn confirm_after(&self) -> Duration {
        self.confirm_after
    }

    /// Decides about a list that was begun at `began` and ended `now`.
    pub(crate) fn check(&mut self, is_suspicious: bool, began: Instant, now: Instant) -> Decision {
        if !is_suspicious {
            self.held = None;
            return Decision::Accepted;
        }
        if self.confirms(began) {
            self.held = None;
            return Decision::Confirmed;
        }
        let is_first = self.held.is_none();
        let since = self.held.as_ref().map_or(began, |held| held.since);
        self.held = Some(Held {
            since,
            relist_at: self.next_relist(since, now),
        });
        match is_first {
            true => Decision::FirstHeld,
            false => Decision::Held,
        }
    }

    /// Whether a list that is begun at `began` is accepted whatever it has.
    pub(crate) fn confirms(&self, began: Instant) -> bool {
        let held = self.held.as_ref();
        held.is_some_and(|held| began.duration_since(held.since) >= self.confirm_after)
    }

    /// When to list again, while a list is held back.
    pub(crate) fn relist_at(&self) -> Option<Instant> {
        self.held.as_ref().map(|held| held.relist_at)
    }

    /// Another list is begun `now`: the next one is not due at once.
    pub(crate) fn relist_began(&mut self, now: Instant) {
        if let Some(since) = self.held.as_ref().map(|held| held.since) {
            let relist_at = now + self.relist_interval();
            self.held = Some(Held { since, relist_at });
        }
    }

    /// After some time, but not later than a list can confirm the ones before.
    fn next_relist(&self, since: Instant, now: Instant) -> Instant {
        let confirmable = (since + self.confirm_after).max(now);
        (now + self.relist_interval()).min(confirmable)
    }

    fn relist_interval(&self) -> Duration {
        self.confirm_after / 6
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

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn only_a_list_that_is_begun_late_enough_confirms() {
        let mut guard = RelistGuard::new(MINUTE);
        let first = Instant::now();
        assert_eq!(guard.check(true, first, first), Decision::FirstHeld);
        // It may have ended after the minute: what it left out was decided when it began.
        let before = first + MINUTE - Duration::from_millis(1);
        assert!(!guard.confirms(before));
        let after = first + 2 * MINUTE;
        assert_eq!(guard.check(true, before, after), Decision::Held);
        assert!(guard.confirms(first + MINUTE));
        let confirmed = guard.check(true, first + MINUTE, after);
        assert_eq!(confirmed, Decision::Confirmed);
        assert_eq!(guard.relist_at(), None);
    }

    #[test]
    fn a_list_that_is_not_suspicious_ends_the_wait() {
        let mut guard = RelistGuard::new(MINUTE);
        let first = Instant::now();
        guard.check(true, first, first);
        assert_eq!(guard.check(false, first, first), Decision::Accepted);
        let later = first + MINUTE;
        assert_eq!(guard.check(true, later, later), Decision::FirstHeld);
    }

    #[test]
    fn the_time_of_the_next_list_stays_as_it_is_until_then() {
        let mut guard = RelistGuard::new(MINUTE);
        let now = Instant::now();
        guard.check(true, now, now);
        assert_eq!(guard.relist_at(), Some(now + MINUTE / 6));
        let later = now + Duration::from_millis(5);
        guard.relist_began(later);
        assert_eq!(guard.relist_at(), Some(later + MINUTE / 6));
    }

    #[test]
    fn the_next_list_is_due_no_later_than_it_can_confirm() {
        let mut guard = RelistGuard::new(MINUTE);
        let first = Instant::now();
        let now = first + MINUTE - Duration::from_secs(1);
        guard.check(true, first, now);
        assert_eq!(guard.relist_at(), Some(first + MINUTE));
    }
}
