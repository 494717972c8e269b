//! The compiler for the eBPF crate: two routes, the one that is already there first.

use super::packages;
use crate::process;
use anyhow::{Context as _, Result, bail};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How `core` for the BPF target comes about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// A rustup nightly builds `core` from its sources.
    Nightly,
    /// Debian's stable compiler with a `core` that Debian built.
    Debian,
}

/// A compiler and what is known of it.
pub(super) struct Compiler {
    pub(super) route: Route,
    pub(super) rustc: PathBuf,
    pub(super) version: String,
    /// The major version of its LLVM: the linker must read what this one writes.
    pub(super) llvm: u32,
}

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

impl Route {
    const ALL: [Self; 2] = [Self::Nightly, Self::Debian];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nightly => "nightly",
            Self::Debian => "debian",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|route| route.name() == name)
    }

    /// Whether the files that `core` comes from are there.
    pub(super) fn has_core(self, rustc: &Path) -> bool {
        let Some(root) = rustc.parent().and_then(Path::parent) else {
            return false;
        };
        let core = match self {
            Self::Nightly => "lib/rustlib/src/rust/library/core/src/lib.rs",
            Self::Debian => "lib/rustlib/bpfel-unknown-none/lib",
        };
        root.join(core).exists()
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nightly => "rustup nightly with -Z build-std=core",
            Self::Debian => "Debian's rustc with a prebuilt core for BPF",
        })
    }
}

/// Chooses a compiler; the text completes "because …".
pub(super) fn choose() -> Result<(Compiler, String)> {
    if let Some(compiler) = nightly() {
        return Ok((compiler, "a nightly with rust-src is installed".into()));
    }
    if let Some(compiler) = debian() {
        let why = format!(
            "{} is installed, and no nightly with rust-src",
            DEBIAN_PACKAGES[1]
        );
        return Ok((compiler, why));
    }
    if install_nightly()
        && let Some(compiler) = nightly()
    {
        return Ok((compiler, "rustup could fetch what was missing of it".into()));
    }
    if packages::exists(DEBIAN_PACKAGES[1])
        && packages::install(&DEBIAN_PACKAGES).is_ok()
        && let Some(compiler) = debian()
    {
        return Ok((
            compiler,
            "no nightly can be fetched, and apt had this".into(),
        ));
    }
    bail!(
        "no compiler for eBPF: run `rustup toolchain install nightly --profile minimal -c rust-src`, \
         or on Debian `sudo apt-get install {}`, then run this again",
        DEBIAN_PACKAGES.join(" ")
    )
}

fn nightly() -> Option<Compiler> {
    process::find("rustup")?;
    let mut which = process::foreign("rustup");
    which.args(["which", "--toolchain", "nightly", "rustc"]);
    inspect(Route::Nightly, process::probe(&mut which)?.into()).ok()
}

fn debian() -> Option<Compiler> {
    inspect(Route::Debian, DEBIAN_RUSTC.into()).ok()
}

fn install_nightly() -> bool {
    if process::find("rustup").is_none() {
        return false;
    }
    let installed = process::probe(process::foreign("rustup").args(["toolchain", "list"]))
        .is_some_and(|list| list.lines().any(|line| line.starts_with("nightly")));
    let mut rustup = process::foreign("rustup");
    if installed {
        println!("setup: adding rust-src to the nightly toolchain");
        rustup.args(["component", "add", "rust-src", "--toolchain", "nightly"]);
    } else {
        println!("setup: installing a nightly toolchain with rust-src");
        rustup.args(["toolchain", "install", "nightly"]);
        rustup.args(["--profile", "minimal", "-c", "rust-src"]);
    }
    match process::run(&mut rustup) {
        Ok(()) => true,
        Err(error) => {
            println!("setup: {error:#}; trying another route");
            false
        }
    }
}

fn inspect(route: Route, rustc: PathBuf) -> Result<Compiler> {
    if !route.has_core(&rustc) {
        bail!("{} has no core for BPF", rustc.display());
    }
    let about = process::probe(Command::new(&rustc).arg("-vV"))
        .with_context(|| format!("{} does not run", rustc.display()))?;
    let field = |name: &str| {
        let line = about.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().to_owned())
    };
    let llvm = field("LLVM version:").context("rustc does not name its LLVM")?;
    let major = llvm.split('.').next().unwrap_or_default();
    Ok(Compiler {
        route,
        rustc,
        version: format!("{}, LLVM {llvm}", about.lines().next().unwrap_or_default()),
        llvm: major.parse().context("rustc's LLVM version is no number")?,
    })
}
