//! `test vm`: the lab tests on other kernels.
//!
//! A kernel comes from Debian's archive by a private apt configuration, so that nothing of
//! the machine's own changes; virtme-ng boots it on this machine's file system, read-only,
//! with fresh folders over what the tests write.

mod guest;
mod kernel;
mod lacks;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

use crate::steps::Steps;
use crate::{build, process, setup, workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kernel versions: 5.10, 6.1, 6.12, or newest for the newest that Debian packages
    #[arg(default_value = "5.10", value_parser = kernel::NAMES)]
    kernels: Vec<String>,
    /// Which tests, as libtest takes them
    #[arg(last = true)]
    filter: Vec<String>,
    /// After how many minutes a kernel is given up
    #[arg(long, default_value_t = 75)]
    minutes: u64,
    /// Hide the kernel's BTF, as if it had been built without
    #[arg(long)]
    no_btf: bool,
    /// How many guests of a kernel share the tests side by side. Under emulation on two processors
    /// two were slower than one
    #[arg(long, default_value_t = 1)]
    guests: usize,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    process::need_root("booting kernels", "test vm")?;
    setup::lab_tools()?;
    build::run()?;
    let vng = guest::VirtmeNg::ready()?;
    let tests = test_binary()?;
    let shares = shares(&tests, &args.filter, args.guests.max(1))?;
    let mut steps = Steps::default();
    for version in &args.kernels {
        steps.step(&format!("lab tests on Linux {version}"), || {
            let kernel = kernel::fetch(version)?;
            let kvm = vng.kvm_works(&kernel)?;
            let limit = Duration::from_secs(60 * (args.minutes + 5));
            let (vng, kernel, tests) = (&vng, &kernel, &tests);
            thread::scope(|scope| {
                let guests: Vec<_> = shares
                    .iter()
                    .zip(1..)
                    .map(|(share, number)| {
                        let script = lab_script(tests, share, args.minutes, args.no_btf);
                        scope.spawn(move || vng.run(kernel, kvm, number, &script, limit))
                    })
                    .collect();
                let outputs: Vec<_> = guests
                    .into_iter()
                    .map(|guest| guest.join().map_err(|_panic| anyhow!("a guest was lost"))?)
                    .collect();
                let mut all_passed = true;
                let mut all = String::new();
                for output in outputs {
                    let output = output?;
                    all.push_str(&output);
                    // The runner's own words, once more where they are not between others.
                    let is_result = |line: &&str| line.starts_with("test result:");
                    output
                        .lines()
                        .filter(is_result)
                        .for_each(|line| println!("{line}"));
                    all_passed &= output.contains(PASSED);
                }
                if !all_passed {
                    bail!("the lab tests did not pass on {}", kernel.release);
                }
                lacks::judge(&all, kernel, args.no_btf)
            })
        });
    }
    steps.finish()
}

/// The tests that match, dealt out to so many guests.
fn shares(tests: &Path, filter: &[String], guests: usize) -> Result<Vec<Vec<String>>> {
    let mut list = process::foreign(tests);
    list.args(["--list", "--format", "terse"]).args(filter);
    let mut shares = vec![Vec::new(); guests];
    let text = process::output(&mut list)?;
    let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
    for (number, name) in names.enumerate() {
        // One after the other: neighbours in the list take a similar time.
        if let Some(share) = shares.get_mut(number % guests) {
            share.push(name.to_owned());
        }
    }
    shares.retain(|share| !share.is_empty());
    if shares.is_empty() {
        bail!("no test of the lab matches");
    }
    Ok(shares)
}

/// The lab's test binary; its companions are built with it.
fn test_binary() -> Result<PathBuf> {
    let mut cargo = process::cargo();
    cargo.args([
        "test",
        "--no-run",
        "--package",
        "svclb-tests",
        "--test",
        "lab",
    ]);
    cargo.arg("--message-format=json-render-diagnostics");
    process::output(&mut cargo)?
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "lab")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo built no test binary of the lab")
}

/// Printed by the guest when all is well: virtme-ng loses the exit code on some kernels.
const PASSED: &str = "svclb-lab: passed";

/// What the guest runs. The kernel's messages are kept off the console: they would end up
/// within the lines of the tests.
fn lab_script(tests: &Path, names: &[String], minutes: u64, hides_btf: bool) -> String {
    let hide = if hides_btf {
        "mkdir -p /run/no-btf; mount --bind /run/no-btf /sys/kernel/btf"
    } else {
        ":"
    };
    format!(
        "set -u\n\
         export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin RUST_BACKTRACE=0\n\
         export SVCLB_BIN={agent}\n\
         dmesg -n 1\n\
         echo \"vm: Linux $(uname -r)\"\n\
         for module in veth bridge 8021q mptcp udp_diag; do modprobe $module 2>/dev/null; done\n\
         mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf\n\
         grep -q ' cgroup2 ' /proc/mounts || {{ mkdir -p /run/cgroup2; mount -t cgroup2 none /run/cgroup2; }}\n\
         ip link set lo up\n\
         {hide}\n\
         export SVCLB_LACKS=/run/svclb-lacks\n\
         touch $SVCLB_LACKS\n\
         timeout {minutes}m {tests} --test-threads=1 --exact {names} && echo '{PASSED}'\n\
         sed 's/^/{mark}/' $SVCLB_LACKS\n",
        mark = lacks::MARK,
        agent = workspace::agent().display(),
        tests = tests.display(),
        names = names.join(" "),
    )
}
