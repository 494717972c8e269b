//! `check`: what holds for the source, without running it.

mod circles;
mod layers;
mod programs;
mod sources;
#[cfg(test)]
mod tests;

use anyhow::Result;

use crate::{build, docs, process};

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Look for known vulnerabilities of dependencies too, in a list that is fetched
    #[arg(long)]
    advisories: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    process::run(process::cargo().args(["fmt", "--all", "--check"]))?;
    process::run(process::cargo().args([
        "clippy",
        "--workspace",
        "--exclude",
        "svclb-ebpf",
        "--all-targets",
        "--all-features",
        "--",
        "-D",
        "warnings",
    ]))?;
    build::ebpf::lint()?;
    process::run(
        process::cargo()
            .args(["doc", "--workspace", "--exclude", "svclb-ebpf"])
            .args(["--no-deps", "--document-private-items", "--quiet"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    docs::check()?;
    programs::spelling()?;
    programs::dependencies(args.advisories)?;
    layers::check()?;
    circles::check()?;
    sources::check()?;
    println!(
        "check: documents, spelling, dependencies, layers, circles, unsafe blocks and orphans are as \
         they should be"
    );
    Ok(())
}
