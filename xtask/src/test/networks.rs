//! `test networks`: the scenarios of `docs/networks.md`, all of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::lab::{self, Bpffs};
use crate::steps::Steps;
use crate::{build, process, setup, vm, workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The kernels of the guests that play what this one lacks devices for
    #[arg(long = "kernel", default_value = "6.12")]
    kernels: Vec<String>,
    /// None of these
    #[arg(long, conflicts_with = "kernels")]
    no_guests: bool,
}

/// The scenarios, by the beginnings of their names.
const SCENARIOS: [&str; 3] = [
    "lab::networks::",
    "lab::outside::",
    "lab::matrix::outward::",
];

pub(crate) fn run(args: Args) -> Result<()> {
    process::need_root("making network namespaces", "test networks")?;
    setup::lab_tools()?;
    let _bpffs = Bpffs::mounted()?;
    let mut steps = Steps::default();
    steps.step("build", || build::run().map(drop));
    let file = workspace::target().join("networks-lacks");
    // Of an earlier run.
    drop(fs::remove_file(&file));
    steps.step("scenarios on all networks, on this kernel", || {
        let test = ["test", "--package", "svclb-tests", "--test", "lab"];
        let arguments = [
            &test[..],
            &["--features", vm::ALL_NETWORKS, "--"],
            &SCENARIOS,
        ]
        .concat();
        lab::run_with(&arguments, "auto", &[("SVCLB_LACKS", file.as_os_str())])
    });
    let lacking = lacking(&file)?;
    if args.no_guests || lacking.is_empty() {
        for name in &lacking {
            println!("not played: {name}");
        }
        return steps.finish();
    }
    steps.step("scenarios for which this kernel lacks devices", || {
        vm::run(&vm::Args::of_scenarios(args.kernels, lacking))
    });
    steps.finish()
}

/// The names of the scenarios that said that they lack devices.
fn lacking(file: &Path) -> Result<Vec<String>> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let names: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.strip_suffix(" devices")?.rsplit_once(": "))
        .map(|(name, _)| name.to_owned())
        .collect();
    Ok(names.into_iter().collect())
}
