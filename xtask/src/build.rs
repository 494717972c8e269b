//! `build`: the eBPF object, then the agent with the object inside it.

mod agent;
pub(crate) mod ebpf;
mod object;

use anyhow::Result;
use std::path::PathBuf;

/// Gives the path of the static binary.
pub(crate) fn run() -> Result<PathBuf> {
    let object = ebpf::run()?;
    agent::build(&object)
}
