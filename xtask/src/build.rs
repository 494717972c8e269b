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
    /// As a release, with the layouts of the next version: something that tests can upgrade to.
    Next,
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A debug build, whose programs log each call that they change (svclb run --log debug)
    #[arg(long)]
    debug: bool,
    /// With other layouts, as a next version could have them: for tests of upgrades
    #[arg(long, conflicts_with = "debug")]
    next: bool,
}

/// Builds, and says where a build that is not at the usual place is.
pub(crate) fn verb(args: &Args) -> Result<()> {
    if args.debug {
        let agent = build(Profile::Debug)?;
        println!("build: {}", agent.display());
    } else if args.next {
        println!("build: {}", next()?.display());
    } else {
        run()?;
    }
    Ok(())
}

/// Gives the path of the static binary.
pub(crate) fn run() -> Result<PathBuf> {
    build(Profile::Release)
}

/// Gives the path of the binary of the next version.
pub(crate) fn next() -> Result<PathBuf> {
    build(Profile::Next)
}

fn build(profile: Profile) -> Result<PathBuf> {
    let object = ebpf::run(profile)?;
    agent::build(&object, profile)
}
