//! Cgroups of the lab, all below one directory that carries its prefix.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Makes a cgroup and its parents.
pub(crate) fn create(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot create cgroup {}", path.display()))
}

/// Moves a process into a cgroup.
pub(crate) fn join(path: &Path, pid: u32) -> Result<()> {
    fs::write(path.join("cgroup.procs"), pid.to_string())
        .with_context(|| format!("cannot move process {pid} into {}", path.display()))
}

/// Kills what runs in a cgroup tree and removes it.
pub(crate) fn remove_tree(root: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if !root.exists() {
            return Ok(());
        }
        kill_tree(root);
        if remove_empty(root).is_ok() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("cannot remove cgroup {}", root.display());
        }
        // A killed process leaves its cgroup when it has finished exiting.
        sleep(Duration::from_millis(5));
    }
}

fn kill_tree(path: &Path) {
    for child in subdirectories(path) {
        kill_tree(&child);
    }
    // `cgroup.kill` would do it at once, but only since Linux 5.14.
    let processes = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|line| line.parse().ok()) {
        // ESRCH: it has ended by itself.
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
    }
}

fn remove_empty(path: &Path) -> std::io::Result<()> {
    for child in subdirectories(path) {
        remove_empty(&child)?;
    }
    fs::remove_dir(path)
}

fn subdirectories(path: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}
