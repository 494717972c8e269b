//! Debian packages: installed where that is possible, named in the error where it isn't.

use crate::process;
use anyhow::{Result, bail};
use std::process::Command;
use std::sync::OnceLock;

/// Makes sure that a program is there, which a Debian package of the given name holds.
pub(crate) fn need(program: &str, package: &str) -> Result<()> {
    if process::find(program).is_some() {
        return Ok(());
    }
    println!("setup: `{program}` is missing, installing the package {package}");
    install(&[package]).map_err(|error| error.context(format!("the program `{program}` is needed")))
}

/// Installs packages without a question, or says what a person has to do.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    if process::find("apt-get").is_none() {
        bail!(
            "this is no Debian system: install what Debian calls {names} by hand, then run this again"
        );
    }
    if !process::is_root() {
        bail!("run `sudo apt-get install {names}`, then run this again");
    }
    refresh();
    let mut apt = Command::new("apt-get");
    apt.args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null());
    process::run(&mut apt)
        .map_err(|error| error.context(format!("install the packages {names} by hand")))
}

/// Whether the archive has a package of this name.
pub(super) fn exists(package: &str) -> bool {
    if process::find("apt-cache").is_none() {
        return false;
    }
    refresh();
    process::probe(Command::new("apt-cache").args(["show", "--no-all-versions", package]))
        .is_some_and(|text| !text.is_empty())
}

/// Fetches the lists once: a fresh container has none. A failure shows at the installation.
fn refresh() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        if process::is_root() {
            drop(process::probe(
                Command::new("apt-get").args(["update", "-qq"]),
            ));
        }
    });
}
