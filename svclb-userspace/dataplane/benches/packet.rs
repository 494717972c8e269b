//! Nanoseconds of the XDP program for one packet, with 1 and 10,000 Services.
//!
//! Each run gets a frame that no run has changed yet (a repeated run would get what the one
//! before left, and measure another path), all runs are on one CPU, and what a program takes that
//! only passes is taken off. The kinds of packets take turns, so that all meet the same noise. New flows
//! are each of a client of its own, and all of one client, which has more to the backend then than there
//! are source ports that clients are given.
#![expect(clippy::unwrap_used, reason = "a benchmark ends where it fails")]

#[path = "../tests/packets/frames.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod frames;
#[path = "../tests/packets/world.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod world;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use frames::{Family, Frame, Transport};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use svclb_dataplane::Passing;
use world::{EGRESS, HOOKS, NODE_PORT, World};

/// For each kind of packet and number of Services.
const RUNS: u16 = 50_000;

fn median(mut all: Vec<u32>) -> u32 {
    all.sort_unstable();
    all[all.len() / 2]
}

/// One of 65,536 clients.
fn client(family: Family, number: u16) -> IpAddr {
    match family.client() {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() ^ (u32::from(number) << 8)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() ^ (u128::from(number) << 16)).into(),
    }
}

fn main() {
    let mut one = CpuSet::new();
    one.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &one).unwrap();
    let passing = Passing::load().unwrap();
    println!(
        "XDP where nothing else is said, median of {RUNS} packets of each kind, in nanoseconds, less a program that passes"
    );
    println!(
        "| Services | family | no Service | the same at tc, in | out | no Service at a Service's port | \
         established flow | new flow | one of {RUNS} of one client | (passing) |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for services in [1, 10_000] {
        for family in [Family::V4, Family::V6] {
            let world = World::among(services);
            let first = Frame::new(family, Transport::Tcp).to(family.node(), NODE_PORT);
            let no_service = first.to(family.node(), 9).bytes();
            let no_service_leaves = first.to(family.node(), 9).reply().bytes();
            let no_address = first.to(family.router(), NODE_PORT).bytes();
            world.run(HOOKS[0], &first.by_port(1).bytes());
            let established = first.by_port(1).established().bytes();
            let mut times: [Vec<u32>; 8] = Default::default();
            for port in 2..RUNS + 2 {
                let new = first.of_client(client(family, port)).bytes();
                let new_of_one = first.by_port(port).bytes();
                for (time, nanoseconds) in times.iter_mut().zip([
                    passing.test_run(&established).unwrap().nanoseconds,
                    world.run(HOOKS[0], &no_service).nanoseconds,
                    world.run(HOOKS[2], &no_service).nanoseconds,
                    world.run(EGRESS, &no_service_leaves).nanoseconds,
                    world.run(HOOKS[0], &no_address).nanoseconds,
                    world.run(HOOKS[0], &established).nanoseconds,
                    world.run(HOOKS[0], &new).nanoseconds,
                    world.run(HOOKS[0], &new_of_one).nanoseconds,
                ]) {
                    time.push(nanoseconds);
                }
            }
            let [nothing, rest @ ..] = times.map(median);
            let rest = rest.map(|time| time.saturating_sub(nothing).to_string());
            println!(
                "| {services} | {family:?} | {} | {nothing} |",
                rest.join(" | ")
            );
        }
    }
}
