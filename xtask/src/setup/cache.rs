//! What `setup` found the last time, valid for as long as both programs are the same files.

use super::Route;
use crate::workspace;
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The eBPF compiler and linker that were chosen.
pub(crate) struct Toolchain {
    pub(crate) route: Route,
    pub(crate) rustc: PathBuf,
    pub(crate) rustc_version: String,
    pub(crate) why: String,
    pub(crate) linker: PathBuf,
    pub(crate) linker_why: String,
}

fn file() -> PathBuf {
    workspace::target().join("xtask/toolchain.json")
}

/// Length and time of change: another release of a tool has another stamp.
fn stamp(path: &Path) -> Option<String> {
    let entry = fs::metadata(path).ok()?;
    Some(format!(
        "{}@{}.{}",
        entry.len(),
        entry.mtime(),
        entry.mtime_nsec()
    ))
}

pub(super) fn forget() {
    drop(fs::remove_file(file()));
}

pub(super) fn load() -> Option<Toolchain> {
    let known: Value = serde_json::from_slice(&fs::read(file()).ok()?).ok()?;
    let text = |key: &str| Some(known.get(key)?.as_str()?.to_owned());
    let found = Toolchain {
        route: Route::from_name(&text("route")?)?,
        rustc: text("rustc")?.into(),
        rustc_version: text("rustc_version")?,
        why: text("why")?,
        linker: text("linker")?.into(),
        linker_why: text("linker_why")?,
    };
    let same = stamp(&found.rustc)? == text("rustc_stamp")?
        && stamp(&found.linker)? == text("linker_stamp")?
        && found.route.has_core(&found.rustc);
    same.then_some(found)
}

pub(super) fn store(found: &Toolchain) -> Result<()> {
    let text = json!({
        "route": found.route.name(),
        "rustc": found.rustc,
        "rustc_version": found.rustc_version,
        "rustc_stamp": stamp(&found.rustc),
        "why": found.why,
        "linker": found.linker,
        "linker_stamp": stamp(&found.linker),
        "linker_why": found.linker_why,
    });
    let file = file();
    let write = || {
        fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
        fs::write(&file, format!("{text:#}\n"))
    };
    write().with_context(|| format!("{} can't be written", file.display()))
}
