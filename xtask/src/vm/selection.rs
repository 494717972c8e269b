//! What every change has to pass on other kernels than the machine's own: which scenarios, and why
//! those.
//!
//! The machine that runs `.ci/run` plays all scenarios on its own kernel (6.18 where this was
//! written). Another kernel adds something where the agent or a program takes another path there, or
//! where the kernel treats what they do in another way. Under emulation a scenario costs seconds of a
//! processor, most of them in the verifier, so what adds nothing is left out. `cargo xtask test vm`
//! plays everything on every kernel.

use anyhow::{Result, bail};

/// A kernel, and what is played on it.
pub(super) struct Selection {
    pub(super) kernel: &'static str,
    pub(super) hides_btf: bool,
    scenarios: Scenarios,
}

/// Scenarios, by the beginnings of their names, each with the reason.
enum Scenarios {
    AllBut(&'static [(&'static str, &'static str)]),
    Only(&'static [(&'static str, &'static str)]),
}

/// The oldest kernel, on which most is different, and that of Debian's stable release.
pub(super) const SELECTED: [Selection; 3] = [
    Selection {
        kernel: "5.10",
        hides_btf: false,
        scenarios: Scenarios::AllBut(&[
            ("lab::change::", "reads files; the plan is the same"),
            ("lab::examples::", "reads files; the plan is the same"),
            ("lab::extremes::", "what the planner makes of odd objects"),
            ("lab::health_checks::", "the agent's own listeners"),
            ("lab::conformance::document::", "compares a document"),
            ("lab::conformance::labels::", "which objects are read"),
            ("lab::conformance::slices::", "which objects are read"),
            ("lab::conformance::type_changes::", "which objects are read"),
            (
                "lab::conformance::basics::",
                "which objects are read; the same ways lead through lab::tcp, udp, outside and matrix",
            ),
            (
                "lab::networks::firewall::",
                "rules of the kernel's between the hooks; lab::networks::{reach,uplinks} lead through them, too",
            ),
            (
                "lab::networks::obstacles::",
                "which rules and sysctls the agent reads",
            ),
            (
                "lab::networks::kube_proxys_rules::",
                "which rules the agent reads",
            ),
            (
                "lab::networks::beside_kube_proxy::",
                "what the agent reads of the kernel's conntrack, whose messages are the same",
            ),
            (
                "lab::networks::source_ports::",
                "which ports the agent chooses",
            ),
            // What packets go through here is the same for the programs as in the rest of `reach`.
            (
                "lab::networks::reach::pods_may_be_masqueraded_to_random_ports",
                "a rule of the kernel's between the hooks",
            ),
            (
                "lab::networks::reach::nodes_and_pods_may_have_no_ipv4_address",
                "every scenario is played over IPv6, too",
            ),
            (
                "lab::networks::reach::a_tunnel_that_carries_less_than_the_links_of_pods",
                "the kernel fragments",
            ),
            (
                "lab::networks::uplinks::packets_to_other_nodes_are_sent_from",
                "which address the agent takes",
            ),
            (
                "lab::networks::uplinks::rules_by_connection_mark",
                "rules of the kernel's between the hooks",
            ),
            (
                "lab::networks::stray::an_end_with",
                "what is looked at of a reset, too",
            ),
            ("lab::faults::clients_that_", "the agent's own listeners"),
            // Tunnels' outer headers (before 5.14) are in lab::networks::each::ipip.
            (
                "lab::networks::each::bridge_uplink::",
                "which devices the agent takes",
            ),
            (
                "lab::networks::each::macvlan_pods::",
                "which devices the agent takes",
            ),
            (
                "lab::networks::each::unnumbered_uplink::",
                "which devices the agent takes",
            ),
            // Which backends a frontend has is the planner's. How packets reach them on this kernel
            // is in lab::outside, lab::outward, lab::matrix and lab::conformance::{affinity,udp}.
            (
                "lab::conformance::policies::",
                "which backends the planner chooses",
            ),
            (
                "lab::conformance::node_ports::",
                "which frontends the planner makes",
            ),
            (
                "lab::conformance::load_balancers::",
                "which frontends the planner makes",
            ),
        ]),
    },
    Selection {
        kernel: "6.12",
        hides_btf: false,
        scenarios: Scenarios::Only(&[
            (
                "lab::tcp::",
                "MPTCP (5.19), the verifier of socket programs",
            ),
            ("lab::udp::", "UDP-Lite, socket storage"),
            ("lab::refusal::", "bpf_set_retval (5.18)"),
            ("lab::udp_reaper::", "BTF, iterators, sock_diag"),
            (
                "lab::outside::",
                "tcx (6.6), XDP on veths (5.13), fib_lookup (6.3)",
            ),
            ("lab::outward::", "SO_NETNS_COOKIE (5.14)"),
            ("lab::matrix::outward::", "all of these at once"),
            (
                "lab::privileges::",
                "which capabilities the kernel asks for",
            ),
            ("lab::audit::", "tcx and cgroup links that are detached"),
            ("lab::verifier::", "the verifier itself"),
            (
                "lab::upgrade::",
                "programs that are replaced in their links",
            ),
        ]),
    },
    Selection {
        kernel: "6.12",
        hides_btf: true,
        scenarios: Scenarios::Only(&[
            (
                "lab::udp_reaper::",
                "the agent starts, and warns that it finds no sockets",
            ),
            ("lab::privileges::", "the same with few capabilities"),
            (
                "lab::upgrade::",
                "programs that are replaced in their links",
            ),
            ("lab::conformance::process::", "restarts"),
        ]),
    },
];

impl Selection {
    pub(super) fn name(&self) -> String {
        let without = if self.hides_btf { " without BTF" } else { "" };
        format!("Linux {}{without}", self.kernel)
    }

    /// Those of all scenarios that are selected.
    ///
    /// # Errors
    /// If a row is the beginning of none: it was renamed.
    pub(super) fn of(&self, all: &[String]) -> Result<Vec<String>> {
        let (rows, only) = match self.scenarios {
            Scenarios::Only(rows) => (rows, true),
            Scenarios::AllBut(rows) => (rows, false),
        };
        for (begin, _) in rows {
            if !all.iter().any(|name| name.starts_with(begin)) {
                bail!("xtask/src/vm/selection.rs: no scenario begins with {begin}");
            }
        }
        let listed = |name: &&String| rows.iter().any(|(begin, _)| name.starts_with(begin));
        Ok(all
            .iter()
            .filter(|name| listed(name) == only)
            .cloned()
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn rows_are_beginnings_of_names_and_one_that_is_none_is_an_error() {
        let rows = &[("lab::a::", "")];
        let all = names(&["lab::a::x", "lab::ab::y"]);
        let of = |scenarios, all: &[String]| {
            let selection = Selection {
                kernel: "5.10",
                hides_btf: false,
                scenarios,
            };
            selection.of(all)
        };
        assert_eq!(of(Scenarios::Only(rows), &all).unwrap(), all[..1]);
        assert_eq!(of(Scenarios::AllBut(rows), &all).unwrap(), all[1..]);
        assert!(of(Scenarios::Only(rows), &all[1..]).is_err());
    }
}
