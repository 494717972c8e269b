//! `test`: everything that can be tested, in the order of what it needs.

use anyhow::{Result, bail};

use crate::steps::Steps;
use crate::times::Times;
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
    if process::is_root() {
        setup::lab_tools()?;
        let _bpffs = Bpffs::mounted()?;
        steps.step("verifier and maps, on this kernel", || {
            process::run(process::cargo().args(["test", "--package", "svclb-dataplane"]))
        });
        steps.step("build of the next version", || build::next().map(drop));
        steps.step("scenarios in labs, on this kernel", || {
            lab(&["test", "--package", "svclb-tests", "--"], "auto")
        });
        // What auto leaves to tc on the veths of a lab. The agents read the variable.
        steps.step("upstream's tests with native XDP, on this kernel", || {
            let lab_tests = ["test", "--package", "svclb-tests", "--test", "lab", "--"];
            lab(&[&lab_tests[..], &["lab::conformance"]].concat(), "native")
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

/// How many scenarios run side by side: most of the time of each is waiting. Those that need a
/// machine of their own see to it themselves.
const SIDE_BY_SIDE: &str = "--test-threads=4";

/// Runs scenarios, whose agents are to take XDP in this way.
fn lab(arguments: &[&str], xdp: &str) -> Result<()> {
    Times::of(|times| {
        let mut cargo = process::cargo();
        cargo.args(arguments).arg(SIDE_BY_SIDE);
        cargo.env("SVCLB_BIN", workspace::agent());
        cargo.env("SVCLB_XDP", xdp).env("SVCLB_TIMES", times);
        if xdp == "native" {
            cargo.env("SVCLB_FORWARDING", "direct");
        }
        process::run(&mut cargo)
    })
}

/// A bpffs, where the machine has none, for as long as the tests run.
struct Bpffs {
    ours: bool,
}

impl Bpffs {
    const PLACE: &str = "/sys/fs/bpf";

    fn mounted() -> Result<Self> {
        let mounts = std::fs::read_to_string("/proc/mounts")?;
        let ours = !mounts
            .lines()
            .any(|line| line.split(' ').nth(2) == Some("bpf"));
        if ours {
            process::run(process::foreign("mount").args(["-t", "bpf", "bpf", Self::PLACE]))?;
        }
        Ok(Self { ours })
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = process::run(process::foreign("umount").arg(Self::PLACE))
        {
            eprintln!("xtask: {error:#}");
        }
    }
}
