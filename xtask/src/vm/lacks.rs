//! Which scenarios a kernel cannot play, and for want of what. What is not listed here is a
//! failure: a scenario that says so of itself would else be skipped unseen.

use anyhow::{Result, bail};

use super::kernel::Kernel;

/// Behind which the guest prints a line of each scenario that lacks something.
pub(super) const MARK: &str = "svclb-lacks: ";

/// Where a feature is missing.
enum Missing {
    /// In kernels older than this.
    Before(u32, u32),
    /// In this one and those after it.
    Since(u32, u32),
    /// Where the kernel's BTF is hidden.
    WithoutBtf,
}

impl Missing {
    fn is_so(&self, version: (u32, u32), hides_btf: bool) -> bool {
        match *self {
            Self::Before(major, minor) => version < (major, minor),
            Self::Since(major, minor) => version >= (major, minor),
            Self::WithoutBtf => hides_btf,
        }
    }
}

/// A feature, where it is missing, and the scenarios that say so: by the beginnings of their names.
const KNOWN: [(&str, Missing, &[&str]); 7] = [
    (
        "SO_NETNS_COOKIE",
        Missing::Before(5, 14),
        &["lab::outward::"],
    ),
    (
        "veths that take what XDP sends",
        Missing::Before(5, 13),
        &["lab::outside::", "lab::matrix::outward::"],
    ),
    (
        "veth devices that poll for GRO alone",
        Missing::Before(5, 13),
        &["lab::itself::outside::the_far_end_of_an_uplink_polls"],
    ),
    // Which Debian's 5.10 is built without.
    (
        "mptcp sockets",
        Missing::Before(6, 1),
        &["lab::tcp::an_mptcp_socket_is_a_tcp_client"],
    ),
    (
        "udp-lite sockets",
        Missing::Since(7, 0),
        &["lab::udp::a_udp_lite_socket_counts_as_udp"],
    ),
    (
        "netkit devices",
        Missing::Before(6, 7),
        &["lab::networks::each::netkit_pods::"],
    ),
    // By which the agent finds connected UDP sockets.
    (
        "BTF",
        Missing::WithoutBtf,
        &[
            "lab::udp_reaper::",
            "lab::privileges::with_the_capabilities_of_the_overlay",
            "lab::privileges::without_those_for_namespaces",
        ],
    ),
];

/// Prints what the scenarios lacked, by name.
pub(super) fn judge(output: &str, kernel: &Kernel, hides_btf: bool) -> Result<()> {
    let mut lines: Vec<_> = output
        .lines()
        .filter_map(|line| line.trim().strip_prefix(MARK))
        .collect();
    lines.sort_unstable();
    lines.dedup();
    let mut unexpected = Vec::new();
    for line in &lines {
        println!("on Linux {}: {line}", kernel.release);
        let (scenario, feature) = line.rsplit_once(": ").unwrap_or((line, ""));
        let is_known = KNOWN.iter().any(|(known, missing, scenarios)| {
            *known == feature
                && missing.is_so(kernel.version(), hides_btf)
                && scenarios.iter().any(|begin| scenario.starts_with(begin))
        });
        if !is_known {
            unexpected.push(*line);
        }
    }
    if unexpected.is_empty() {
        return Ok(());
    }
    bail!(
        "scenarios were skipped that this kernel should serve: {}",
        unexpected.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn judged(release: &str, hides_btf: bool, line: &str) -> bool {
        let kernel = Kernel {
            image: PathBuf::new(),
            release: release.to_owned(),
        };
        judge(
            &format!("test x ... ok\n{MARK}{line}\n"),
            &kernel,
            hides_btf,
        )
        .is_ok()
    }

    #[test]
    fn what_a_kernel_is_known_to_lack_is_no_failure_and_all_else_is() {
        let cookie = "lab::outward::nodes_see_themselves: SO_NETNS_COOKIE";
        assert!(judged("5.10.0-46-amd64", false, cookie));
        assert!(!judged("6.12.1-amd64", false, cookie));
        assert!(!judged(
            "5.10.0-46-amd64",
            false,
            "lab::tcp::x: SO_NETNS_COOKIE"
        ));
        let mptcp = "lab::tcp::an_mptcp_socket_is_a_tcp_client: mptcp sockets";
        assert!(judged("5.10.0-46-amd64", false, mptcp));
        assert!(!judged("6.12.1-amd64", false, mptcp));
        assert!(judged("6.12.1-amd64", true, "lab::udp_reaper::x: BTF"));
        assert!(!judged("6.12.1-amd64", false, "lab::udp_reaper::x: BTF"));
        let lite = "lab::udp::a_udp_lite_socket_counts_as_udp: udp-lite sockets";
        assert!(judged("7.0.3+deb14-amd64", false, lite));
    }
}
