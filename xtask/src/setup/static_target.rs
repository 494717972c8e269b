//! The musl target that makes the agent one static binary.

use crate::{process, workspace};
use anyhow::{Context as _, Result, bail};
use std::path::PathBuf;
use std::process::Command;

pub(super) fn ensure() -> Result<()> {
    let target = workspace::static_target();
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot = process::probe(Command::new(rustc).args(["--print", "sysroot"]))
        .context("`rustc --print sysroot` failed: install Rust with rustup")?;
    let library = PathBuf::from(sysroot).join(format!("lib/rustlib/{target}/lib"));
    if library.is_dir() {
        return Ok(());
    }
    if process::find("rustup").is_none() {
        bail!(
            "the standard library for {target} is missing: install it with your distribution's package, or use rustup"
        );
    }
    println!("setup: adding the target {target} for the static binary");
    process::run(Command::new("rustup").args(["target", "add", &target]))
        .with_context(|| format!("run `rustup target add {target}` by hand"))
}
