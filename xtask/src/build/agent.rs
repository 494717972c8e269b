//! The agent: a release build against musl, so that it runs on any distribution and on none.

use super::object;
use super::profile::Profile;
use crate::{process, setup, workspace};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};

pub(super) fn build(ebpf: &Path, profile: Profile) -> Result<PathBuf> {
    setup::static_target()?;
    let target = workspace::static_target();
    let mut cargo = process::cargo();
    cargo.args(["build", "--package", "svclb"]);
    let folder = match profile {
        Profile::Release => {
            cargo.arg("--release");
            "release"
        }
        Profile::Debug => {
            cargo.args(["--features", "kernel-log"]);
            "debug"
        }
        Profile::Next => {
            cargo.args(["--release", "--features", "next-layout"]);
            "release"
        }
    };
    cargo.args(["--target", &target]);
    cargo.env("SVCLB_EBPF_OBJECT", ebpf);
    // ring has some C: the host's compiler serves, as it includes nothing of the C library that
    // differs in musl. Fortified functions do: musl has none, so they are switched off.
    let suffix = target.replace('-', "_");
    for (name, value) in [("CC", "cc"), ("CFLAGS", "-U_FORTIFY_SOURCE")] {
        let name = format!("{name}_{suffix}");
        if std::env::var_os(&name).is_none() {
            cargo.env(name, value);
        }
    }
    process::run(&mut cargo)?;
    let built = workspace::target().join(target).join(folder).join("svclb");
    object::check_static(&built)?;
    let agent = match profile {
        Profile::Debug => return Ok(built),
        Profile::Release => workspace::agent(),
        Profile::Next => workspace::next_agent(),
    };
    install(&built, &agent).with_context(|| format!("{} can't be written", agent.display()))?;
    Ok(agent)
}

/// By way of a rename: an agent that runs keeps its file.
fn install(built: &Path, agent: &Path) -> std::io::Result<()> {
    let dir = agent.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let fresh = dir.join(".svclb.new");
    fs::copy(built, &fresh)?;
    fs::rename(&fresh, agent)
}
