//! What an administrator with `bpftool` does to pinned maps and links.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::tool;

const PACKAGE: &str = "bpftool";

/// A pinned map.
#[derive(Clone, Debug)]
pub struct PinnedMap(PathBuf);

/// A key or a value: its bytes, each as `bpftool` writes it.
pub type Bytes = Vec<String>;

impl PinnedMap {
    /// The map pinned at a path.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Makes a hash of a key and a value of so many bytes, and pins it at a path in the place of what is
    /// pinned there.
    ///
    /// # Errors
    /// What `bpftool` says, or that a pin cannot be removed.
    pub fn replace(path: &Path, key: usize, value: usize) -> Result<Self> {
        std::fs::remove_file(path).context("the pin cannot be removed")?;
        let mut command = Command::new("bpftool");
        command.args(["map", "create"]).arg(path);
        command.args(["type", "hash", "name", "replaced", "entries", "1024"]);
        command.args(["key", &key.to_string(), "value", &value.to_string()]);
        // BPF_F_NO_PREALLOC.
        command.args(["flags", "1"]);
        tool::run(&mut command, PACKAGE)?;
        Ok(Self::at(path))
    }

    /// All of its elements.
    ///
    /// # Errors
    /// What `bpftool` says.
    pub fn elements(&self) -> Result<Vec<(Bytes, Bytes)>> {
        let text = tool::output(self.command("dump").arg("--json"), PACKAGE)?;
        let elements: Vec<Value> = serde_json::from_str(&text).context("bpftool wrote no JSON")?;
        let bytes = |element: &Value, part: &str| {
            let bytes = element[part].as_array().into_iter().flatten();
            bytes.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let elements = elements.iter();
        Ok(elements
            .map(|element| (bytes(element, "key"), bytes(element, "value")))
            .collect())
    }

    /// A key and a value of zeros.
    ///
    /// # Errors
    /// What `bpftool` says.
    pub fn zeros(&self) -> Result<(Bytes, Bytes)> {
        let text = tool::output(self.command("show").arg("--json"), PACKAGE)?;
        let map: Value = serde_json::from_str(&text).context("bpftool wrote no JSON")?;
        let zeros = |size: &str| {
            let size = map[size]
                .as_u64()
                .and_then(|size| usize::try_from(size).ok());
            let size = size.context("bpftool wrote no size")?;
            anyhow::Ok(vec!["0x00".to_owned(); size])
        };
        Ok((zeros("bytes_key")?, zeros("bytes_value")?))
    }

    /// Writes an element.
    ///
    /// # Errors
    /// What `bpftool` says.
    pub fn update(&self, key: &Bytes, value: &Bytes) -> Result<()> {
        let mut command = self.command("update");
        command.arg("key").args(key).arg("value").args(value);
        tool::run(&mut command, PACKAGE)
    }

    /// Deletes an element.
    ///
    /// # Errors
    /// What `bpftool` says.
    pub fn delete(&self, key: &Bytes) -> Result<()> {
        tool::run(self.command("delete").arg("key").args(key), PACKAGE)
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new("bpftool");
        command.args(["map", verb, "pinned"]).arg(&self.0);
        command
    }
}

/// Detaches the link that is pinned at a path, also if another process holds it.
///
/// # Errors
/// What `bpftool` says.
pub fn detach_link(path: &Path) -> Result<()> {
    let mut command = Command::new("bpftool");
    command.args(["link", "detach", "pinned"]).arg(path);
    tool::run(&mut command, PACKAGE)
}
