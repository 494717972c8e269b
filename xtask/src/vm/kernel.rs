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

impl Kernel {
    /// The first two numbers of its release.
    pub(super) fn version(&self) -> (u32, u32) {
        let mut numbers = self
            .release
            .split(|c: char| !c.is_ascii_digit())
            .map(|number| number.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }
}

/// What can be asked for.
pub(super) const NAMES: [&str; 4] = ["5.10", "6.1", "6.12", "newest"];

/// Where Debian keeps a kernel.
struct Place {
    suite: &'static str,
    /// In the archive of security updates, not in the main one.
    security: bool,
    /// How the names of its packages go on after `linux-image-`.
    version: &'static str,
}

fn place(name: &str) -> Result<Place> {
    let (suite, security, version) = match name {
        "5.10" => ("bullseye-security", true, "5.10."),
        "6.1" => ("bookworm", false, "6.1."),
        "6.12" => ("bookworm-backports", false, "6.12."),
        "newest" => ("sid", false, ""),
        other => bail!("Linux {other} is none of {}", NAMES.join(", ")),
    };
    Ok(Place {
        suite,
        security,
        version,
    })
}

/// Written when a kernel is there whole.
const COMPLETE: &str = "complete";

/// Downloads and unpacks a kernel, once.
pub(super) fn fetch(name: &str) -> Result<Kernel> {
    let place = place(name)?;
    let dir = workspace::target().join("vm").join(name);
    if dir.join(COMPLETE).exists() {
        return find(&dir);
    }
    println!(
        "vm: Linux {name}, from Debian's {}, into {}",
        place.suite,
        dir.display()
    );
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("{} can't be cleared", dir.display()))?;
    }
    fs::create_dir_all(&dir)?;
    download(&place, &dir)?;
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
    fs::write(dir.join(COMPLETE), "")?;
    Ok(kernel)
}

fn download(place: &Place, dir: &Path) -> Result<()> {
    let apt = configure(dir, place)?;
    let with = |program: &str| {
        let mut command = process::foreign(program);
        command.env("APT_CONFIG", &apt).current_dir(dir);
        command
    };
    process::run(with("apt-get").args(["-qq", "update"]))?;
    let names = process::output(with("apt-cache").args([
        "search",
        "--names-only",
        "^linux-image-.*-amd64$",
    ]))?;
    let package = newest(&names, place.version).with_context(|| {
        format!(
            "Debian's {} has no such kernel for this machine",
            place.suite
        )
    })?;
    // Newer kernels come in parts: the image and the modules are packages of their own.
    let depends = process::output(with("apt-cache").args(["depends", &package]))?;
    let parts = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .filter(|name| name.starts_with("linux-binary-") || name.starts_with("linux-modules-"));
    let packages = std::iter::once(&*package).chain(parts);
    process::run(with("apt-get").args(["-qq", "download"]).args(packages))?;
    let debs: Vec<_> = fs::read_dir(dir)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    anyhow::ensure!(!debs.is_empty(), "apt-get downloaded nothing");
    for deb in debs {
        process::run(process::foreign("dpkg").arg("-x").arg(&deb).arg(dir))?;
        fs::remove_file(deb)?;
    }
    Ok(())
}

/// The image: in `boot`, or since Linux 7 with its modules.
fn find(dir: &Path) -> Result<Kernel> {
    for entry in entries(&dir.join("boot")) {
        let name = entry.file_name().unwrap_or_default().to_string_lossy();
        if let Some(release) = name.strip_prefix("vmlinuz-") {
            return Ok(Kernel {
                release: release.to_owned(),
                image: entry.clone(),
            });
        }
    }
    for modules in entries(&dir.join("usr/lib/modules")) {
        let image = modules.join("vmlinuz");
        if let Some(release) = modules.file_name().filter(|_| image.exists()) {
            return Ok(Kernel {
                release: release.to_string_lossy().into_owned(),
                image,
            });
        }
    }
    bail!("no kernel image in {}", dir.display())
}

/// What is in a folder; nothing in one that is not there.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect()
}

/// The generic flavour of the highest number: it has what the lab needs as modules.
fn newest(names: &str, version: &str) -> Option<String> {
    names
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| {
            name.strip_prefix("linux-image-").is_some_and(|rest| {
                rest.starts_with(version) && rest.starts_with(|c: char| c.is_ascii_digit())
            })
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

/// With what Debian signs its archives, of every suite.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An apt of its own, that reads the archives which the machine reads, in another suite.
fn configure(dir: &Path, place: &Place) -> Result<PathBuf> {
    for sub in [
        "apt/lists/partial",
        "apt/cache/archives/partial",
        "apt/empty",
    ] {
        fs::create_dir_all(dir.join(sub))?;
    }
    if !Path::new(KEYRING).exists() {
        bail!("{KEYRING} is missing: install the package debian-archive-keyring");
    }
    let mirror = mirror(place.security)?;
    fs::write(
        dir.join("apt/sources.list"),
        format!("deb [signed-by={KEYRING}] {mirror} {} main\n", place.suite),
    )?;
    let config = dir.join("apt/apt.conf");
    // The lists of a suite expire when its support has ended.
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
        .context("no Debian archive in this machine's apt configuration: run this on Debian, or put a kernel's boot and lib folders and an empty file `complete` into target/vm/<version>")
}

#[cfg(test)]
mod tests {
    use super::newest;

    #[test]
    fn the_highest_generic_kernel_of_a_version_is_taken() {
        let names = "linux-image-5.10.0-9-amd64 - Linux\n\
                     linux-image-5.10.0-46-amd64 - Linux\n\
                     linux-image-5.10.0-47-cloud-amd64 - Linux\n\
                     linux-image-6.1.0-1-amd64 - Linux\n\
                     linux-image-amd64 - meta\n";
        let chosen = |version| newest(names, version);
        assert_eq!(
            chosen("5.10.").as_deref(),
            Some("linux-image-5.10.0-46-amd64")
        );
        assert_eq!(chosen("").as_deref(), Some("linux-image-6.1.0-1-amd64"));
        assert_eq!(chosen("5.1."), None);
    }
}
