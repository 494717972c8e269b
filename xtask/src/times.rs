//! How long scenarios took: which are the slowest.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::workspace;

/// Begins a line of a guest that has a scenario and its milliseconds.
pub(crate) const MARK: &str = "svclb-time: ";

/// How many are shown.
const SHOWN: usize = 20;

/// The times of scenarios, by name.
#[derive(Default)]
pub(crate) struct Times(BTreeMap<String, Duration>);

impl Times {
    /// Runs the lab with the file to which scenarios write their times, and shows the slowest.
    pub(crate) fn of(run: impl FnOnce(&PathBuf) -> Result<()>) -> Result<()> {
        let file = workspace::target().join("lab-times");
        std::fs::write(&file, "")
            .with_context(|| format!("{} can't be written", file.display()))?;
        let result = run(&file);
        let mut times = Self::default();
        times.read(&std::fs::read_to_string(&file)?);
        times.show_slowest();
        result
    }

    /// Adds the times in a text: lines of a scenario's name and milliseconds, behind the mark or not.
    /// A scenario with several labs has a line for each.
    pub(crate) fn read(&mut self, text: &str) {
        for line in text.lines() {
            let line = line.strip_prefix(MARK).unwrap_or(line);
            let Some((name, milliseconds)) = line.split_once(' ') else {
                continue;
            };
            if name.starts_with("lab::")
                && let Ok(milliseconds) = milliseconds.parse()
            {
                *self.0.entry(name.to_owned()).or_default() += Duration::from_millis(milliseconds);
            }
        }
    }

    /// Prints the slowest, the slowest first. Scenarios that ran side by side took longer than each
    /// alone.
    pub(crate) fn show_slowest(&self) {
        let sum: Duration = self.0.values().sum();
        println!(
            "\nslowest of {} scenarios, which took {:.0} s one by one:",
            self.0.len(),
            sum.as_secs_f64()
        );
        for (name, time) in self.slowest() {
            println!("{:>7.1} s  {name}", time.as_secs_f64());
        }
    }

    fn slowest(&self) -> Vec<(&str, Duration)> {
        let mut times: Vec<_> = self.0.iter().map(|(name, time)| (&**name, *time)).collect();
        times.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
        times.truncate(SHOWN);
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_of_a_scenarios_labs_are_added_and_other_lines_are_none() {
        let mut times = Times::default();
        times.read("svclb-time: lab::a 1500\ntest lab::b ... ok\nlab::c 2000\n");
        times.read("svclb-time: lab::a 1000\n");
        let seconds: Vec<_> = times
            .slowest()
            .into_iter()
            .map(|(name, time)| (name, time.as_millis()))
            .collect();
        assert_eq!(seconds, [("lab::a", 2500), ("lab::c", 2000)]);
    }
}
