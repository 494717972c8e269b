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
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rayon::ThreadPoolBuilder;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use serde_json::Value;

use self::guest::Machine;
use self::kernel::Kernel;
use crate::steps::Steps;
use crate::{build, process, setup, workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kernel versions, newest for the newest that Debian packages
    #[arg(default_values = kernel::NAMES, value_parser = kernel::NAMES)]
    kernels: Vec<String>,
    /// Which tests, as libtest takes them
    #[arg(last = true)]
    filter: Vec<String>,
    /// After how many minutes a kernel is given up
    #[arg(long, default_value_t = 75)]
    minutes: u64,
    /// Whether the kernels have BTF; hidden it is as if they had been built without
    #[arg(long, value_enum, default_value_t = Btf::Both)]
    btf: Btf,
    /// How many guests run side by side, each with a part of a kernel's tests; by default as many as
    /// there are processors, but four at most: each takes 3 GB
    #[arg(long)]
    guests: Option<usize>,
    /// How many processors a guest has. An emulated one is of less use to it than another guest is
    #[arg(long, default_value_t = 1)]
    cpus: u8,
}

/// Whether a kernel has BTF.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Btf {
    Shown,
    Hidden,
    /// One run with it, and one without.
    Both,
}

impl Btf {
    /// Whether it is hidden, in each run.
    fn hides(self) -> &'static [bool] {
        match self {
            Self::Shown => &[false],
            Self::Hidden => &[true],
            Self::Both => &[false, true],
        }
    }
}

/// A kernel on which all tests that match are to pass.
struct Run<'a> {
    version: &'a str,
    kernel: &'a Kernel,
    hides_btf: bool,
}

/// What became of a guest.
struct Outcome {
    /// What it printed, or why it could not be run to its end.
    output: Result<String>,
    seconds: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    process::need_root("booting kernels", "test vm")?;
    setup::lab_tools()?;
    build::run()?;
    build::next()?;
    let vng = guest::VirtmeNg::ready()?;
    let tests = test_binary()?;
    let guests = args.guests.unwrap_or_else(side_by_side).max(1);
    let shares = shares(&tests, &args.filter, guests)?;
    let kernels = args
        .kernels
        .iter()
        .map(|version| Ok((version.as_str(), kernel::fetch(version)?)))
        .collect::<Result<Vec<_>>>()?;
    let runs_on = |hides_btf| {
        kernels.iter().map(move |(version, kernel)| Run {
            version,
            kernel,
            hides_btf,
        })
    };
    let hides = args.btf.hides().iter().copied();
    let runs: Vec<_> = hides.flat_map(runs_on).collect();
    let kvm = match kernels.first() {
        Some((_, kernel)) => vng.kvm_works(kernel)?,
        None => false,
    };
    let machine = Machine {
        kvm,
        cpus: args.cpus,
    };
    let limit = Duration::from_secs(60 * (args.minutes + 5));
    let of_share = |run: &Run, number, share: &Vec<String>| {
        let label = format!("{}{}-{number}", run.version, run.mark());
        let script = lab_script(&tests, share, args.minutes, run.hides_btf);
        let begun = Instant::now();
        let output = vng.run(run.kernel, machine, &label, &script, limit);
        let seconds = begun.elapsed().as_secs();
        Outcome { output, seconds }
    };
    let jobs: Vec<_> = runs
        .iter()
        .flat_map(|run| shares.iter().zip(1..).map(move |share| (run, share)))
        .collect();
    let side_by_side = ThreadPoolBuilder::new().num_threads(guests).build()?;
    let outcomes: Vec<_> = side_by_side.install(|| {
        jobs.par_iter()
            .map(|(run, (share, number))| of_share(run, *number, share))
            .collect()
    });
    let mut steps = Steps::default();
    for (run, outcomes) in runs.iter().zip(outcomes.chunks(shares.len())) {
        println!("\n=== {}", run.name());
        // The runner's own words, once more where they are not between others.
        for line in outcomes.iter().flat_map(Outcome::results) {
            println!("{line}");
        }
        let seconds = outcomes.iter().map(|outcome| outcome.seconds).sum();
        let name = format!("lab tests on {}", run.name());
        steps.note(&name, seconds, &run.judge(outcomes));
    }
    steps.finish()
}

/// How many guests this machine has a processor for.
fn side_by_side() -> usize {
    thread::available_parallelism().map_or(1, |processors| processors.get().min(4))
}

impl Run<'_> {
    fn name(&self) -> String {
        let without = if self.hides_btf { " without BTF" } else { "" };
        format!("Linux {}{without}", self.version)
    }

    /// What tells it in a label from the same kernel's other run.
    fn mark(&self) -> &'static str {
        if self.hides_btf { "-no-btf" } else { "" }
    }

    fn judge(&self, outcomes: &[Outcome]) -> Result<()> {
        let mut said = String::new();
        for outcome in outcomes {
            match &outcome.output {
                Ok(output) if output.contains(PASSED) => said.push_str(output),
                Ok(_) => bail!("the lab tests did not pass on {}", self.kernel.release),
                Err(error) => bail!("{error:#}"),
            }
        }
        lacks::judge(&said, self.kernel, self.hides_btf)
    }
}

impl Outcome {
    /// The lines in which the tests' runner says how they went.
    fn results(&self) -> impl Iterator<Item = &str> {
        let lines = self.output.iter().flat_map(|output| output.lines());
        lines.filter(|line| line.starts_with("test result:"))
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
         mkdir -p /run/svclb-bin && cp {agent} {next} {peer} $(command -v ip) /run/svclb-bin || exit 1\n\
         export PATH=/run/svclb-bin:$PATH\n\
         export SVCLB_BIN=/run/svclb-bin/svclb SVCLB_LAB_PEER=/run/svclb-bin/svclb-lab-peer\n\
         echo \"vm: Linux $(uname -r)\"\n\
         for module in veth bridge 8021q mptcp udp_diag; do modprobe $module 2>/dev/null; done\n\
         mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf\n\
         grep -q ' cgroup2 ' /proc/mounts || {{ mkdir -p /run/cgroup2; mount -t cgroup2 none /run/cgroup2; }}\n\
         echo +memory > $(findmnt -n -o TARGET -t cgroup2 | head -1)/cgroup.subtree_control\n\
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
