//! How things are told: what comes and goes ten times a second once, and an error in one line.

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

/// How long something is not told again.
const QUIET: Duration = Duration::from_secs(600);

/// Beyond so many, what is old is forgotten.
const MANY: usize = 1024;

/// Lines with the time at which each was last told.
#[derive(Default, Debug)]
pub struct Told(HashMap<String, Duration>);

impl Told {
    /// Whether a line is to be told: it was not within the last ten minutes. `now` is any
    /// clock that only goes forward.
    pub fn anew(&mut self, line: &str, now: Duration) -> bool {
        let recent = |told: &Duration| now.saturating_sub(*told) < QUIET;
        if self.0.get(line).is_some_and(recent) {
            return false;
        }
        if self.0.len() >= MANY {
            self.0.retain(|_, told| recent(told));
        }
        self.0.insert(line.to_owned(), now);
        true
    }
}

/// An error and its causes in one line. What a text has already of its cause is not said again.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_and_goes_is_told_once_in_ten_minutes() {
        let mut told = Told::default();
        let at = |seconds| Duration::from_secs(seconds);
        assert!(told.anew("a", at(0)));
        assert!((1..600).all(|second| !told.anew("a", at(second))));
        assert!(told.anew("b", at(5)));
        assert!(told.anew("a", at(600)));
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let mut told = Told::default();
        for number in 0..10_000 {
            told.anew(&number.to_string(), Duration::from_secs(number));
        }
        assert!(told.0.len() <= MANY + 1, "{}", told.0.len());
    }
}
