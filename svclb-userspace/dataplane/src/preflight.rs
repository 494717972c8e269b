//! Whether this machine can run the data path.

use std::fs;
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
    check_kernel(KernelVersion::current().ok().or_else(|| {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
        version_of(&release)
    }))?;
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

/// Refuses a kernel that is known to be too old. Where the version is unknown, a program that the
/// kernel lacks something for fails to load.
fn check_kernel(version: Option<KernelVersion>) -> Result<(), OpenError> {
    match version {
        Some(version) if version < KernelVersion::new(5, 10, 0) => {
            Err(OpenError::KernelTooOld(version))
        }
        _ => Ok(()),
    }
}

/// The first two numbers of a release. (aya takes three, and where Debian's version has two, such
/// as that of a release candidate, it takes none from elsewhere.)
fn version_of(release: &str) -> Option<KernelVersion> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next()?.parse().ok();
    Some(KernelVersion::new(next()?, next()?, 0))
}

fn filesystem(path: &Path) -> Option<FsType> {
    statfs(path).ok().map(|stat| stat.filesystem_type())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_numbers_are_a_version_whatever_follows() {
        for (release, version) in [
            ("6.12-rc6-amd64\n", "6.12.0"),
            ("6.12~rc6-1~exp1", "6.12.0"),
            ("6.0-1~exp1", "6.0.0"),
            ("5.10", "5.10.0"),
            ("6.1.0-28-cloud-amd64", "6.1.0"),
        ] {
            let found = version_of(release).unwrap();
            assert_eq!(found.to_string(), version, "{release}");
            assert!(check_kernel(Some(found)).is_ok(), "{release}");
        }
        let old = version_of("5.9-rc1").unwrap();
        assert!(matches!(
            check_kernel(Some(old)),
            Err(OpenError::KernelTooOld(_))
        ));
    }

    #[test]
    fn a_kernel_of_unknown_version_is_tried() {
        for release in ["", "next", "6", "6.x", "300.1.2"] {
            assert!(check_kernel(version_of(release)).is_ok(), "{release}");
        }
    }
}
