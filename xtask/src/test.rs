//! `test`: everything that can be tested, in the order of what it needs.

use anyhow::{Result, bail};

use crate::steps::Steps;
use crate::{build, check, process, setup, vm, workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(clap::Subcommand)]
enum What {
    /// Boots distribution kernels under virtme-ng and runs the lab tests in each
    Vm(vm::Args),
}

pub(crate) fn run(args: Args) -> Result<()> {
    match args.what {
        Some(What::Vm(vm)) => vm::run(&vm),
        None => all(),
    }
}

fn all() -> Result<()> {
    let mut steps = Steps::default();
    steps.step("build", || build::run(&build::Args::default()).map(drop));
    steps.step("check", check::run);
    steps.step("unit and property tests", || {
        process::run(process::cargo().args([
            "test",
            "--package",
            "svclb-common",
            "--package",
            "svclb-core",
            "--package",
            "svclb-source",
            "--package",
            "svclb",
            "--package",
            "xtask",
        ]))
    });
    if process::is_root() {
        setup::lab_tools()?;
        steps.step("verifier and maps, on this kernel", || {
            process::run(process::cargo().args(["test", "--package", "svclb-dataplane"]))
        });
        steps.step("scenarios in labs, on this kernel", || {
            let mut cargo = process::cargo();
            cargo.args(["test", "--package", "svclb-tests", "--", "--test-threads=1"]);
            process::run(cargo.env("SVCLB_BIN", workspace::agent()))
        });
    } else {
        steps.step("verifier, maps and labs", || {
            bail!(
                "these tests need root, because they make network namespaces and load eBPF programs: \
                 run `sudo -E env PATH=$PATH cargo xtask test`"
            )
        });
    }
    steps.finish()
}
