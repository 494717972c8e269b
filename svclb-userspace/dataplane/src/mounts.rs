//! Where cgroup v2 and the bpffs are mounted.

use std::fs;
use std::path::PathBuf;

use crate::error::MountError;

/// The root of the cgroup v2 hierarchy.
///
/// # Errors
/// [`MountError`].
pub fn find_cgroup2() -> Result<PathBuf, MountError> {
    first(&mounts()?, "cgroup2").ok_or(MountError::NoCgroup2)
}

/// The root of the cgroup v2 hierarchy, to which all sockets of the machine belong.
///
/// A container may see its own cgroup as the root (cgroup_namespaces(7), as Docker makes them unless
/// asked otherwise). That one has files which a real root has not (`cgroup.events`, Linux 4.5:
/// Documentation/admin-guide/cgroup-v2.rst).
///
/// # Errors
/// [`MountError`].
pub fn root_cgroup() -> Result<PathBuf, MountError> {
    let path = find_cgroup2()?;
    if path.join("cgroup.events").exists() {
        return Err(MountError::PrivateCgroup(path));
    }
    Ok(path)
}

/// A mounted bpffs.
///
/// # Errors
/// [`MountError`].
pub fn find_bpffs() -> Result<PathBuf, MountError> {
    first(&mounts()?, "bpf").ok_or(MountError::NoBpffs)
}

fn mounts() -> Result<String, MountError> {
    fs::read_to_string("/proc/mounts").map_err(MountError::Proc)
}

/// The mount point of the first filesystem of a type, by the text of `/proc/mounts`
/// (fstab(5): device, mount point, type, options).
fn first(mounts: &str, kind: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, found) = (fields.next()?, fields.next()?);
        (found == kind).then(|| PathBuf::from(unescape(path)))
    })
}

/// Blanks stand as `\040` in `/proc/mounts`.
fn unescape(path: &str) -> String {
    path.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
        cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
        cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
        bpf /mnt/a\\040b bpf rw 0 0\n";

    #[test]
    fn cgroup2_is_found_in_a_hybrid_layout() {
        assert_eq!(
            first(HYBRID, "cgroup2"),
            Some("/sys/fs/cgroup/unified".into())
        );
    }

    #[test]
    fn a_mount_point_with_a_blank_is_found() {
        assert_eq!(first(HYBRID, "bpf"), Some("/mnt/a b".into()));
    }

    #[test]
    fn what_is_not_mounted_is_not_found() {
        assert_eq!(first("proc /proc proc rw 0 0\n", "cgroup2"), None);
    }
}
