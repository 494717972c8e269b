//! `test vm`: the lab tests on other kernels.
//!
//! A kernel comes from Debian's archive by a private apt configuration, so that nothing of
//! the machine's own changes; virtme-ng boots it on this machine's file system, read-only,
//! with fresh folders over what the tests write.

mod guest;
mod kernel;
mod lacks;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use self::guest::Machine;
use self::kernel::Kernel;
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
    /// How many guests run side by side, of several kernels or of one whose tests are dealt out. One
    /// has two CPUs; more have one each, which does more in the same time, but is too little for
    /// `lab::churn` on Linux 5.10
    #[arg(long, default_value_t = 1)]
    guests: usize,
}

/// A guest that is to be run.
struct Job {
    /// Its kernel, by its place among those that were asked for.
    kernel: usize,
    /// Which one of the kernel's guests it is.
    number: usize,
    script: String,
}

/// What became of a kernel.
#[derive(Default)]
struct Outcome {
    output: String,
    /// What its slowest guest took.
    seconds: u64,
    /// Why a guest could not be run to its end.
    lost: Option<anyhow::Error>,
    failed: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    process::need_root("booting kernels", "test vm")?;
    setup::lab_tools()?;
    build::run()?;
    build::next()?;
    let vng = guest::VirtmeNg::ready()?;
    let tests = test_binary()?;
    let guests = args.guests.max(1);
    let shares = shares(&tests, &args.filter, guests.div_ceil(args.kernels.len()))?;
    let kernels = args
        .kernels
        .iter()
        .map(|version| kernel::fetch(version))
        .collect::<Result<Vec<_>>>()?;
    let kvm = match kernels.first() {
        Some(kernel) => vng.kvm_works(kernel)?,
        None => false,
    };
    let machine = Machine {
        kvm,
        cpus: if guests == 1 { 2 } else { 1 },
    };
    let jobs: VecDeque<Job> = (0..kernels.len())
        .flat_map(|kernel| shares.iter().zip(1..).map(move |share| (kernel, share)))
        .map(|(kernel, (share, number))| Job {
            kernel,
            number,
            script: lab_script(&tests, share, args.minutes, args.no_btf),
        })
        .collect();
    let jobs = Mutex::new(jobs);
    let outcomes = Mutex::new(
        kernels
            .iter()
            .map(|_| Outcome::default())
            .collect::<Vec<_>>(),
    );
    let limit = Duration::from_secs(60 * (args.minutes + 5));
    let work = || {
        loop {
            // Not in the loop's condition, which would hold the lock as long as the guest runs.
            let job = locked(&jobs).pop_front();
            let Some(job) = job else { break };
            let (Some(kernel), Some(version)) =
                (kernels.get(job.kernel), args.kernels.get(job.kernel))
            else {
                continue;
            };
            let label = format!("{version}-{}", job.number);
            let begun = Instant::now();
            let result = vng.run(kernel, machine, &label, &job.script, limit);
            if let Some(outcome) = locked(&outcomes).get_mut(job.kernel) {
                outcome.take(result, begun.elapsed().as_secs());
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..guests {
            scope.spawn(work);
        }
    });
    let outcomes = outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let mut steps = Steps::default();
    for ((version, kernel), outcome) in args.kernels.iter().zip(&kernels).zip(outcomes) {
        println!("\n=== Linux {version}");
        // The runner's own words, once more where they are not between others.
        let is_result = |line: &&str| line.starts_with("test result:");
        for line in outcome.output.lines().filter(is_result) {
            println!("{line}");
        }
        let seconds = outcome.seconds;
        let result = outcome.judge(kernel, args.no_btf);
        steps.note(&format!("lab tests on Linux {version}"), seconds, &result);
    }
    steps.finish()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outcome {
    fn take(&mut self, output: Result<String>, seconds: u64) {
        self.seconds = self.seconds.max(seconds);
        match output {
            Ok(output) => {
                self.failed |= !output.contains(PASSED);
                self.output.push_str(&output);
            }
            Err(error) => self.lost = Some(error),
        }
    }

    fn judge(self, kernel: &Kernel, hides_btf: bool) -> Result<()> {
        if let Some(error) = self.lost {
            return Err(error);
        }
        if self.failed {
            bail!("the lab tests did not pass on {}", kernel.release);
        }
        lacks::judge(&self.output, kernel, hides_btf)
    }
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

/// What the guest runs. Programs that are started again and again lie in its memory, else each start
/// reads them through 9p: a scenario takes a fifth less so. The kernel's messages are kept off the
/// console: they would end up within the lines of the tests.
fn lab_script(tests: &Path, names: &[String], minutes: u64, hides_btf: bool) -> String {
    let hide = if hides_btf {
        "mkdir -p /run/no-btf; mount --bind /run/no-btf /sys/kernel/btf"
    } else {
        ":"
    };
    format!(
        "set -u\n\
         export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin RUST_BACKTRACE=0\n\
         dmesg -n 1\n\
         mkdir -p /run/svclb-bin && cp {agent} {next} {peer} /run/svclb-bin || exit 1\n\
         export SVCLB_BIN=/run/svclb-bin/svclb SVCLB_LAB_PEER=/run/svclb-bin/svclb-lab-peer\n\
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
        next = workspace::next_agent().display(),
        peer = workspace::target().join("debug/svclb-lab-peer").display(),
        tests = tests.display(),
        names = names.join(" "),
    )
}
