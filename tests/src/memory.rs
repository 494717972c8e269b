//! A limit to the memory of an agent, as a container has one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cgroup;

/// A cgroup whose processes have a limit. It goes with its lab.
#[derive(Debug)]
pub struct MemoryLimit {
    dir: PathBuf,
    /// The file of the limit, and what it says where there is none.
    limit: &'static str,
    unlimited: &'static str,
}

impl MemoryLimit {
    /// In the memory controller's own hierarchy.
    pub(crate) fn v1(dir: PathBuf) -> Result<Self> {
        cgroup::create(&dir)?;
        Ok(Self {
            dir,
            limit: "memory.limit_in_bytes",
            unlimited: "-1",
        })
    }

    /// For a cgroup of version 2 below that of a lab; none where the lab's has no memory controller.
    pub(crate) fn v2(lab: &Path, dir: PathBuf) -> Result<Option<Self>> {
        let controllers = lab.join("cgroup.controllers");
        let controllers = fs::read_to_string(&controllers)
            .with_context(|| format!("{} cannot be read", controllers.display()))?;
        if !controllers.split_whitespace().any(|name| name == "memory") {
            return Ok(None);
        }
        write(&lab.join("cgroup.subtree_control"), "+memory")?;
        Ok(Some(Self {
            dir,
            limit: "memory.max",
            unlimited: "max",
        }))
    }

    /// From now on no more than these bytes; none for as much as there is. Swap does not help.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn set(&self, bytes: Option<u64>) -> Result<()> {
        let swap = self.dir.join("memory.swap.max");
        if swap.exists() {
            write(&swap, "0")?;
        }
        let value = bytes.map_or_else(|| self.unlimited.to_owned(), |bytes| bytes.to_string());
        write(&self.dir.join(self.limit), &value)
    }

    /// Runs what it is given under the limit.
    pub fn wrapper(&self) -> Vec<String> {
        let procs = self.dir.join("cgroup.procs");
        let script = format!("echo $$ > {} && exec \"$@\"", procs.display());
        ["sh", "-c", &script, "sh"].map(str::to_owned).into()
    }
}

fn write(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).with_context(|| format!("cannot write {value} to {}", path.display()))
}
