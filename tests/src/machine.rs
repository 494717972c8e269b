//! What a lab needs of the machine: root, `ip`, a cgroup v2 mount and a bpffs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Where labs keep what belongs to them alone: `<RUN>/<prefix>`.
pub(crate) const RUN: &str = "/run/svclb-lab";

/// The mounts that a lab uses. Those that were made for it go when it is dropped.
#[derive(Debug)]
pub struct Machine {
    /// The root of the cgroup v2 hierarchy.
    pub cgroup_root: PathBuf,
    /// The root of the memory controller's own hierarchy, where it has one: it is of cgroup v1 then.
    pub memory_root: Option<PathBuf>,
    /// The root of a BPF file system.
    pub bpffs: PathBuf,
    mounted: Vec<PathBuf>,
}

/// Finds what a lab needs, or makes it: where no cgroup v2 or no bpffs is mounted (a bare
/// virtual machine), one is mounted privately below `private` and unmounted on drop.
/// Network device modules are loaded where the kernel has them as modules.
///
/// # Errors
/// One sentence if this is not root, if `ip` is missing, or if the kernel has neither.
pub fn prepare_machine(private: &Path) -> Result<Machine> {
    require_root()?;
    require_ip()?;
    for module in ["veth", "bridge", "ipv6", "vxlan", "tun", "macvlan"] {
        // Best effort: built in, or loaded already, or `ip link add` will say what is missing.
        drop(
            Command::new("modprobe")
                .args(["-q", module])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status(),
        );
    }
    let mut machine = Machine {
        cgroup_root: PathBuf::new(),
        memory_root: memory_root()?,
        bpffs: PathBuf::new(),
        mounted: Vec::new(),
    };
    machine.cgroup_root = machine.find_or_mount("cgroup2", &private.join("cgroup"))?;
    machine.bpffs = machine.find_or_mount("bpf", &private.join("bpf"))?;
    Ok(machine)
}

/// Fails unless this process is root.
pub(crate) fn require_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    bail!("the lab makes network namespaces and cgroups and needs root: run it as root")
}

fn require_ip() -> Result<()> {
    let found = Command::new("ip")
        .arg("-V")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if found {
        return Ok(());
    }
    bail!("the lab needs `ip` on PATH: install iproute2")
}

impl Machine {
    fn find_or_mount(&mut self, kind: &str, private: &Path) -> Result<PathBuf> {
        if let Some((found, _)) = mounts_of(kind)?.into_iter().next() {
            return Ok(found);
        }
        fs::create_dir_all(private)
            .with_context(|| format!("cannot create {}", private.display()))?;
        mount(
            Some(kind),
            private,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("no {kind} file system is mounted and mounting one failed"))?;
        self.mounted.push(private.to_owned());
        Ok(private.to_owned())
    }

    /// The same places, without the duty to unmount them.
    pub(crate) fn view(&self) -> Self {
        Self {
            cgroup_root: self.cgroup_root.clone(),
            memory_root: self.memory_root.clone(),
            bpffs: self.bpffs.clone(),
            mounted: Vec::new(),
        }
    }

    /// Leaves the private mounts in place, for a lab that outlives its process.
    pub(crate) fn keep_mounts(&mut self) {
        self.mounted.clear();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for path in self.mounted.drain(..).rev() {
            if let Err(errno) = umount2(&path, MntFlags::MNT_DETACH) {
                eprintln!("lab: cannot unmount {}: {errno}", path.display());
            }
            drop(fs::remove_dir(&path));
        }
    }
}

/// What /proc/mounts has of a file system type: mount points and their options. Those of other labs
/// are left out: they go with their lab.
fn mounts_of(kind: &str) -> Result<Vec<(PathBuf, String)>> {
    let table = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    Ok(table
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let point = fields.next()?;
            let its = fields.next()? == kind && !point.starts_with(RUN);
            its.then(|| {
                (
                    PathBuf::from(point),
                    fields.next().unwrap_or_default().to_owned(),
                )
            })
        })
        .collect())
}

fn memory_root() -> Result<Option<PathBuf>> {
    let mut hierarchies = mounts_of("cgroup")?.into_iter();
    let found = hierarchies.find(|(_, options)| options.split(',').any(|is| is == "memory"));
    Ok(found.map(|(point, _)| point))
}
