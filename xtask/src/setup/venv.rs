//! Environments for programs that PyPI has.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::packages;
use crate::process;

/// Makes a Python environment in a directory; returns its `pip`.
pub(crate) fn make(dir: &Path) -> Result<PathBuf> {
    let make = || {
        let mut python = process::foreign("python3");
        process::run(python.args(["-m", "venv", "--clear"]).arg(dir))
    };
    if process::find("python3").is_none() || make().is_err() {
        // Debian's Python lacks the module without a package of its own.
        packages::install(&["python3-venv"])?;
        make()?;
    }
    Ok(dir.join("bin/pip"))
}
