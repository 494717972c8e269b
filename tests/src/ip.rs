//! Netlink by way of `ip -batch`: one process for many changes.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs the lines in the namespace of the calling thread; stops at the first that fails.
pub(crate) fn batch(lines: &[String]) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run `ip`: install iproute2")?;
    let mut script = lines.join("\n");
    script.push('\n');
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(script.as_bytes())
            .context("`ip -batch` went away")?;
    }
    let output = child
        .wait_with_output()
        .context("cannot wait for `ip -batch`")?;
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "`ip -batch` failed: {}\nin:\n{script}",
        String::from_utf8_lossy(&output.stderr).trim()
    )
}

/// Writes a sysctl (dots as slashes) of the calling thread's network namespace.
pub(crate) fn sysctl(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/{name}");
    std::fs::write(&path, value).with_context(|| format!("cannot write {value} to {path}"))
}
