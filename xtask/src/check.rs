//! `check`: what holds for the source, without running it.

mod layers;
mod sources;
#[cfg(test)]
mod tests;

use anyhow::Result;

use crate::{build, process};

pub(crate) fn run() -> Result<()> {
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
    layers::check()?;
    sources::check()?;
    println!("check: layers, unsafe blocks and orphans are as they should be");
    Ok(())
}
