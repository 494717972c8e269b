//! Booting a kernel with virtme-ng, and what it prints.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::kernel::Kernel;
use crate::{process, setup, times, workspace};

/// The release that was tried.
const RELEASE: &str = "virtme-ng==1.42";

/// A guest that prints nothing for so long has hung: the slowest scenario takes two minutes under
/// emulation.
const SILENCE: Duration = Duration::from_secs(600);

/// Begins a line that names a step of the guest's script that is over; shown with its time.
pub(super) const STEP: &str = "svclb-step: ";

/// How long a kernel gets to boot under KVM before emulation is taken. It needs seconds.
const KVM_TRIAL: Duration = Duration::from_secs(40);

/// What a guest runs on.
#[derive(Clone, Copy)]
pub(super) struct Machine {
    /// Under KVM, or under emulation.
    pub(super) kvm: bool,
    pub(super) cpus: u8,
}

/// virtme-ng, installed.
pub(super) struct VirtmeNg {
    /// The folder of its programs.
    bin: PathBuf,
}

impl VirtmeNg {
    /// Installs it, in an environment of its own, and what it boots with.
    pub(super) fn ready() -> Result<Self> {
        setup::need("qemu-system-x86_64", "qemu-system-x86")?;
        setup::need("depmod", "kmod")?;
        setup::need("busybox", "busybox-static")?;
        let venv = workspace::target().join("tools/virtme-ng");
        let bin = venv.join("bin");
        if !bin.join("vng").exists() {
            println!("setup: virtme-ng, from PyPI, into {}", venv.display());
            let pip = setup::venv::make(&venv)?;
            process::run(process::foreign(pip).args(["install", "--quiet", RELEASE]))?;
        }
        Ok(Self { bin })
    }

    /// Runs a shell script in a guest with this kernel, shows what is printed behind its
    /// label and gives it back.
    pub(super) fn run(
        &self,
        kernel: &Kernel,
        machine: Machine,
        label: &str,
        script: &str,
        limit: Duration,
    ) -> Result<String> {
        println!(
            "vm {label}: booting {} under {}",
            kernel.release,
            if machine.kvm { "KVM" } else { "emulation" }
        );
        let file = script_file(&format!("run-lab-{label}"), script)?;
        let mut guest = Guest::start(self.command(kernel, &file, machine, true))?;
        guest.read(limit, Some(label))
    }

    /// Whether this kernel boots under KVM here: some machines have a `/dev/kvm` that is of
    /// no use.
    pub(super) fn kvm_works(&self, kernel: &Kernel) -> Result<bool> {
        const BOOTED: &str = "svclb-vm: booted";
        if !Path::new("/dev/kvm").exists() {
            return Ok(false);
        }
        let file = script_file("try-kvm", &format!("echo '{BOOTED}'\n"))?;
        let machine = Machine { kvm: true, cpus: 1 };
        let mut guest = Guest::start(self.command(kernel, &file, machine, false))?;
        Ok(guest
            .read(KVM_TRIAL, None)
            .is_ok_and(|output| output.contains(BOOTED)))
    }

    fn command(&self, kernel: &Kernel, script: &Path, machine: Machine, console: bool) -> Command {
        let mut command = process::foreign(self.bin.join("vng"));
        if console {
            // Without a virtio port (5.10's initramfs) the script shares the console.
            command.arg("--verbose");
        }
        command.arg("--run").arg(&kernel.image);
        if !machine.kvm {
            command.arg("--disable-kvm");
        }
        command.arg("--cpus").arg(machine.cpus.to_string());
        command.args(["--memory", "3G", "--user", "root"]);
        // A virtiofsd that is there may be unable to start; 9p is a part of qemu.
        command.args(["--force-9p", "--overlay-rwdir", "/run"]);
        // Else half of an emulated kernel's time goes into clearing the buffers of 9p, and some into
        // hardening against a processor that is not there.
        command.args(["--append", "init_on_alloc=0 mitigations=off"]);
        command.arg("--cwd").arg(workspace::root());
        command.arg("--exec");
        command.arg(format!("bash {}", script.display()));
        command.env("PATH", self.path());
        command
    }

    fn path(&self) -> OsString {
        let rest = std::env::var_os("PATH").unwrap_or_default();
        std::env::join_paths(std::iter::once(self.bin.clone()).chain(std::env::split_paths(&rest)))
            .unwrap_or(rest)
    }
}

fn script_file(name: &str, script: &str) -> Result<PathBuf> {
    let file = workspace::target().join("vm").join(name);
    fs::write(&file, script).with_context(|| format!("{} can't be written", file.display()))?;
    Ok(file)
}

/// A running guest. It has no terminal: qemu would stop for good if it set one up from the
/// background.
struct Guest {
    child: Child,
    lines: mpsc::Receiver<io::Result<String>>,
}

impl Guest {
    fn start(mut command: Command) -> Result<Self> {
        let (reader, writer) = io::pipe().context("no pipe can be made")?;
        command
            .stdin(Stdio::null())
            .stdout(writer.try_clone().context("no pipe can be made")?)
            .stderr(writer)
            // So that all of it can be ended: virtme-ng, a shell and qemu.
            .process_group(0);
        let shown = process::shown(&command);
        let child = command
            .spawn()
            .with_context(|| format!("`{shown}` could not be started"))?;
        // Closes our copies of the writing end: the pipe ends with the guest.
        drop(command);
        let (tx, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(reader).split(b'\n') {
                let line = line.map(|line| String::from_utf8_lossy(&line).trim_end().to_owned());
                if tx.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// Everything that it prints, until it ends; shown behind a label, if it is given one.
    fn read(&mut self, limit: Duration, label: Option<&str>) -> Result<String> {
        let mut since = Instant::now();
        let end = since + limit;
        let mut output = String::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left.min(SILENCE)) {
                Ok(line) => {
                    let line = line.context("what the guest prints can't be read")?;
                    if let Some(step) = line.strip_prefix(STEP) {
                        let label = label.unwrap_or_default();
                        println!("{label}| {step}: {:.1} s", since.elapsed().as_secs_f64());
                        since = Instant::now();
                    } else if let Some(label) = label
                        && !line.starts_with(times::MARK)
                    {
                        println!("{label}| {line}");
                    }
                    output.push_str(&line);
                    output.push('\n');
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(output),
                Err(RecvTimeoutError::Timeout) => {
                    let why = if Instant::now() < end {
                        format!("printed nothing for {} s", SILENCE.as_secs())
                    } else {
                        format!("did not end within {} s", limit.as_secs())
                    };
                    bail!("the guest {why}; its processes:\n{}", self.processes());
                }
            }
        }
    }

    /// The state of its processes, to help find out why it hangs.
    fn processes(&self) -> String {
        let mut ps = process::foreign("ps");
        ps.args(["-o", "pid,stat,wchan:24,time,args", "-g"])
            .arg(self.child.id().to_string());
        process::probe(&mut ps).unwrap_or_default()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let group = format!("-{}", self.child.id());
        let mut kill = process::foreign("kill");
        // Most often it is gone, and there is nothing to end.
        process::probe(kill.args(["-KILL", "--", &group]));
        if let Err(error) = self.child.wait() {
            eprintln!("vm: virtme-ng can't be waited for: {error}");
        }
    }
}
