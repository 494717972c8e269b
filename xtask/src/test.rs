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
    steps.step("build", || build::run().map(drop));
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
            "svclb-fuzz",
            "--package",
            "xtask",
        ]))
    });
    if process::is_root() {
        setup::lab_tools()?;
        let _bpffs = Bpffs::mounted()?;
        steps.step("verifier and maps, on this kernel", || {
            process::run(process::cargo().args(["test", "--package", "svclb-dataplane"]))
        });
        steps.step("scenarios in labs, on this kernel", || {
            build::next()?;
            let mut cargo = process::cargo();
            cargo.args(["test", "--package", "svclb-tests", "--", "--test-threads=1"]);
            process::run(cargo.env("SVCLB_BIN", workspace::agent()))
        });
        // What auto leaves to tc on the veths of a lab. The agents read the variable.
        steps.step("upstream's tests with native XDP, on this kernel", || {
            let mut cargo = process::cargo();
            let lab = ["test", "--package", "svclb-tests", "--test", "lab"];
            cargo
                .args(lab)
                .args(["--", "--test-threads=1", "lab::conformance"]);
            cargo.env("SVCLB_BIN", workspace::agent());
            process::run(cargo.env("SVCLB_XDP", "native"))
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
