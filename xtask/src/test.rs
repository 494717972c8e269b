//! `test`: everything that can be tested, in the order of what it needs.

mod lab;
mod networks;

use anyhow::{Result, bail};

use crate::steps::Steps;
use crate::{build, check, process, setup, vm};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(clap::Subcommand)]
enum What {
    /// Boots distribution kernels under virtme-ng and runs the lab tests in each
    Vm(vm::Args),
    /// Every scenario of networks and of clients outside on every kind of network of docs/networks.md, in
    /// guests where this kernel has not the devices
    Networks(networks::Args),
}

pub(crate) fn run(args: Args) -> Result<()> {
    match args.what {
        Some(What::Vm(vm)) => vm::run(&vm),
        Some(What::Networks(args)) => networks::run(args),
        None => all(),
    }
}

fn all() -> Result<()> {
    let mut steps = Steps::default();
    steps.step("build", || build::run().map(drop));
    steps.step("check", || check::run(&check::Args::default()));
    steps.step("unit and property tests", || {
        process::run(process::cargo().args([
            "test",
            "--package",
            "svclb-common",
            "--package",
            "svclb-packet",
            "--package",
            "svclb-core",
            "--package",
            "svclb-source",
            "--package",
            "svclb",
            "--package",
            "svclb-fuzz",
            "--package",
            "xtask",
        ]))
    });
    steps.step("unit tests of the data path's crate", || {
        process::run(process::cargo().args(["test", "--package", "svclb-dataplane", "--lib"]))
    });
    steps.step("scenarios that other kernels are tested with", || {
        vm::check_selection()
    });
    if process::is_root() {
        setup::lab_tools()?;
        let _bpffs = lab::Bpffs::mounted()?;
        steps.step("verifier and maps, on this kernel", || {
            process::run(process::cargo().args(["test", "--package", "svclb-dataplane"]))
        });
        steps.step("build of the next version", || build::next().map(drop));
        steps.step("scenarios in labs, on this kernel", || {
            lab::run(&["test", "--package", "svclb-tests", "--"], "auto")
        });
        // What auto leaves to tc on the veths of a lab. The agents read the variable.
        steps.step("upstream's tests with native XDP, on this kernel", || {
            let lab_tests = ["test", "--package", "svclb-tests", "--test", "lab", "--"];
            lab::run(&[&lab_tests[..], &["lab::conformance"]].concat(), "native")
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
