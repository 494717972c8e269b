//! Whether this machine can run the data path.

use std::path::Path;

use caps::{CapSet, Capability};
use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};
use nix::unistd::geteuid;

use crate::error::OpenError;
use crate::load::OBJECT;
use crate::options::Options;

/// Checks what can be checked before anything is made.
///
/// # Errors
/// [`OpenError`], with what to do.
pub(crate) fn check(options: &Options) -> Result<(), OpenError> {
    if OBJECT.is_empty() {
        return Err(OpenError::NoObject);
    }
    if !geteuid().is_root() {
        return Err(OpenError::NotRoot);
    }
    for capability in [
        Capability::CAP_BPF,
        Capability::CAP_PERFMON,
        Capability::CAP_NET_ADMIN,
    ] {
        // What cannot be asked will be seen when it is needed.
        let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(true);
        if !has(capability) {
            return Err(OpenError::Capability(capability));
        }
    }
    let release = kernel_release();
    if version(&release) < (5, 10) {
        return Err(OpenError::KernelTooOld(release));
    }
    if !options.sizes.peers.is_power_of_two() {
        return Err(OpenError::PeersNotPowerOfTwo(options.sizes.peers));
    }
    if filesystem(&options.cgroup) != Some(CGROUP2_SUPER_MAGIC) {
        return Err(OpenError::NotCgroup2(options.cgroup.clone()));
    }
    let existing = options.pin_dir.ancestors().find(|path| path.exists());
    if existing.and_then(filesystem) != Some(BPF_FS_MAGIC) {
        return Err(OpenError::NotBpffs(options.pin_dir.clone()));
    }
    Ok(())
}

fn filesystem(path: &Path) -> Option<FsType> {
    statfs(path).ok().map(|stat| stat.filesystem_type())
}

/// The first two numbers of a kernel release.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The kernel's release, as `uname -r` prints it.
fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_distribution_kernels_are_read() {
        assert_eq!(version("5.10.0-34-amd64"), (5, 10));
        assert_eq!(version("6.18.44-fc-v595"), (6, 18));
        assert_eq!(version("4.19"), (4, 19));
        assert_eq!(version(""), (0, 0));
        assert!(version("5.9.16") < (5, 10));
    }
}
