//! Embeds the eBPF object that `cargo xtask build-ebpf` leaves in `target/bpf`.
//!
//! Without it the crate still builds, so that editors and `cargo check` work on a fresh
//! clone; the agent then says at start what is missing.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-env-changed=SVCLB_EBPF_OBJECT");
    let manifest_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let object = env::var_os("SVCLB_EBPF_OBJECT").map_or_else(
        || manifest_dir.join("../../target/bpf/svclb-ebpf"),
        PathBuf::from,
    );
    println!("cargo:rerun-if-changed={}", object.display());
    let out = Path::new(&env::var_os("OUT_DIR").unwrap_or_default()).join("svclb-ebpf");
    if object.exists() {
        fs::copy(&object, out)?;
    } else {
        println!("cargo:warning=no eBPF object: `cargo xtask build` makes a binary that works");
        fs::write(out, [])?;
    }
    Ok(())
}
