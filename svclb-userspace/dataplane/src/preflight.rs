//! Whether this machine can run the data path.

use std::path::Path;

use aya::util::KernelVersion;
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
        // If they cannot be read, the call that needs one fails later.
        let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(true);
        if !has(capability) {
            return Err(OpenError::Capability(capability));
        }
    }
    let version =
        KernelVersion::current().map_err(|error| OpenError::KernelVersion(error.to_string()))?;
    if version < KernelVersion::new(5, 10, 0) {
        return Err(OpenError::KernelTooOld(version));
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
