//! `setup`: finds or installs what the build and the tests need, and says what it chose and why.

mod cache;
mod checkers;
mod linker;
mod packages;
mod route;
mod static_target;
pub(crate) mod venv;

pub(crate) use cache::Toolchain;
pub(crate) use checkers::{CARGO_DENY, TYPOS};
pub(crate) use packages::need;
pub(crate) use route::Route;

use anyhow::Result;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Look again, even where an earlier finding still holds
    #[arg(long)]
    fresh: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.fresh {
        cache::forget();
    }
    let toolchain = toolchain()?;
    static_target::ensure()?;
    lab_tools()?;
    println!(
        "setup: eBPF compiler: {} ({})",
        toolchain.route, toolchain.rustc_version
    );
    println!("setup: because {}", toolchain.why);
    println!(
        "setup: eBPF linker: {} ({})",
        toolchain.linker.display(),
        toolchain.linker_why
    );
    println!(
        "setup: static binary: {}",
        crate::workspace::static_target()
    );
    Ok(())
}

/// The eBPF compiler and linker. Milliseconds when an earlier finding still holds.
pub(crate) fn toolchain() -> Result<Toolchain> {
    if let Some(known) = cache::load() {
        return Ok(known);
    }
    let (compiler, why) = route::choose()?;
    println!("setup: eBPF compiler: {}, because {why}", compiler.route);
    let (linker, linker_why) = linker::choose(&compiler)?;
    println!("setup: eBPF linker: {}, {linker_why}", linker.display());
    let found = Toolchain {
        route: compiler.route,
        rustc: compiler.rustc,
        rustc_version: compiler.version,
        why,
        linker,
        linker_why,
    };
    cache::store(&found)?;
    Ok(found)
}

/// The target for the static binary.
pub(crate) fn static_target() -> Result<()> {
    static_target::ensure()
}

/// What rule sets such as kube-proxy's are written with, for a benchmark.
pub(crate) fn iptables() -> Result<()> {
    need("iptables-legacy-restore", "iptables")
}

/// What labs are made with, and the DNS server and client of one scenario.
pub(crate) fn lab_tools() -> Result<()> {
    need("ip", "iproute2")?;
    need("ethtool", "ethtool")?;
    need("nft", "nftables")?;
    need("iptables-legacy", "iptables")?;
    need("wg", "wireguard-tools")?;
    need("nsenter", "util-linux")?;
    need("bpftool", "bpftool")?;
    need("dnsmasq", "dnsmasq-base")?;
    need("dig", "bind9-dnsutils")
}
