//! Where things are.

use std::env;
use std::path::{Path, PathBuf};

/// The root of the checkout: the nearest directory with a `Cargo.lock` above this crate, whose
/// place cargo gives at run time, or else above the current directory. Not what `env!` gives when
/// this is compiled: in a copy of a checkout with its target directory cargo does not compile again,
/// and the copy would build into the original.
pub(crate) fn root() -> PathBuf {
    let start = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let start = start
        .or_else(|| env::current_dir().ok())
        .unwrap_or_default();
    nearest_lock(&start).unwrap_or(&start).to_owned()
}

fn nearest_lock(start: &Path) -> Option<&Path> {
    start
        .ancestors()
        .find(|dir| dir.join("Cargo.lock").is_file())
}

/// Cargo's target directory.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// The finished eBPF object. The build script of `svclb-dataplane` embeds it.
pub(crate) fn ebpf_object() -> PathBuf {
    target().join("bpf/svclb-ebpf")
}

/// The finished agent: one static binary.
pub(crate) fn agent() -> PathBuf {
    target().join("release/svclb")
}

/// The agent of the next version, beside it.
pub(crate) fn next_agent() -> PathBuf {
    agent().with_file_name("svclb-next")
}

/// The target of the static binary: the host's architecture with musl.
pub(crate) fn static_target() -> String {
    format!("{}-unknown-linux-musl", env::consts::ARCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_where_the_lock_file_is() {
        let root = root();
        assert!(root.join("Cargo.lock").is_file(), "{}", root.display());
        assert_eq!(nearest_lock(&root.join("xtask/src")), Some(&*root));
        assert_eq!(nearest_lock(Path::new("/")), None);
    }
}
