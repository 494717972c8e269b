//! `test vm`: the lab tests on other kernels.
//!
//! A kernel comes from Debian's archive by a private apt configuration, so that nothing of
//! the machine's own changes; virtme-ng boots it on this machine's file system, read-only,
//! with fresh folders over what the tests write.

mod guest;
mod kernel;
mod lacks;
mod selection;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use self::guest::Machine;
use self::kernel::Kernel;
use crate::steps::Steps;
use crate::times::{self, Times};
use crate::{build, process, setup, workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kernel versions, newest for the newest that Debian packages
    #[arg(default_values = kernel::NAMES, value_parser = kernel::NAMES)]
    kernels: Vec<String>,
    /// Which tests, as libtest takes them
    #[arg(last = true)]
    filter: Vec<String>,
    /// Only what every change has to pass on another kernel than this machine's: the kernels and
    /// scenarios of xtask/src/vm/selection.rs
    #[arg(long, conflicts_with_all = ["kernels", "filter", "btf"])]
    selected: bool,
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
    /// How many scenarios run side by side in a guest. An emulated processor is busy most of the time:
    /// a second one would make the first one wait
    #[arg(long, default_value_t = 1)]
    threads: u8,
    /// With every scenario on every kind of network of docs/networks.md
    #[arg(long, conflicts_with = "selected")]
    all_networks: bool,
}

/// The feature of the lab's tests with which they have all scenarios of networks.
pub(crate) const ALL_NETWORKS: &str = "all-networks";

impl Args {
    /// These scenarios, of all networks, on kernels with BTF.
    pub(crate) fn of_scenarios(kernels: Vec<String>, names: Vec<String>) -> Self {
        let mut filter = vec!["--exact".to_owned()];
        filter.extend(names);
        Self {
            kernels,
            filter,
            selected: false,
            minutes: 120,
            btf: Btf::Shown,
            guests: None,
            cpus: 1,
            threads: 1,
            all_networks: true,
        }
    }
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

/// A kernel on which scenarios are to pass.
struct Run {
    version: String,
    kernel: Kernel,
    hides_btf: bool,
    /// The names of the scenarios, for each guest.
    shares: Vec<Vec<String>>,
}

/// What became of a guest.
struct Outcome {
    /// The run that it is of.
    run: usize,
    /// What it printed, or why it could not be run to its end.
    output: Result<String>,
    seconds: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    process::need_root("booting kernels", "test vm")?;
    setup::lab_tools()?;
    let mut steps = Steps::default();
    let mut ready = None;
    steps.step("builds, virtme-ng and kernels", || {
        build::run()?;
        build::next()?;
        let vng = guest::VirtmeNg::ready()?;
        let tests = test_binary(args.all_networks)?;
        let runs = runs(args, &tests)?;
        let kvm = match runs.first() {
            Some(run) => vng.kvm_works(&run.kernel)?,
            None => false,
        };
        ready = Some((vng, tests, runs, kvm));
        Ok(())
    });
    let Some((vng, tests, runs, kvm)) = ready else {
        return steps.finish();
    };
    let machine = Machine {
        kvm,
        cpus: args.cpus,
    };
    let limit = Duration::from_secs(60 * (args.minutes + 5));
    let of_share = |index: usize, number: usize| {
        let run = &runs[index];
        let label = format!("{}{}-{}", run.version, run.mark(), number + 1);
        let script = lab_script(&tests, &run.shares[number], args, run.hides_btf);
        let begun = Instant::now();
        let output = vng.run(&run.kernel, machine, &label, &script, limit);
        let seconds = begun.elapsed().as_secs();
        Outcome {
            run: index,
            output,
            seconds,
        }
    };
    let all = runs.iter().enumerate();
    let jobs: VecDeque<_> = all
        .flat_map(|(index, run)| (0..run.shares.len()).map(move |number| (index, number)))
        .collect();
    let (jobs, outcomes) = (Mutex::new(jobs), Mutex::new(Vec::new()));
    let next = || locked(&jobs).pop_front();
    thread::scope(|scope| {
        for _ in 0..args.guests() {
            scope.spawn(|| {
                while let Some((index, number)) = next() {
                    let outcome = of_share(index, number);
                    locked(&outcomes).push(outcome);
                }
            });
        }
    });
    let outcomes = outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    for (index, run) in runs.iter().enumerate() {
        let mine: Vec<_> = outcomes.iter().filter(|one| one.run == index).collect();
        println!("\n=== {}", run.name());
        // The runner's summary lines, repeated where no other output is between them.
        for line in mine.iter().flat_map(|outcome| outcome.results()) {
            println!("{line}");
        }
        let mut times = Times::default();
        for output in mine
            .iter()
            .filter_map(|outcome| outcome.output.as_ref().ok())
        {
            times.read(output);
        }
        times.show_slowest();
        let seconds: Vec<_> = mine
            .iter()
            .map(|one| format!("{} s", one.seconds))
            .collect();
        println!("guests, from switching on to off: {}", seconds.join(", "));
        let seconds = mine.iter().map(|outcome| outcome.seconds).sum();
        let name = format!("lab tests on {}, in {} guests", run.name(), mine.len());
        steps.note(&name, seconds, &run.judge(&mine));
    }
    steps.finish()
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Args {
    /// How many guests run side by side: as many as this machine has processors for.
    fn guests(&self) -> usize {
        let of_machine =
            || thread::available_parallelism().map_or(1, |processors| processors.get().min(4));
        self.guests.unwrap_or_else(of_machine).max(1)
    }
}

/// What is run: the selection, or what the arguments name.
fn runs(args: &Args, tests: &Path) -> Result<Vec<Run>> {
    let names = names(tests, &args.filter)?;
    if names.is_empty() {
        bail!("no test of the lab matches");
    }
    let mut runs = Vec::new();
    let mut add = |version: &str, hides_btf, names: &[String]| {
        runs.push(Run {
            version: version.to_owned(),
            kernel: kernel::fetch(version)?,
            hides_btf,
            shares: shares(names, args.guests()),
        });
        anyhow::Ok(())
    };
    if args.selected {
        for selection in &selection::SELECTED {
            let chosen = selection.of(&names)?;
            println!(
                "vm: {}: {} of {} scenarios",
                selection.name(),
                chosen.len(),
                names.len()
            );
            add(selection.kernel, selection.hides_btf, &chosen)?;
        }
        return Ok(runs);
    }
    for hides_btf in args.btf.hides() {
        for version in &args.kernels {
            add(version, *hides_btf, &names)?;
        }
    }
    Ok(runs)
}

impl Run {
    fn name(&self) -> String {
        let without = if self.hides_btf { " without BTF" } else { "" };
        format!("Linux {}{without}", self.version)
    }

    /// Marks its labels, to distinguish it from the same kernel's other run.
    fn mark(&self) -> &'static str {
        if self.hides_btf { "-no-btf" } else { "" }
    }

    fn judge(&self, outcomes: &[&Outcome]) -> Result<()> {
        let mut printed = String::new();
        for outcome in outcomes {
            match &outcome.output {
                Ok(output) if output.contains(PASSED) => printed.push_str(output),
                Ok(_) => bail!("the lab tests did not pass on {}", self.kernel.release),
                Err(error) => bail!("{error:#}"),
            }
        }
        lacks::judge(&printed, &self.kernel, self.hides_btf)
    }
}

impl Outcome {
    /// The summary lines of the tests' runner.
    fn results(&self) -> impl Iterator<Item = &str> {
        let lines = self.output.iter().flat_map(|output| output.lines());
        lines.filter(|line| line.starts_with("test result:"))
    }
}

/// Whether every row of the selection names scenarios: one that was renamed is found before a guest
/// boots.
///
/// # Errors
/// If a row names none, or the lab's tests can't be built.
pub(crate) fn check_selection() -> Result<()> {
    let names = names(&test_binary(false)?, &[])?;
    for selection in &selection::SELECTED {
        selection.of(&names)?;
    }
    Ok(())
}

/// The tests that match.
fn names(tests: &Path, filter: &[String]) -> Result<Vec<String>> {
    let mut list = process::foreign(tests);
    list.args(["--list", "--format", "terse"]).args(filter);
    let text = process::output(&mut list)?;
    let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
    Ok(names.map(str::to_owned).collect())
}

/// How many scenarios are worth a guest of their own: it takes some twenty seconds to boot.
const WORTH_A_GUEST: usize = 12;

/// Scenarios, dealt out to so many guests at most. One after the other: neighbours in the list take
/// a similar time.
fn shares(names: &[String], guests: usize) -> Vec<Vec<String>> {
    let guests = guests.min(names.len().div_ceil(WORTH_A_GUEST)).max(1);
    (0..guests)
        .map(|first| names.iter().skip(first).step_by(guests).cloned().collect())
        .collect()
}

/// The lab's test binary; its companions are built with it.
fn test_binary(all_networks: bool) -> Result<PathBuf> {
    let mut cargo = process::cargo();
    cargo.args([
        "test",
        "--no-run",
        "--package",
        "svclb-tests",
        "--test",
        "lab",
    ]);
    if all_networks {
        cargo.args(["--features", ALL_NETWORKS]);
    }
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
fn lab_script(tests: &Path, names: &[String], args: &Args, hides_btf: bool) -> String {
    let hide = if hides_btf {
        "mkdir -p /run/no-btf; mount --bind /run/no-btf /sys/kernel/btf"
    } else {
        ":"
    };
    format!(
        "set -u\n\
         export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin RUST_BACKTRACE=0\n\
         dmesg -n 1\n\
         echo \"{step}booting Linux $(uname -r)\"\n\
         mkdir -p /run/svclb-bin && cp {agent} {next} {peer} $(command -v ip) /run/svclb-bin || exit 1\n\
         export PATH=/run/svclb-bin:$PATH\n\
         export SVCLB_BIN=/run/svclb-bin/svclb SVCLB_LAB_PEER=/run/svclb-bin/svclb-lab-peer\n\
         for module in veth bridge 8021q mptcp udp_diag; do modprobe $module 2>/dev/null; done\n\
         mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf\n\
         grep -q ' cgroup2 ' /proc/mounts || {{ mkdir -p /run/cgroup2; mount -t cgroup2 none /run/cgroup2; }}\n\
         echo +memory > $(findmnt -n -o TARGET -t cgroup2 | head -1)/cgroup.subtree_control\n\
         ip link set lo up\n\
         {hide}\n\
         export SVCLB_LACKS=/run/svclb-lacks SVCLB_TIMES=/run/svclb-times\n\
         touch $SVCLB_LACKS $SVCLB_TIMES\n\
         echo '{step}copying programs'\n\
         timeout {minutes}m {tests} --test-threads={threads} --exact {names} && echo '{PASSED}'\n\
         echo '{step}{count} scenarios'\n\
         sed 's/^/{times}/' $SVCLB_TIMES\n\
         sed 's/^/{mark}/' $SVCLB_LACKS\n",
        step = guest::STEP,
        times = times::MARK,
        minutes = args.minutes,
        threads = args.threads,
        count = names.len(),
        mark = lacks::MARK,
        agent = workspace::agent().display(),
        next = workspace::next_agent().display(),
        peer = workspace::target().join("debug/svclb-lab-peer").display(),
        tests = tests.display(),
        names = names.join(" "),
    )
}
