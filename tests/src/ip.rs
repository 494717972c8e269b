//! Devices, addresses and routes by way of `ip -batch`: one process for many changes.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::tool;

/// Runs the lines in the namespace of the calling thread; stops at the first that fails.
pub(crate) fn batch(lines: &[String]) -> Result<()> {
    batch_with(&["-batch", "-"], lines)
}

/// The same for those that have to be told that they are of IPv6.
pub(crate) fn batch_v6(lines: &[String]) -> Result<()> {
    batch_with(&["-6", "-batch", "-"], lines)
}

fn batch_with(args: &[&str], lines: &[String]) -> Result<()> {
    let mut script = lines.join("\n");
    script.push('\n');
    tool::feed(Command::new("ip").args(args), "iproute2", &script)
}

/// Writes a sysctl (dots as slashes) of the calling thread's network namespace.
pub(crate) fn sysctl(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/{name}");
    std::fs::write(&path, value).with_context(|| format!("cannot write {value} to {path}"))
}
