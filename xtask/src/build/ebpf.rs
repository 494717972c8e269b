//! `build-ebpf`: the kernel half, for the BPF virtual machine.

use super::object;
use super::profile::Profile;
use crate::setup::{self, Route, Toolchain};
use crate::{process, workspace};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const TARGET: &str = "bpfel-unknown-none";

/// Gives the path of the object.
pub(crate) fn run(profile: Profile) -> Result<PathBuf> {
    let toolchain = setup::toolchain()?;
    let mut cargo = cargo(&toolchain, "build", profile);
    process::run(&mut cargo)?;
    let built = build_dir(profile).join(format!("{TARGET}/release/svclb-ebpf"));
    object::check_programs(&built)?;
    let object = match profile {
        Profile::Debug => return Ok(built),
        Profile::Release => workspace::ebpf_object(),
        Profile::Next => workspace::ebpf_object().with_file_name("svclb-ebpf-next"),
    };
    keep(&built, &object)?;
    Ok(object)
}

/// The lints of the kernel half, with warnings denied. Clippy where the toolchain has it.
pub(crate) fn lint() -> Result<()> {
    let toolchain = setup::toolchain()?;
    let clippy = toolchain.rustc.with_file_name("cargo-clippy").exists();
    if clippy {
        for profile in [Profile::Release, Profile::Debug] {
            let mut cargo = cargo(&toolchain, "clippy", profile);
            process::run(cargo.args(["--", "-D", "warnings"]))?;
        }
        return Ok(());
    }
    println!("check: this nightly has no clippy: svclb-ebpf is only built with warnings denied");
    let mut cargo = cargo(&toolchain, "check", Profile::Debug);
    cargo.env("CARGO_BUILD_WARNINGS", "deny");
    let encoded = format!("{}\u{1f}-Dwarnings", rustflags(&toolchain));
    cargo.env("CARGO_ENCODED_RUSTFLAGS", encoded);
    // Other flags than the build's would have it compiled again each time.
    cargo.arg("--target-dir");
    cargo.arg(workspace::target().join("bpf-check"));
    process::run(&mut cargo)
}

fn build_dir(profile: Profile) -> PathBuf {
    workspace::target().join(match profile {
        Profile::Release => "bpf-build",
        Profile::Debug => "bpf-build-debug",
        Profile::Next => "bpf-build-next",
    })
}

/// Flags as `CARGO_ENCODED_RUSTFLAGS` wants them: separated by the unit separator, so that a
/// path with a space in it is no problem.
fn rustflags(toolchain: &Toolchain) -> String {
    let linker = format!("-Clinker={}", toolchain.linker.display());
    // BTF is what names map types to the kernel, and needs debug information to come from.
    [&linker, "-Clink-arg=--btf", "-Cdebuginfo=2"].join("\u{1f}")
}

fn cargo(toolchain: &Toolchain, verb: &str, profile: Profile) -> Command {
    let mut cargo = match toolchain.route {
        Route::Nightly => {
            let mut rustup = process::foreign("rustup");
            rustup.args(["run", "nightly", "cargo", verb]);
            rustup.args(["-Z", "build-std=core"]);
            rustup
        }
        Route::Debian => {
            let mut cargo = process::cargo();
            cargo.arg(verb);
            // A stable compiler refuses the unstable attributes of aya-ebpf without this.
            cargo.env("RUSTC_BOOTSTRAP", "1");
            cargo.env("RUSTC", &toolchain.rustc);
            cargo
        }
    };
    // Optimised in both: without that no program passes the verifier.
    cargo.args(["--release", "--package", "svclb-ebpf"]);
    match profile {
        Profile::Release => {}
        Profile::Debug => drop(cargo.args(["--features", "log"])),
        Profile::Next => drop(cargo.args(["--features", "next-layout"])),
    }
    cargo.args(["--target", TARGET]);
    // A target directory of its own: the host's builds hold the lock of theirs.
    if verb != "check" {
        cargo.arg("--target-dir").arg(build_dir(profile));
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", rustflags(toolchain));
    cargo
}

/// Copies only what changed: the time of the copy decides whether the agent is built again.
fn keep(built: &PathBuf, object: &PathBuf) -> Result<()> {
    let bytes = fs::read(built).with_context(|| format!("{} is missing", built.display()))?;
    if fs::read(object).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let write = || {
        fs::create_dir_all(workspace::target().join("bpf"))?;
        fs::write(object, &bytes)
    };
    write().with_context(|| format!("{} can't be written", object.display()))
}
