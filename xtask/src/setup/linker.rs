//! bpf-linker: one that reads what the chosen compiler writes, shown by linking a tiny object.

use super::packages;
use super::route::{Compiler, Route};
use crate::{process, workspace};
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

const NAME: &str = "bpf-linker";
const PROBE: &str = "#![no_std]\n#[unsafe(no_mangle)]\n\
    pub extern \"C\" fn svclb_probe(x: u64) -> u64 { x.wrapping_mul(3) }\n";

/// Chooses a linker; the text says why this one.
pub(super) fn choose(compiler: &Compiler) -> Result<(PathBuf, String)> {
    let bitcode = bitcode(compiler)?;
    for (place, why) in places() {
        if place.is_file() && links(&place, &bitcode) {
            return Ok((place, why));
        }
    }
    for attempt in attempts(compiler) {
        println!("setup: no {NAME} that fits; {}", attempt.what);
        let mut command = (attempt.command)();
        if let Err(error) = process::run(&mut command) {
            println!("setup: {error:#}");
            continue;
        }
        let built = private_root().join("bin").join(NAME);
        if links(&built, &bitcode) {
            return Ok((built, format!("built for LLVM {}", compiler.llvm)));
        }
        println!("setup: it does not read what {} writes", compiler.version);
    }
    bail!(
        "no {NAME} that reads LLVM {llvm}: install one of {NAME}'s released binaries into PATH, \
         or on Debian `sudo apt-get install llvm-{llvm}-dev libpolly-{llvm}-dev libzstd-dev zlib1g-dev`, \
         then run this again",
        llvm = compiler.llvm
    )
}

fn private_root() -> PathBuf {
    workspace::target().join("tools")
}

fn places() -> Vec<(PathBuf, String)> {
    let mut places = Vec::new();
    if let Some(file) = process::find(NAME) {
        places.push((file, "it is on PATH and links".into()));
    }
    let private = private_root().join("bin").join(NAME);
    places.push((private, "built earlier and links".into()));
    let cargo = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    if let Some(cargo) = cargo {
        let file = cargo.join("bin").join(NAME);
        places.push((file, "cargo has installed it and it links".into()));
    }
    places
}

struct Attempt {
    what: String,
    command: Box<dyn Fn() -> Command>,
}

/// What can be tried: a released binary, then LLVM as apt has it, then the crate's default.
fn attempts(compiler: &Compiler) -> Vec<Attempt> {
    let llvm = compiler.llvm;
    let mut attempts = Vec::new();
    if process::find("cargo-binstall").is_some() {
        attempts.push(Attempt {
            what: "fetching its released binary".into(),
            command: Box::new(|| {
                let mut command = process::foreign("cargo");
                command.args(["binstall", "--no-confirm", "--root"]);
                command.arg(private_root()).arg(NAME);
                command
            }),
        });
    }
    let prefix = format!("/usr/lib/llvm-{llvm}");
    if llvm_of_apt(llvm, &prefix) {
        attempts.push(Attempt {
            what: format!("building it against {prefix} (some minutes)"),
            command: Box::new(move || {
                let mut command = install();
                command.args(["--no-default-features", "--features"]);
                command.arg(format!("llvm-{llvm}"));
                command.env("LLVM_PREFIX", &prefix);
                command
            }),
        });
    }
    attempts.push(Attempt {
        what: "building it with its own default LLVM (some minutes)".into(),
        command: Box::new(install),
    });
    attempts
}

fn install() -> Command {
    let mut command = process::cargo();
    command.args(["install", "--quiet", "--force", "--root"]);
    command.arg(private_root()).arg(NAME);
    command
}

/// Whether LLVM's development files of this version are there, or apt could install them.
fn llvm_of_apt(llvm: u32, prefix: &str) -> bool {
    // bpf-linker links Polly as well, which has a package of its own.
    let there = || {
        ["bin/llvm-config", "lib/libPolly.a"]
            .iter()
            .all(|file| Path::new(prefix).join(file).exists())
    };
    if there() {
        return true;
    }
    let names = [
        format!("llvm-{llvm}-dev"),
        format!("libpolly-{llvm}-dev"),
        "libzstd-dev".into(),
        "zlib1g-dev".into(),
    ];
    if !packages::exists(&names[0]) {
        return false;
    }
    println!("setup: installing {}", names.join(" "));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    match packages::install(&names) {
        Ok(()) => there(),
        Err(error) => {
            println!("setup: {error:#}");
            false
        }
    }
}

/// A tiny module as the chosen compiler writes it. For the host's target, because a nightly has
/// no `core` for BPF before the first build; the linker retargets it.
fn bitcode(compiler: &Compiler) -> Result<PathBuf> {
    let dir = workspace::target().join("xtask");
    fs::create_dir_all(&dir).with_context(|| format!("{} can't be made", dir.display()))?;
    let source = dir.join("probe.rs");
    let bitcode = dir.join("probe.bc");
    fs::write(&source, PROBE).with_context(|| format!("{} can't be written", source.display()))?;
    let mut rustc = Command::new(&compiler.rustc);
    rustc.args(["-O", "--edition=2024", "--crate-type=lib"]);
    rustc.args(["--emit=llvm-bc", "-Ccodegen-units=1", "-o"]);
    rustc.arg(&bitcode).arg(&source);
    if compiler.route == Route::Debian {
        // Debian keeps the host's standard library in a package of its own.
        rustc.args(["--target", "bpfel-unknown-none"]);
    }
    process::run(&mut rustc)?;
    Ok(bitcode)
}

fn links(linker: &Path, bitcode: &Path) -> bool {
    let object = bitcode.with_extension("o");
    drop(fs::remove_file(&object));
    let status = Command::new(linker)
        .args([
            "--target=bpfel",
            "--export",
            "svclb_probe",
            "--emit=obj",
            "-o",
        ])
        .arg(&object)
        .arg(bitcode)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success()) && object.is_file()
}
