//! `svclb` on a node of a lab, started and watched as an operator would.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::cgroup;
use crate::lab::{Node, SOON, wait_until};
use crate::repository::repository;

/// Arguments by which the agents of a scenario forward packets.
pub type Way = &'static [&'static str];
/// The kernel forwards what the programs translated.
pub const KERNEL: Way = &["--forwarding", "kernel"];
/// The programs forward, in tc.
pub const DIRECT_TC: Way = &["--forwarding", "direct", "--xdp", "off"];
/// The programs forward, in XDP where it can.
pub const DIRECT_XDP: Way = &["--forwarding", "direct", "--xdp", "native"];

/// How an agent is started, beyond what every node's agent is given.
#[derive(Clone, Debug, Default)]
pub struct AgentOptions {
    /// More arguments for `svclb run`.
    pub args: Vec<String>,
    /// A program that runs it, and its own arguments; none to run it itself.
    pub wrapper: Vec<String>,
}

/// `svclb run` in the namespace of a node's host. On drop it is killed and `svclb
/// cleanup` is run, which has to remove every pin.
#[derive(Debug)]
pub struct Agent {
    binary: PathBuf,
    node: Node,
    manifests: PathBuf,
    options: AgentOptions,
    child: Option<Child>,
    log: Arc<Mutex<Vec<String>>>,
    ready_after: Duration,
    kept: bool,
    /// Whether there may be something to clean up.
    started: bool,
}

/// Finds `svclb`: where `SVCLB_BIN` says, or target/release/svclb of this workspace.
///
/// # Errors
/// If it is not there.
pub fn svclb_binary() -> Result<PathBuf> {
    let path = env::var_os("SVCLB_BIN")
        .map_or_else(|| repository().join("target/release/svclb"), PathBuf::from);
    path.canonicalize().with_context(|| {
        format!(
            "{} is not there: run `cargo xtask build`, or set SVCLB_BIN",
            path.display()
        )
    })
}

/// Finds the agent of the next version, which has other layouts: beside `svclb`.
///
/// # Errors
/// If it is not there.
pub fn next_binary() -> Result<PathBuf> {
    let path = svclb_binary()?.with_file_name("svclb-next");
    if !path.is_file() {
        bail!(
            "{} is not there: run `cargo xtask build --next`",
            path.display()
        );
    }
    Ok(path)
}

impl Agent {
    /// Longer than any start takes, also under emulation on a busy machine.
    pub const STARTS_IN: Duration = Duration::from_secs(60);
    /// Where `/metrics` answers in the node's namespace.
    pub const METRICS: &str = "127.0.0.1:10249";
    /// Where `/healthz` and `/livez` answer in the node's namespace.
    pub const HEALTHZ: &str = "127.0.0.1:10256";
    /// Where the kubelet's probes find `/livez` and `/readyz` in the node's namespace.
    pub const PROBES: &str = "127.0.0.1:10247";

    const REPAIRED: &str = "svclb_drift_repaired_total";

    /// Starts the agent of a node on a folder of manifests and waits until it is ready.
    ///
    /// # Errors
    /// If there is no binary, or it ends or is not ready within [`STARTS_IN`](Self::STARTS_IN): with its log.
    pub fn start(node: &Node, manifests: &Path, options: AgentOptions) -> Result<Self> {
        let mut agent = Self::prepare(node, manifests, options)?;
        agent.run()?;
        Ok(agent)
    }

    /// An agent that is not started yet.
    ///
    /// # Errors
    /// If there is no binary.
    pub fn prepare(node: &Node, manifests: &Path, options: AgentOptions) -> Result<Self> {
        Ok(Self {
            binary: svclb_binary()?,
            node: node.clone(),
            manifests: manifests.to_owned(),
            options,
            child: None,
            log: Arc::default(),
            ready_after: Duration::ZERO,
            kept: false,
            started: false,
        })
    }

    /// The program that is run from its next start on.
    pub fn set_binary(&mut self, binary: PathBuf) {
        self.binary = binary;
    }

    /// The program by which it is run from its next start on, with that one's arguments.
    pub fn set_wrapper(&mut self, wrapper: Vec<String>) {
        self.options.wrapper = wrapper;
    }

    /// What it is given beyond the usual from its next start on.
    pub fn set_args(&mut self, args: &[&str]) {
        self.options.args = args.iter().map(|arg| (*arg).to_owned()).collect();
    }

    /// Starts it (again) and waits until it is ready.
    ///
    /// # Errors
    /// If it ends or is not ready within [`STARTS_IN`](Self::STARTS_IN): with its log.
    pub fn run(&mut self) -> Result<()> {
        let start = Instant::now();
        self.spawn()?;
        let limit = Self::STARTS_IN;
        let mut ended = None;
        let ready = wait_until(limit, || {
            ended = self.exit_status();
            ended.is_some() || self.is_ready()
        });
        if let Some(status) = ended {
            bail!("svclb run ended with {status}:\n{}", self.log().join("\n"))
        }
        if !ready {
            bail!(
                "svclb run is not ready after {limit:?}:\n{}",
                self.log().join("\n")
            )
        }
        self.ready_after = start.elapsed();
        Ok(())
    }

    /// Starts it without waiting for anything.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn spawn(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().context("cannot stop the agent before")?;
            child.wait().context("cannot wait for the agent before")?;
        }
        self.log = Arc::default();
        self.started = true;
        let cgroup = self.node.agent_cgroup()?;
        let node = self.node.clone();
        // A child inherits the namespace of the thread that starts it. `ip netns exec`
        // would hide bpffs behind a fresh /sys.
        let mut child = node.run(|| {
            let mut command = wrapped(&self.options.wrapper, &self.binary);
            let args = &self.options.args;
            command.arg("run");
            if !args.iter().any(|arg| arg.starts_with("--kubeconfig")) {
                command.arg("--manifests").arg(&self.manifests);
            }
            command
                .args(["--node-name", self.node.name()])
                .arg("--cgroup")
                .arg(self.node.cgroup())
                .arg("--pin-dir")
                .arg(self.node.pin_dir())
                .args(["--metrics-addr", Self::METRICS])
                .args(["--healthz-addr", Self::HEALTHZ])
                .args(["--probe-addr", Self::PROBES])
                .args(self.devices())
                .args(&self.options.args)
                .env("NO_COLOR", "1")
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            command
                .spawn()
                .with_context(|| format!("cannot run {}", self.binary.display()))
        })?;
        if let Some(output) = child.stdout.take() {
            self.collect(output);
        }
        if let Some(output) = child.stderr.take() {
            self.collect(output);
        }
        let joined = cgroup::join(&cgroup, child.id());
        self.child = Some(child);
        joined
    }

    /// A node without an uplink has no packets from outside: an emulated kernel spends most of
    /// an agent's start on the programs for them.
    fn devices(&self) -> &[&str] {
        let named = |arg: &String| arg.starts_with("--devices");
        if self.node.uplink().is_some() || self.options.args.iter().any(named) {
            &[]
        } else {
            &["--devices", "none"]
        }
    }

    fn collect(&self, output: impl Read + Send + 'static) {
        let log = Arc::clone(&self.log);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                log.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(line);
            }
        });
    }

    /// How long the last start took until `ready`.
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// The warnings of its log, but for that of a kernel on which UDP sockets cannot be found (one
    /// whose BTF is hidden).
    pub fn warnings(&self) -> Vec<String> {
        let mut lines = self.log();
        lines.retain(|line| {
            line.contains("WARN")
                && !line.contains("this kernel cannot find or destroy UDP sockets")
        });
        lines
    }

    /// What it wrote since it was last started.
    pub fn log(&self) -> Vec<String> {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits for a line that contains all of these.
    pub fn wait_for_line(&self, parts: &[&str]) -> Option<String> {
        self.wait_for_line_in(SOON, parts)
    }

    /// The same for as long as this.
    pub fn wait_for_line_in(&self, limit: Duration, parts: &[&str]) -> Option<String> {
        let find = || {
            self.log()
                .into_iter()
                .find(|line| parts.iter().all(|part| line.contains(part)))
        };
        wait_until(limit, || find().is_some());
        find()
    }

    /// Whether everything that exists is in the maps since its last start.
    pub fn is_ready(&self) -> bool {
        self.log_has_word("ready")
    }

    fn log_has_word(&self, word: &str) -> bool {
        self.log().iter().any(|line| {
            line.split(|c: char| !c.is_alphanumeric() && c != '_')
                .any(|found| found == word)
        })
    }

    /// Where it pins.
    pub fn pin_dir(&self) -> &Path {
        self.node.pin_dir()
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// How it ended; none while it runs.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    /// SIGTERM, as the kubelet does it: how it ended, and after how long.
    ///
    /// # Errors
    /// If it does not run, or does not end in 10 s.
    pub fn terminate(&mut self) -> Result<(ExitStatus, Duration)> {
        self.signal(Signal::SIGTERM)
    }

    /// SIGKILL, as a crash does it.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL).map(drop)
    }

    /// SIGHUP, which asks for an audit.
    ///
    /// # Errors
    /// If it does not run.
    pub fn ask_for_audit(&self) -> Result<()> {
        let child = self.child.as_ref().context("the agent does not run")?;
        let pid = i32::try_from(child.id()).context("no process id")?;
        kill(Pid::from_raw(pid), Signal::SIGHUP).context("cannot signal the agent")
    }

    /// Asks for an audit that has something to repair, and waits until it has counted repairs:
    /// how many. Programs and pins are there again by then; elements are on their way.
    ///
    /// # Errors
    /// If it does not run, or has counted none [`SOON`].
    pub fn repairs_of_an_audit(&self) -> Result<f64> {
        let before = self.metric(Self::REPAIRED)?;
        self.ask_for_audit()?;
        let mut repaired = 0.0;
        let counted = wait_until(SOON, || {
            let now = self.metric(Self::REPAIRED);
            repaired = now.unwrap_or(before) - before;
            repaired > 0.5
        });
        ensure!(counted, "nothing was repaired: {:?}", self.log());
        Ok(repaired)
    }

    /// The value of a metric without labels.
    ///
    /// # Errors
    /// If there is none, or nothing answers.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let (_, text) = self.get(Self::METRICS, "/metrics")?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .with_context(|| format!("no metric {name} in {text}"))?;
        line.parse().with_context(|| format!("{name} is {line}"))
    }

    fn signal(&mut self, signal: Signal) -> Result<(ExitStatus, Duration)> {
        let mut child = self.child.take().context("the agent does not run")?;
        let start = Instant::now();
        let pid = i32::try_from(child.id()).context("no process id")?;
        kill(Pid::from_raw(pid), signal).context("cannot signal the agent")?;
        let mut status = None;
        wait_until(Duration::from_secs(10), || {
            status = child.try_wait().ok().flatten();
            status.is_some()
        });
        let Some(status) = status else {
            self.child = Some(child);
            bail!("the agent does not end on {signal}")
        };
        Ok((status, start.elapsed()))
    }

    /// `svclb <verb> --pin-dir … <args>`, in the node's namespace.
    ///
    /// # Errors
    /// If it cannot be run; its own failure is in the output.
    pub fn svclb(&self, verb: &str, args: &[&str]) -> Result<Output> {
        self.node.run(|| {
            Command::new(&self.binary)
                .arg(verb)
                .args(args)
                .arg("--pin-dir")
                .arg(self.node.pin_dir())
                .env("NO_COLOR", "1")
                .output()
                .with_context(|| format!("cannot run {}", self.binary.display()))
        })
    }

    /// `svclb run <args>`, in the node's namespace: as this agent would run, but for the
    /// flags that are given.
    ///
    /// # Errors
    /// If it cannot be run; its own failure is in the output.
    pub fn run_once(&self, args: &[&str], uid: u32) -> Result<Output> {
        self.run_once_under(&[], args, uid)
    }

    /// The same, run by another program that is given it as its last arguments.
    ///
    /// # Errors
    /// If it cannot be run; its own failure is in the output.
    pub fn run_once_under(&self, wrapper: &[&str], args: &[&str], uid: u32) -> Result<Output> {
        let ours = [
            ("--manifests", self.manifests.clone()),
            ("--cgroup", self.node.cgroup().to_owned()),
            ("--pin-dir", self.node.pin_dir().to_owned()),
        ];
        self.node.run(|| {
            // A copy, which any user may run.
            let binary = self.manifests.with_file_name("svclb");
            fs::copy(&self.binary, &binary).context("the binary cannot be copied")?;
            let mut command = wrapped(wrapper, &binary);
            command
                .args(["run", "--node-name", self.node.name()])
                .args([
                    "--metrics-addr",
                    "127.0.0.1:0",
                    "--healthz-addr",
                    "127.0.0.1:0",
                    "--probe-addr",
                    "127.0.0.1:0",
                ])
                .args(args)
                .env("NO_COLOR", "1")
                .uid(uid);
            for (flag, value) in &ours {
                if !args.contains(flag) {
                    command.arg(flag).arg(value);
                }
            }
            command
                .output()
                .with_context(|| format!("cannot run {}", binary.display()))
        })
    }

    /// `svclb dump <what> -o json`.
    ///
    /// # Errors
    /// If it fails, with what it wrote, or if that is no JSON.
    pub fn dump(&self, what: &str) -> Result<Value> {
        let output = self.svclb("dump", &[what, "-o", "json"])?;
        if !output.status.success() {
            bail!(
                "svclb dump {what} failed: {}",
                String::from_utf8_lossy(&output.stderr)
            )
        }
        serde_json::from_slice(&output.stdout).context("svclb dump -o json wrote no JSON")
    }

    /// GET at the metrics address, from the node's host.
    ///
    /// # Errors
    /// If nothing answers there.
    pub fn get(&self, at: &str, path: &str) -> Result<(u16, String)> {
        let at: SocketAddr = at.parse().context("no address")?;
        Ok(self.node.get(at, path)?)
    }

    /// `svclb cleanup`; the pin directory has to be gone after it.
    ///
    /// # Errors
    /// If it fails or leaves something.
    pub fn cleanup(&mut self) -> Result<()> {
        if self.exit_status().is_some() {
            self.child = None;
        }
        if self.child.is_some() {
            self.kill()?;
        }
        let output = self.svclb("cleanup", &[])?;
        if !output.status.success() {
            bail!(
                "svclb cleanup failed: {}",
                String::from_utf8_lossy(&output.stderr)
            )
        }
        if self.node.pin_dir().exists() {
            bail!("svclb cleanup left {}", self.node.pin_dir().display())
        }
        self.started = false;
        Ok(())
    }

    /// Leaves it running on drop, for a lab that is kept.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

/// A program, or another one that is given it as its last argument.
fn wrapped(wrapper: &[impl AsRef<OsStr>], binary: &Path) -> Command {
    match wrapper.split_first() {
        Some((program, rest)) => {
            let mut command = Command::new(program);
            command.args(rest).arg(binary);
            command
        }
        None => Command::new(binary),
    }
}

impl Agent {
    /// Prints what it counted, to help find out why a scenario failed.
    fn tell_counters(&self) {
        let Ok((_, text)) = self.get(Self::METRICS, "/metrics") else {
            eprintln!("--- its metrics cannot be read");
            return;
        };
        eprintln!("--- its counters that are not zero:");
        let counted = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.ends_with(" 0"))
            .filter(|line| !line.contains("_bucket"));
        for line in counted {
            eprintln!("{line}");
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // One that was cleaned up before must not take another's pins away.
        if self.kept || !self.started {
            return;
        }
        if thread::panicking() {
            eprintln!("--- log of svclb on {}:", self.node.name());
            for line in self.log() {
                eprintln!("{line}");
            }
            self.tell_counters();
        }
        if let Err(error) = self.cleanup() {
            // A second panic would abort and hide the first.
            assert!(thread::panicking(), "{error:#}");
            eprintln!("lab: {error:#}");
        }
    }
}
