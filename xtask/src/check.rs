//! `check`: what holds for the source, without running it.

mod layers;
mod sources;

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
    layers::check()?;
    sources::check()?;
    println!("check: layers, unsafe blocks and orphans are as they should be");
    Ok(())
}
