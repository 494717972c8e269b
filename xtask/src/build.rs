//! `build`: the eBPF object, then the agent with the object inside it.

mod agent;
pub(crate) mod ebpf;
mod object;

use anyhow::Result;
use std::path::PathBuf;

/// What a build is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Optimised; the programs say nothing.
    Release,
    /// With debug assertions, and programs that log each call that they change.
    Debug,
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A debug build, whose programs log each call that they change (svclb run --log debug)
    #[arg(long)]
    debug: bool,
}

/// Builds, and says where a build that is not at the usual place is.
pub(crate) fn verb(args: &Args) -> Result<()> {
    if args.debug {
        let agent = build(Profile::Debug)?;
        println!("build: {}", agent.display());
    } else {
        run()?;
    }
    Ok(())
}

/// Gives the path of the static binary.
pub(crate) fn run() -> Result<PathBuf> {
    build(Profile::Release)
}

fn build(profile: Profile) -> Result<PathBuf> {
    let object = ebpf::run(profile)?;
    agent::build(&object, profile)
}
