//! What svclb promises, with real sockets on this machine's kernel, in labs.
//!
//! Needs root, `ip`, `ethtool`, `nft`, and (all but the module `itself`) the binary that `cargo xtask
//! build` makes; only `conformance::document` needs none of them. `--test-threads` says how many
//! scenarios run side by side: each has a lab of its own and takes [`scene::turn`]. Those that measure
//! time or read what all labs share take [`scene::alone`] and run alone.
//!
//! A scenario is skipped for one reason only: the kernel has not what it needs. It then
//! prints a line that begins with `LACKS:`, and `cargo xtask test vm` fails if that is not known of
//! the kernel.
#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails, so that the line shows; clippy knows tests only by their attribute"
)]

mod lab {
    mod affinity;
    mod audit;
    mod change;
    mod churn;
    mod conformance;
    mod dns;
    mod examples;
    mod extremes;
    mod faults;
    mod health_checks;
    mod itself;
    mod lifecycle;
    mod matrix;
    mod networks;
    mod outside;
    mod outward;
    mod privileges;
    mod refusal;
    mod scene;
    mod tcp;
    mod udp;
    mod udp_reaper;
    mod upgrade;
    mod verifier;
}
