//! Where things are.

use std::env;
use std::path::PathBuf;

/// The root of the checkout.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .canonicalize()
        .unwrap_or_else(|_| PathBuf::from("."))
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
