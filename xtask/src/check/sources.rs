//! What holds for every source file.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use anyhow::{Context as _, Result, anyhow, bail};
use proc_macro2::{TokenStream, TokenTree};

use crate::workspace;

/// The only files with `unsafe`, and why.
const UNSAFE: &[(&str, &str)] = &[
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
    (
        "svclb-userspace/dataplane/src/sys/sockopt.rs",
        "socket options of iptables",
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
    ("svclb-ebpf/src/packet/fib.rs", "a helper of the kernel"),
    (
        "svclb-ebpf/src/packet/local_socket.rs",
        "helpers of the kernel",
    ),
    ("tests/src/tun.rs", "an ioctl that nix lacks"),
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
    let mut with_unsafe = BTreeSet::new();
    for file in &files {
        let name = file
            .strip_prefix(&root)
            .unwrap_or(file)
            .to_string_lossy()
            .into_owned();
        let text = fs::read_to_string(file).with_context(|| format!("{name} can't be read"))?;
        let tokens = TokenStream::from_str(&text);
        let tokens = tokens.map_err(|error| anyhow!("{name} is no Rust: {error}"))?;
        if has_unsafe(tokens) {
            with_unsafe.insert(name.clone());
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
    judge_unsafe(UNSAFE, &with_unsafe)?;
    Ok(())
}

/// Whether the word is in the code, apart from comments and texts.
fn has_unsafe(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(word) => word == "unsafe",
        TokenTree::Group(group) => has_unsafe(group.stream()),
        _ => false,
    })
}

/// An error for a file with `unsafe` that is not in the list, and for one in the list without.
fn judge_unsafe(list: &[(&str, &str)], with_unsafe: &BTreeSet<String>) -> Result<()> {
    let listed: BTreeSet<String> = list.iter().map(|(name, _)| (*name).to_owned()).collect();
    if let Some(name) = with_unsafe.difference(&listed).next() {
        bail!("{name} has `unsafe`; xtask/src/check/sources.rs lists the files that may");
    }
    if let Some(name) = listed.difference(with_unsafe).next() {
        bail!(
            "{name} has no `unsafe`, or is not there: take it off the list in xtask/src/check/sources.rs"
        );
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
    let targets = ["tests", "examples", "benches"].iter().any(|dir| {
        let package = parent.parent().unwrap_or(parent);
        parent.ends_with(dir) && package.join("Cargo.toml").is_file()
    });
    if matches!(&*stem, "main" | "lib" | "build") || targets || parent.ends_with("src/bin") {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_in_comments_and_texts_is_none() {
        let found = |text| has_unsafe(TokenStream::from_str(text).unwrap());
        assert!(found("fn f() { m!(unsafe { g() }) }"));
        assert!(found("#[unsafe(no_mangle)] fn f() {}"));
        assert!(!found(
            "/* unsafe { */ #![expect(unsafe_code)] const A: &str = \"unsafe {\"; // unsafe"
        ));
    }

    #[test]
    fn a_file_that_is_not_listed_and_one_that_is_listed_for_nothing_are_errors() {
        let files = BTreeSet::from(["a.rs".to_owned()]);
        judge_unsafe(&[("a.rs", "")], &files).unwrap();
        judge_unsafe(&[], &files).unwrap_err();
        let stale = judge_unsafe(&[("a.rs", ""), ("b.rs", "")], &files).unwrap_err();
        assert!(stale.to_string().starts_with("b.rs has no `unsafe`"));
    }
}
