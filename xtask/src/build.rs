//! `build`: the eBPF object, then the agent with the object inside it.

mod agent;
pub(crate) mod ebpf;
mod object;
mod profile;

use anyhow::Result;
use std::path::PathBuf;

pub(crate) use profile::Profile;

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
