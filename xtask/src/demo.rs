//! `demo`: the main job, with real traffic, in a lab of its own.

use crate::{build, process, setup, workspace};
use anyhow::Result;
use std::process::Command;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave the lab open to play in
    #[arg(long)]
    keep: bool,
    /// Passed on to the demo
    #[arg(last = true)]
    rest: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    process::need_root("the demo", "demo")?;
    setup::lab_tools()?;
    build::run()?;
    let mut demo = tests_binary("demo")?;
    if args.keep {
        demo.arg("--keep");
    }
    demo.args(&args.rest);
    process::run(&mut demo)
}

/// Builds a binary of the tests crate, for release, and gives the command that runs it.
pub(crate) fn tests_binary(name: &str) -> Result<Command> {
    let mut cargo = process::cargo();
    cargo.args(["build", "--release", "--package", "svclb-tests"]);
    // All of them: the lab's peers are a program of their own.
    cargo.arg("--bins");
    process::run(&mut cargo)?;
    let mut command = Command::new(workspace::target().join("release").join(name));
    command.current_dir(workspace::root());
    command.env("SVCLB_BIN", workspace::agent());
    Ok(command)
}
