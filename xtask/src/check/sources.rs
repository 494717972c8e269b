//! What holds for every source file.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::workspace;

/// The only files with `unsafe`, and why. Tests have none.
const UNSAFE: [(&str, &str); 23] = [
    ("svclb-userspace/dataplane/src/sys/call.rs", "bpf(2) itself"),
    (
        "svclb-userspace/dataplane/src/sys/iter.rs",
        "commands of bpf(2)",
    ),
    (
        "svclb-userspace/dataplane/src/sys/link.rs",
        "commands of bpf(2)",
    ),
    (
        "svclb-userspace/dataplane/src/sys/map.rs",
        "commands of bpf(2)",
    ),
    (
        "svclb-userspace/dataplane/src/sys/netns.rs",
        "a socket option that nix lacks",
    ),
    (
        "svclb-userspace/dataplane/src/sys/prog.rs",
        "commands of bpf(2)",
    ),
    ("svclb-userspace/src/memory.rs", "mimalloc's options"),
    (
        "svclb-ebpf/src/main.rs",
        "attributes of the licence section",
    ),
    ("svclb-ebpf/src/maps.rs", "copying elements out of maps"),
    ("svclb-ebpf/src/kernel.rs", "the kernel's helpers"),
    (
        "svclb-ebpf/src/socket/family.rs",
        "the fields of the hooks' context",
    ),
    ("svclb-ebpf/src/packet/frame.rs", "the bytes of a frame"),
    ("svclb-ebpf/src/packet/frame/xdp.rs", "the bytes of a frame"),
    ("svclb-ebpf/src/packet/frame/tc.rs", "the bytes of a frame"),
    (
        "svclb-ebpf/src/packet/flows.rs",
        "an element changed in place",
    ),
    ("svclb-ebpf/src/packet/scratch.rs", "this CPU's memory"),
    ("svclb-ebpf/src/counters.rs", "a per-CPU word"),
    ("svclb-ebpf/src/affinity.rs", "an element changed in place"),
    (
        "svclb-ebpf/src/socket/peers.rs",
        "the claimed slot of a socket",
    ),
    (
        "svclb-ebpf/src/socket/udp_translations.rs",
        "socket-local storage",
    ),
    ("svclb-ebpf/src/socket/reverse.rs", "socket-local storage"),
    (
        "fuzz/src/packet/frame.rs",
        "the bytes of a frame, as in the kernel",
    ),
    ("xtask/src/check/sources.rs", "the word itself"),
];

pub(super) fn check() -> Result<()> {
    let root = workspace::root();
    let mut files = Vec::new();
    for dir in [
        "svclb-common",
        "svclb-ebpf",
        "svclb-userspace",
        "fuzz",
        "tests",
        "xtask",
    ] {
        walk(&root.join(dir), &mut files)?;
    }
    for file in &files {
        let name = file
            .strip_prefix(&root)
            .unwrap_or(file)
            .to_string_lossy()
            .into_owned();
        let text = fs::read_to_string(file).with_context(|| format!("{name} can't be read"))?;
        let has_unsafe = text.lines().any(|line| {
            let code = line.split("//").next().unwrap_or_default();
            code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl")
        });
        let allowed = UNSAFE.iter().any(|(allowed, _)| *allowed == name);
        if has_unsafe && !allowed {
            bail!(
                "{name} has an unsafe block; xtask/src/check/sources.rs lists the files that may"
            );
        }
        for unfinished in [
            concat!("todo", "!("),
            concat!("unimpl", "emented!("),
            concat!("#[ig", "nore"),
        ] {
            if text.contains(unfinished) {
                bail!("{name} has {unfinished}");
            }
        }
        if !is_reached(file, &files) {
            bail!("{name} is in no crate: no `mod` names it");
        }
    }
    Ok(())
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("{} can't be read", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Whether cargo finds the file by its place, or a file next to or above it names it.
fn is_reached(file: &Path, files: &[PathBuf]) -> bool {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let parent = file.parent().unwrap_or(Path::new(""));
    let in_root = |dir: &str| parent.ends_with(dir);
    if matches!(&*stem, "main" | "lib" | "build")
        || in_root("tests/tests")
        || in_root("core/tests")
        || in_root("fuzz/tests")
        || in_root("source/tests")
        || in_root("dataplane/tests")
        || in_root("svclb-common/tests")
        || in_root("src/bin")
        || in_root("examples")
        || in_root("benches")
    {
        return true;
    }
    let name = if stem == "mod" {
        parent.file_name().unwrap_or_default().to_string_lossy()
    } else {
        stem.clone()
    };
    let declares = |text: &str| {
        text.lines().any(|line| {
            let code = line.split("//").next().unwrap_or_default().trim();
            let code = code.rsplit_once(' ').map(|(before, last)| {
                let keyword = before.rsplit([' ', ')']).next();
                (keyword.unwrap_or_default(), last)
            });
            code.is_some_and(|(keyword, last)| {
                keyword == "mod" && last.strip_suffix(';') == Some(&*name)
            })
        })
    };
    let home = if stem == "mod" {
        parent.parent().unwrap_or(parent)
    } else {
        parent
    };
    files.iter().any(|other| {
        let beside = other.parent() == Some(home);
        let above = other.with_extension("") == home;
        (beside || above) && fs::read_to_string(other).is_ok_and(|text| declares(&text))
    })
}
