//! The command line: a contract that others script against.

mod args;
mod cleanup;
mod descriptors;
mod dump;
pub(crate) mod render;
mod report;
mod run;

use std::path::PathBuf;

use clap::Parser;

pub(crate) fn main() -> anyhow::Result<()> {
    let args = args::Args::parse();
    match args.command {
        args::Command::Run(run) => run::run(*run),
        args::Command::Dump(dump) => dump::dump(&dump),
        args::Command::Cleanup(pins) => cleanup::cleanup(&pins),
    }
}

/// The pin directory that was asked for, or `svclb` in the bpffs.
fn pin_dir(asked: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    match asked {
        Some(dir) => Ok(dir),
        None => Ok(svclb_dataplane::find_bpffs()?.join("svclb")),
    }
}
