//! Running scenarios of the lab on this machine's kernel.

use std::ffi::OsStr;

use anyhow::Result;

use crate::times::Times;
use crate::{process, workspace};

/// How many scenarios run side by side: most of the time of each is waiting. Those that need a
/// machine of their own see to it themselves.
const SIDE_BY_SIDE: &str = "--test-threads=4";

/// Runs scenarios, whose agents are to take XDP in this way.
pub(super) fn run(arguments: &[&str], xdp: &str) -> Result<()> {
    run_with(arguments, xdp, &[])
}

/// The same with variables of the environment.
pub(super) fn run_with(arguments: &[&str], xdp: &str, variables: &[(&str, &OsStr)]) -> Result<()> {
    Times::of(|times| {
        let mut cargo = process::cargo();
        cargo.args(arguments).arg(SIDE_BY_SIDE);
        cargo.env("SVCLB_BIN", workspace::agent());
        cargo.env("SVCLB_XDP", xdp).env("SVCLB_TIMES", times);
        cargo.envs(variables.iter().copied());
        if xdp == "native" {
            cargo.env("SVCLB_FORWARDING", "direct");
        }
        process::run(&mut cargo)
    })
}

/// A bpffs, where the machine has none, for as long as the tests run.
pub(super) struct Bpffs {
    ours: bool,
}

impl Bpffs {
    const PLACE: &str = "/sys/fs/bpf";

    pub(super) fn mounted() -> Result<Self> {
        let mounts = std::fs::read_to_string("/proc/mounts")?;
        let ours = !mounts
            .lines()
            .any(|line| line.split(' ').nth(2) == Some("bpf"));
        if ours {
            process::run(process::foreign("mount").args(["-t", "bpf", "bpf", Self::PLACE]))?;
        }
        Ok(Self { ours })
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = process::run(process::foreign("umount").arg(Self::PLACE))
        {
            eprintln!("xtask: {error:#}");
        }
    }
}
