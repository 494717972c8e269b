//! `cargo xtask`: every chore of this repository, one verb each.
//!
//! A verb first runs `setup`, which is silent and takes milliseconds once the tools are there.
//! Few dependencies on purpose: every command compiles this crate first.

mod bench;
mod build;
mod check;
mod demo;
mod docs;
mod fuzz;
mod image;
mod process;
mod setup;
mod soak;
mod steps;
mod test;
mod times;
mod vm;
mod workspace;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, checks, tests and shows svclb")]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Finds or installs the eBPF toolchain, the linker and the static target
    Setup(setup::Args),
    /// Builds the eBPF object: target/bpf/svclb-ebpf
    BuildEbpf,
    /// Builds the agent as one static binary: target/release/svclb
    Build(build::Args),
    /// Formatting, lints, spelling, layering, licences, documentation; changes nothing
    Check(check::Args),
    /// Writes what of the documents comes from the code
    Docs,
    /// All tests; the last steps need root
    Test(test::Args),
    /// The main job, shown with real traffic in a lab of its own; needs root
    Demo(demo::Args),
    /// Measurements; needs root
    Bench(bench::Args),
    /// Connects while endpoints change a hundred times a second, and agents crash; needs root
    Soak(soak::Args),
    /// Searches for input that breaks what it must not; the last target needs root
    Fuzz(fuzz::Args),
    /// Builds the container image with docker
    Image(image::Args),
}

fn main() -> ExitCode {
    match run(Args::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Setup(args) => setup::run(&args),
        Verb::BuildEbpf => build::ebpf::run(build::Profile::Release).map(drop),
        Verb::Build(args) => build::verb(&args),
        Verb::Check(args) => check::run(&args),
        Verb::Docs => docs::write(),
        Verb::Test(args) => test::run(args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Soak(args) => soak::run(&args),
        Verb::Fuzz(args) => fuzz::run(&args),
        Verb::Image(args) => image::run(&args),
    }
}
