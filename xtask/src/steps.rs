//! Steps of a longer verb, with how long each took.

use std::time::Instant;

use anyhow::{Result, bail};

/// Runs steps and keeps their outcome.
pub(crate) struct Steps {
    done: Vec<(String, u64, bool)>,
    begun: Instant,
}

impl Default for Steps {
    fn default() -> Self {
        Self {
            done: Vec::new(),
            begun: Instant::now(),
        }
    }
}

impl Steps {
    /// Runs one; a failure is reported at the end, and the other steps run all the same.
    pub(crate) fn step(&mut self, name: &str, run: impl FnOnce() -> Result<()>) {
        println!("\n=== {name}");
        let begun = Instant::now();
        let result = run();
        self.note(name, begun.elapsed().as_secs(), &result);
    }

    /// Notes the outcome of one that was run beside others.
    pub(crate) fn note(&mut self, name: &str, seconds: u64, result: &Result<()>) {
        if let Err(error) = result {
            eprintln!("xtask: {name}: {error:#}");
        }
        self.done.push((name.to_owned(), seconds, result.is_ok()));
    }

    /// The summary; an error if any step failed.
    pub(crate) fn finish(self) -> Result<()> {
        println!("\n=== summary");
        for (name, seconds, passed) in &self.done {
            println!(
                "{} {seconds:>5} s  {name}",
                if *passed { "passed" } else { "FAILED" }
            );
        }
        println!("       {:>5} s  all of it", self.begun.elapsed().as_secs());
        let failed = self.done.iter().filter(|(_, _, passed)| !passed).count();
        if failed > 0 {
            bail!("{failed} of {} steps failed", self.done.len());
        }
        Ok(())
    }
}
