//! `build`: the eBPF object, then the agent with the object inside it.

mod agent;
pub(crate) mod ebpf;
mod object;

use anyhow::Result;
use std::path::PathBuf;

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) ebpf: ebpf::Args,
}

/// Gives the path of the static binary.
pub(crate) fn run(args: &Args) -> Result<PathBuf> {
    let object = ebpf::run(&args.ebpf)?;
    agent::build(&object)
}
