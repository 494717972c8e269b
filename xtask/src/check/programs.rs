//! What programs of others check: spelling, and the dependencies.

use anyhow::{Context as _, Result};

use crate::{process, setup};

/// Spelling, and the words that this project does not use (`typos.toml`).
pub(super) fn spelling() -> Result<()> {
    let mut typos = setup::TYPOS.command()?;
    process::run(typos.args(["--format", "brief"]))
        .context("correct the words above, or add them to typos.toml")
}

/// Licences, sources and bans of the dependencies (`deny.toml`). Known vulnerabilities only where they
/// are asked for: the list of them has to be fetched, and changes from day to day.
pub(super) fn dependencies(advisories: bool) -> Result<()> {
    let mut deny = setup::CARGO_DENY.command()?;
    deny.args(["--locked", "check", "--hide-inclusion-graph"]);
    deny.args(["bans", "licenses", "sources"]);
    if advisories {
        deny.arg("advisories");
    }
    process::run(&mut deny).context("deny.toml says what a dependency may be")
}
