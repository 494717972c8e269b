//! `fuzz`: searches for input that breaks what it must not (`fuzz/src/lib.rs` says what that is),
//! by libFuzzer, which sees what of the code a piece of input reaches; and mutated frames for the
//! packet programs in the kernel, whose inside it does not see.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::steps::Steps;
use crate::{build, process, setup, workspace};

/// What libFuzzer needs of the compiler: counters at each edge, a table of them, and the operands
/// of comparisons. (`cargo fuzz` gives the same; it asks for a nightly compiler.)
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Target {
    /// Manifests: text to objects to maps
    Manifests,
    /// Watch events of the API: JSON to objects to maps
    Objects,
    /// Services and endpoints that come, go and contend, and agents that crash
    Plan,
    /// The packet programs' parser, run as an ordinary program
    Frames,
    /// The packet programs in the kernel; needs root
    Programs,
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which; all of them unless some are named
    targets: Vec<Target>,
    /// For how many seconds each
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Put what reached new code into the corpora of the repository, without what it makes needless
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let all = Target::value_variants();
    let targets = if args.targets.is_empty() {
        all
    } else {
        &args.targets
    };
    let mut steps = Steps::default();
    for target in targets {
        let name = target.to_possible_value().unwrap_or_default();
        let name = name.get_name();
        steps.step(&format!("fuzz {name}"), || match target {
            Target::Programs => programs(args.seconds),
            _ => search(name, args),
        });
    }
    steps.finish()
}

/// Builds a target and lets it search.
fn search(name: &str, args: &Args) -> Result<()> {
    setup::need("c++", "g++")?;
    let dir = workspace::target().join("fuzz");
    let host = host()?;
    let mut cargo = process::cargo();
    cargo
        .args(["build", "--release", "--package", "svclb-fuzz"])
        .args(["--features", "search", "--bin", name])
        // So that build scripts and macros are built without the flags.
        .args(["--target", &host, "--target-dir"])
        .arg(&dir)
        .env("RUSTFLAGS", FLAGS);
    process::run(&mut cargo)?;
    let kept = workspace::root().join("fuzz/corpus").join(name);
    let found = dir.join("corpus").join(name);
    let broken = dir.join("broken");
    for made in [&found, &broken] {
        fs::create_dir_all(made).with_context(|| format!("{} can't be made", made.display()))?;
    }
    let program = dir.join(&host).join("release").join(name);
    let mut fuzzer = process::foreign(&program);
    fuzzer
        .arg(format!("-max_total_time={}", args.seconds))
        .arg(format!("-artifact_prefix={}/{name}-", broken.display()))
        .args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"])
        .arg(&found)
        .arg(&kept);
    process::run(&mut fuzzer).with_context(|| {
        format!(
            "something was found: see above, and {}; once it is mended, put it into {}",
            broken.display(),
            kept.display()
        )
    })?;
    if args.keep {
        keep(&program, &kept, &found)?;
    }
    Ok(())
}

/// Merges what was found into what is kept, as little of it as reaches the same code.
fn keep(program: &Path, kept: &Path, found: &Path) -> Result<()> {
    process::run(
        process::foreign(program)
            .args(["-set_cover_merge=1", "-use_counters=0", "-max_len=600"])
            .arg(kept)
            .arg(found),
    )
}

/// Mutated frames, for longer than in the tests.
fn programs(seconds: u32) -> Result<()> {
    process::need_root("running packet programs", "fuzz programs")?;
    setup::lab_tools()?;
    build::run()?;
    let mut cargo = process::cargo();
    cargo
        .args(["test", "--package", "svclb-dataplane", "--test", "packets"])
        .args(["--", "fuzz::", "--nocapture"])
        .env("SVCLB_FUZZ_SECONDS", seconds.to_string());
    process::run(&mut cargo)
}

/// The triple of this machine.
fn host() -> Result<String> {
    let text = process::output(process::foreign("rustc").arg("-vV"))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned)
        .context("rustc does not say what it runs on")
}
