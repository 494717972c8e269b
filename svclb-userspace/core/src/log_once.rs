//! Rate limit for log lines: each line at most once in ten minutes.

use std::collections::HashMap;
use std::time::Duration;

/// How long a line is not logged again.
const QUIET: Duration = Duration::from_secs(600);

/// With more lines than this, old ones are forgotten.
const MANY: usize = 1024;

/// Log lines, with the time at which each was last logged.
#[derive(Default, Debug)]
pub struct LogOnce(HashMap<String, Duration>);

impl LogOnce {
    /// Whether a line is due: it was not logged within the last ten minutes. `now` is the time
    /// since any fixed moment.
    pub fn first(&mut self, line: &str, now: Duration) -> bool {
        let recent = |logged: &Duration| now.saturating_sub(*logged) < QUIET;
        if self.0.get(line).is_some_and(recent) {
            return false;
        }
        if self.0.len() >= MANY {
            self.0.retain(|_, logged| recent(logged));
        }
        self.0.insert(line.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_once_in_ten_minutes() {
        let mut log_once = LogOnce::default();
        let at = |seconds| Duration::from_secs(seconds);
        assert!(log_once.first("a", at(0)));
        assert!((1..600).all(|second| !log_once.first("a", at(second))));
        assert!(log_once.first("b", at(5)));
        assert!(log_once.first("a", at(600)));
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let mut log_once = LogOnce::default();
        for number in 0..10_000 {
            log_once.first(&number.to_string(), Duration::from_secs(number));
        }
        assert!(log_once.0.len() <= MANY + 1, "{}", log_once.0.len());
    }
}
