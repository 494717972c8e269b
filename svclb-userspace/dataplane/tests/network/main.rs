//! A network around the real programs, against an oracle: two nodes, clients outside, in pods and on
//! hosts, and random series of what they do. The programs run by `BPF_PROG_TEST_RUN`; between their hooks
//! a model of the kernel routes, and masquerades what pods send out of the cluster.
//!
//! The oracle knows only what each party sent and may expect: every reply reaches who asked, from whom he
//! asked; no packet reaches a backend that its flow was not given; no two live flows look the same to
//! any party; a flow never moves; nothing is kept for ever.
//!
//! `SVCLB_STEPS` sets how many steps each mode takes, and `SVCLB_SEED` where the first series begins. (The
//! programs' own random numbers are the kernel's: a series does not repeat itself exactly.)
#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails, so that the line shows"
)]

mod node;
mod objects;
mod packet;
mod simulation;

use nix::sched::{CloneFlags, unshare};

use node::Mode;
use simulation::Simulation;

/// How many steps a series has.
const SERIES: usize = 400;
/// How many steps each mode takes unless `SVCLB_STEPS` says otherwise.
const STEPS: usize = 8_000;

fn number(variable: &str, otherwise: usize) -> usize {
    let text = std::env::var(variable);
    text.map_or(otherwise, |text| text.parse().unwrap())
}

fn random_series(mode: Mode) {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    node::make_devices();
    let first = number("SVCLB_SEED", 0) as u64;
    let series = number("SVCLB_STEPS", STEPS).div_ceil(SERIES) as u64;
    let mut simulation = Simulation::new(mode);
    for seed in first..first + series {
        fastrand::seed(seed);
        let ended = simulation.series(SERIES);
        if let Err(failure) = ended {
            panic!("series {seed}: {failure}");
        }
    }
}

#[test]
fn every_party_gets_what_it_may_expect_where_the_kernel_forwards() {
    random_series(Mode::Kernel);
}

#[test]
fn every_party_gets_what_it_may_expect_where_tc_forwards() {
    random_series(Mode::DirectTc);
}

#[test]
fn every_party_gets_what_it_may_expect_where_xdp_forwards() {
    random_series(Mode::DirectXdp);
}
