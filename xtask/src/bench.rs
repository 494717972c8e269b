//! `bench`: measurements, run as release builds.

use crate::{build, demo, process, setup};
use anyhow::Result;
use clap::ValueEnum;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure
    what: What,
    /// Passed on to the benchmark
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Connects through a ClusterIP against direct ones, start-up, memory, time of a change
    Connect,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let What::Connect = args.what;
    process::need_root("the benchmark", "bench connect")?;
    setup::lab_tools()?;
    build::run()?;
    process::run(demo::tests_binary("bench-connect")?.args(&args.rest))
}
