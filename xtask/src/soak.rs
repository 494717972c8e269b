//! `soak`: connects without end while endpoints change and agents crash.

use anyhow::Result;

use crate::{build, demo, process, setup};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Passed on: --connects, --crashes, --changes, --services, --minutes, --xdp, --seed
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    process::need_root("the soak", "soak")?;
    setup::lab_tools()?;
    build::run()?;
    process::run(demo::tests_binary("soak")?.args(&args.rest))
}
