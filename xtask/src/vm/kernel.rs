//! Fetching distribution kernels.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::{process, workspace};

/// A kernel that can be booted.
pub(super) struct Kernel {
    /// Its image.
    pub(super) image: PathBuf,
    /// As `uname -r` prints it.
    pub(super) release: String,
}

/// Where Debian keeps each kernel: the version, the suite, and the archive (of those in
/// the machine's own apt configuration) that has it.
const SUITES: [(&str, &str, bool); 3] = [
    ("5.10", "bullseye-security", true),
    ("6.1", "bookworm", false),
    ("6.12", "bookworm-backports", false),
];

/// The newest kernel that is packaged, where another version is asked for.
const NEWEST: (&str, bool) = ("sid", false);

/// Downloads and unpacks a kernel, once.
pub(super) fn fetch(version: &str) -> Result<Kernel> {
    let dir = workspace::target().join("vm").join(version);
    if let Ok(kernel) = find(&dir) {
        return Ok(kernel);
    }
    let (suite, security) = SUITES
        .iter()
        .find(|(known, ..)| *known == version)
        .map_or(NEWEST, |(_, suite, security)| (*suite, *security));
    println!(
        "vm: Linux {version}, from Debian's {suite}, into {}",
        dir.display()
    );
    fs::create_dir_all(&dir)?;
    let apt = configure(&dir, suite, security)?;
    let with = |program: &str| {
        let mut command = process::foreign(program);
        command.env("APT_CONFIG", &apt).current_dir(&dir);
        command
    };
    process::run(with("apt-get").args(["-qq", "update"]))?;
    let names = process::output(with("apt-cache").args([
        "search",
        "--names-only",
        "^linux-image-.*-amd64$",
    ]))?;
    let package = newest(&names, version)
        .with_context(|| format!("Debian's {suite} has no Linux {version} for this machine"))?;
    process::run(with("apt-get").args(["-qq", "download", &package]))?;
    let deb = fs::read_dir(&dir)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get downloaded nothing")?;
    process::run(process::foreign("dpkg").arg("-x").arg(&deb).arg(&dir))?;
    fs::remove_file(deb)?;
    let kernel = find(&dir)?;
    let modules = if dir.join("usr/lib/modules").exists() {
        dir.join("usr")
    } else {
        dir.clone()
    };
    process::run(
        process::foreign("depmod")
            .arg("-b")
            .arg(&modules)
            .arg(&kernel.release),
    )?;
    Ok(kernel)
}

fn find(dir: &Path) -> Result<Kernel> {
    for entry in fs::read_dir(dir.join("boot"))? {
        let image = entry?.path();
        let name = image
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if let Some(release) = name.strip_prefix("vmlinuz-") {
            return Ok(Kernel {
                release: release.to_owned(),
                image,
            });
        }
    }
    bail!("no kernel image in {}", dir.display())
}

/// The generic flavour of the highest ABI number: it has what the lab needs as modules.
fn newest(names: &str, version: &str) -> Option<String> {
    let wanted = format!("linux-image-{version}.");
    let any = !SUITES.iter().any(|(known, ..)| *known == version);
    names
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| {
            name.starts_with(&wanted)
                || (any
                    && name.starts_with("linux-image-")
                    && name.as_bytes().get(12).is_some_and(u8::is_ascii_digit))
        })
        .filter(|name| {
            !["-cloud-", "-rt-", "unsigned", "dbg"]
                .iter()
                .any(|other| name.contains(other))
        })
        .max_by_key(|name| {
            name.split(|c: char| !c.is_ascii_digit())
                .filter_map(|number| number.parse::<u64>().ok())
                .collect::<Vec<_>>()
        })
        .map(str::to_owned)
}

/// An apt of its own, that reads the archives which the machine reads, in another suite.
fn configure(dir: &Path, suite: &str, security: bool) -> Result<PathBuf> {
    for sub in [
        "apt/lists/partial",
        "apt/cache/archives/partial",
        "apt/empty",
    ] {
        fs::create_dir_all(dir.join(sub))?;
    }
    let mirror = mirror(security)?;
    fs::write(
        dir.join("apt/sources.list"),
        format!("deb [trusted=yes] {mirror} {suite} main\n"),
    )?;
    let config = dir.join("apt/apt.conf");
    fs::write(
        &config,
        format!(
            "Dir::Etc::sourcelist \"{0}/apt/sources.list\";\n\
             Dir::Etc::sourceparts \"{0}/apt/empty\";\n\
             Dir::State::lists \"{0}/apt/lists\";\n\
             Dir::Cache \"{0}/apt/cache\";\n\
             APT::Sandbox::User \"root\";\n\
             Acquire::Check-Valid-Until \"false\";\n",
            dir.display()
        ),
    )?;
    Ok(config)
}

/// The address of an archive in the machine's own configuration.
fn mirror(security: bool) -> Result<String> {
    let mut texts = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        for entry in entries.flatten() {
            texts.push('\n');
            texts.push_str(&fs::read_to_string(entry.path()).unwrap_or_default());
        }
    }
    texts
        .lines()
        .filter(|line| line.starts_with("URIs:") || line.starts_with("deb "))
        .flat_map(str::split_whitespace)
        .filter(|word| word.contains("://") && word.contains("debian"))
        .find(|word| word.contains("security") == security)
        .map(str::to_owned)
        .context("no Debian archive in this machine's apt configuration: run this on Debian, or put a kernel's vmlinuz and modules into target/vm/<version>")
}
