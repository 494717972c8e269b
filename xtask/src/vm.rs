//! `test vm`: the lab tests on other kernels.
//!
//! A kernel comes from Debian's archive by a private apt configuration, so that nothing of
//! the machine's own changes; virtme-ng boots it on this machine's file system, read-only,
//! with fresh folders over what the tests write.

mod kernel;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::steps::Steps;
use crate::{build, process, setup, workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kernel versions, as 5.10 or 6.12
    #[arg(default_value = "5.10")]
    kernels: Vec<String>,
    /// Which tests, as libtest takes them
    #[arg(last = true)]
    filter: Vec<String>,
    /// After how many minutes a kernel is given up
    #[arg(long, default_value_t = 50)]
    minutes: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    process::need_root("booting kernels", "test vm")?;
    setup::lab_tools()?;
    build::run()?;
    let vng = tools()?;
    let tests = test_binary()?;
    let mut steps = Steps::default();
    for version in &args.kernels {
        steps.step(&format!("lab tests on Linux {version}"), || {
            let kernel = kernel::fetch(version)?;
            boot(&vng, &kernel, &tests, args)
        });
    }
    steps.finish()
}

/// virtme-ng in an environment of its own, and what it boots with.
fn tools() -> Result<PathBuf> {
    setup::need("qemu-system-x86_64", "qemu-system-x86")?;
    setup::need("depmod", "kmod")?;
    let venv = workspace::target().join("tools/virtme-ng");
    let vng = venv.join("bin/vng");
    if !vng.exists() {
        println!("setup: virtme-ng, from PyPI, into target/tools/virtme-ng");
        process::run(process::foreign("python3").args(["-m", "venv"]).arg(&venv))
            .context("python3 with venv is missing: install python3-venv")?;
        process::run(process::foreign(venv.join("bin/pip")).args([
            "install",
            "--quiet",
            "virtme-ng==1.42",
        ]))?;
    }
    Ok(vng)
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

fn boot(vng: &Path, kernel: &kernel::Kernel, tests: &Path, args: &Args) -> Result<()> {
    let script = workspace::target().join("vm/run-lab");
    std::fs::write(&script, guest_script(tests, &args.filter))
        .with_context(|| format!("{} can't be written", script.display()))?;
    let mut command = process::foreign("timeout");
    command.args(["--kill-after=10", &format!("{}m", args.minutes)]);
    // Verbose, since without a serial port the script shares the kernel's console.
    command
        .arg(vng)
        .args(["--verbose", "--run"])
        .arg(&kernel.image);
    command.args([
        "--disable-kvm",
        "--cpus",
        "2",
        "--memory",
        "3G",
        "--user",
        "root",
    ]);
    command.args(["--rwdir", "/tmp", "--overlay-rwdir", "/run"]);
    command.arg("--cwd").arg(workspace::root());
    command.args(["--exec", &format!("bash {}", script.display())]);
    command.env("PATH", path_with(vng));
    let output = run_with_terminal(&mut command)?;
    if !output.contains(SUCCESS) {
        bail!(
            "the lab tests failed, or did not finish, on {}",
            kernel.release
        );
    }
    Ok(())
}

/// Printed by the guest when all is well: virtme-ng loses the exit code on some kernels.
const SUCCESS: &str = "svclb-lab: passed";

fn guest_script(tests: &Path, filter: &[String]) -> String {
    let filter = filter.join(" ");
    format!(
        "set -u\n\
         export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin RUST_BACKTRACE=0\n\
         export SVCLB_BIN={agent}\n\
         uname -r\n\
         for module in veth bridge 8021q mptcp; do modprobe $module 2>/dev/null; done\n\
         mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf\n\
         grep -q ' cgroup2 ' /proc/mounts || {{ mkdir -p /run/cgroup2; mount -t cgroup2 none /run/cgroup2; }}\n\
         ip link set lo up\n\
         {tests} --test-threads=1 {filter} && echo '{SUCCESS}'\n",
        agent = workspace::agent().display(),
        tests = tests.display(),
    )
}

fn path_with(vng: &Path) -> std::ffi::OsString {
    let mut paths: Vec<PathBuf> = vng.parent().map(Path::to_owned).into_iter().collect();
    paths.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    std::env::join_paths(paths).unwrap_or_default()
}

/// Under `script(1)`, since virtme-ng wants a terminal; what it prints is shown and kept.
fn run_with_terminal(command: &mut Command) -> Result<String> {
    let log = workspace::target().join("vm/console.log");
    let line: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| quoted(&word.to_string_lossy()))
        .collect();
    let mut terminal = process::foreign("script");
    terminal.args([
        "--quiet",
        "--return",
        "--flush",
        "--command",
        &line.join(" "),
    ]);
    terminal.arg(&log).stdin(std::process::Stdio::null());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            terminal.env(name, value);
        }
    }
    let outcome = process::run(&mut terminal);
    let output = std::fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let output = output.with_context(|| format!("{} can't be read", log.display()))?;
    if !output.contains(SUCCESS) {
        outcome?;
    }
    Ok(output)
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}
