//! `image`: the container image, by docker.

use crate::process;
use anyhow::{Result, bail};
use std::process::Command;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name and tag of the image
    #[arg(long, default_value = "svclb:latest")]
    tag: String,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if process::probe(Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]))
        .is_none()
    {
        bail!("docker does not answer: install it, or start its service, then run this again");
    }
    let mut docker = process::foreign("docker");
    docker.args([
        "build",
        "--file",
        "deploy/Dockerfile",
        "--tag",
        &args.tag,
        ".",
    ]);
    process::run(&mut docker)
}
