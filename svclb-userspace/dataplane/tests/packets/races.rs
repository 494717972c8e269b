//! Packets on two CPUs at once.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use svclb_common::Counter;

use super::frames::{Family, Frame, Transport, family_and_transport};
use super::full::{self, OVER};
use super::world::{self, DROP, EGRESS, HOOKS, World};

/// Before only what a run had entered was taken back, more than half of them lost their replies.
const ROUNDS: u16 = 1000;
const FIRST_PORT: u16 = 1024;

/// Two CPUs that this process may run on; None, and a sentence, if it has one alone.
fn two_cpus() -> Option<[usize; 2]> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let mut cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap());
    let two = cpus.next().zip(cpus.next()).map(|(one, two)| [one, two]);
    if two.is_none() {
        eprintln!("skipped: packets at once need two CPUs, and this process may run on one");
    }
    two
}

/// Runs the calling thread on one CPU alone.
fn pin(cpu: usize) {
    let mut one = CpuSet::new();
    one.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &one).unwrap();
}

/// Does the same on two CPUs, `rounds` times, each round at once. Returns what each of them got.
fn at_once<T: Send>(
    cpus: [usize; 2],
    rounds: u16,
    work: impl Fn(usize, u16) -> T + Sync,
) -> [Vec<T>; 2] {
    /// If one of them panics, the other one waits no longer than this.
    const LONGEST: Duration = Duration::from_secs(30);
    let arrived = AtomicU32::new(0);
    let one_cpu = |which: usize| {
        pin(cpus[which]);
        let start = Instant::now();
        let each = |round| {
            arrived.fetch_add(1, Ordering::SeqCst);
            while arrived.load(Ordering::SeqCst) < 2 * (u32::from(round) + 1) {
                assert!(start.elapsed() < LONGEST, "the other CPU came no further");
                spin_loop();
            }
            work(which, round)
        };
        (0..rounds).map(each).collect()
    };
    thread::scope(|scope| {
        let one_cpu = &one_cpu;
        [0, 1]
            .map(|which| scope.spawn(move || one_cpu(which)))
            .map(|thread| thread.join().unwrap())
    })
}

#[test]
fn a_flow_that_two_cpus_open_at_once_goes_to_one_backend_and_its_replies_are_translated() {
    let Some(cpus) = two_cpus() else { return };
    family_and_transport(|family, transport| {
        for hook in HOOKS {
            let world = World::with_two_backends();
            let request = Frame::new(family, transport).to(family.node(), world::NODE_PORT);
            let sent = open_at_once(cpus, &world, hook, request);
            let mut per_backend = [0_u16; 2];
            for (port, sent) in (FIRST_PORT..).zip(sent) {
                let frame = request.by_port(port);
                let backends = [family.backend(), family.second_backend()];
                let seen = frame.by_port_of(&sent);
                let at = backends.map(|backend| seen.to(backend, world::TARGET));
                let backend = at.iter().position(|at| at.bytes() == sent);
                let backend = backend.unwrap_or_else(|| panic!("{hook} {frame:?}: {sent:02x?}"));
                per_backend[backend] += 1;
                let reply = world.run(EGRESS, &at[backend].reply().bytes());
                assert_eq!(reply.frame, frame.reply().bytes(), "{hook} {frame:?}");
            }
            assert!(per_backend.iter().all(|flows| *flows > ROUNDS / 4));
        }
    });
}

#[test]
fn a_flow_that_two_cpus_open_at_once_has_one_source_port_at_a_backend_elsewhere() {
    let Some(cpus) = two_cpus() else { return };
    family_and_transport(|family, transport| {
        for hook in HOOKS {
            let world = World::with_two_backends_elsewhere();
            let request = Frame::new(family, transport).to(family.node(), world::NODE_PORT);
            open_at_once(cpus, &world, hook, request);
        }
    });
}

#[test]
fn a_connection_that_two_cpus_open_anew_at_once_goes_to_one_backend() {
    let Some(cpus) = two_cpus() else { return };
    for family in [Family::V4, Family::V6] {
        for hook in HOOKS {
            let world = World::with_two_backends();
            let request = Frame::new(family, Transport::Tcp).to(family.node(), world::NODE_PORT);
            let reset = request.reset();
            for port in FIRST_PORT..FIRST_PORT + ROUNDS {
                world.run(hook, &request.by_port(port).bytes());
                world.run(hook, &reset.by_port(port).bytes());
            }
            let two_at_once = at_once(cpus, ROUNDS, |_, round| {
                let frame = request.by_port(FIRST_PORT + round);
                let run = world.run(hook, &frame.bytes());
                (run.verdict != DROP(hook)).then_some(run.frame)
            });
            let [one, other] = two_at_once;
            for pair in one.iter().zip(&other) {
                // One that comes while the other one removes what is over is dropped, as a copy of that.
                let is_one_flow = match pair {
                    (Some(one), Some(other)) => one == other,
                    (one, other) => one.is_some() || other.is_some(),
                };
                assert!(is_one_flow, "{hook} {family:?}: {pair:02x?}");
            }
            let dropped = one.iter().chain(&other).filter(|sent| sent.is_none());
            assert!(
                dropped.count() < usize::from(ROUNDS) / 2,
                "{hook} {family:?}"
            );
        }
    }
}

/// Opens as many flows as there are rounds, each by the same frame on two CPUs. Returns what either
/// sent on.
fn open_at_once(cpus: [usize; 2], world: &World, hook: &str, request: Frame) -> Vec<Vec<u8>> {
    let [one, other] = at_once(cpus, ROUNDS, |_, round| {
        let frame = request.by_port(FIRST_PORT + round);
        world.run(hook, &frame.bytes()).frame
    });
    let apart = one.iter().zip(&other).filter(|(one, other)| one != other);
    let apart = apart.count();
    assert_eq!(
        (
            apart,
            world.counted(Counter::FlowsOpened),
            world.flow_entries()
        ),
        (0, u64::from(ROUNDS), 2 * usize::from(ROUNDS)),
        "{hook} {request:?}: flows at two backends, flows opened, entries"
    );
    one
}

#[test]
fn two_cpus_that_open_flows_in_a_full_map_leave_both_directions_of_each() {
    const FLOWS: u16 = 2048;
    let Some(cpus) = two_cpus() else { return };
    let family = Family::V4;
    let mut worlds = Vec::new();
    for hook in HOOKS {
        for transport in [Transport::Tcp, Transport::Udp] {
            let world = World::of_few_flows(u32::from(FLOWS));
            let request = full::request(family, transport);
            for port in FIRST_PORT..FIRST_PORT + FLOWS {
                assert!(full::opens(&world, hook, request.by_port(port), family));
            }
            worlds.push((world, hook, transport));
        }
    }
    thread::sleep(OVER);
    for (world, hook, transport) in worlds {
        let request = full::request(family, transport);
        // Half of the room that there can be for each CPU.
        let second = FIRST_PORT + FLOWS;
        let frame = |which: usize, round: u16| {
            let port = second + 2 * round + u16::from(which == 1);
            request.by_port(port)
        };
        let verdicts = at_once(cpus, FLOWS / 2, |which, round| {
            let frame = frame(which, round);
            world.run(hook, &frame.bytes()).verdict
        });
        let mut dropped = 0;
        for (which, verdicts) in verdicts.iter().enumerate() {
            for (round, verdict) in (0..).zip(verdicts) {
                if *verdict == DROP(hook) {
                    dropped += 1;
                    continue;
                }
                assert!(full::goes_on(&world, hook, frame(which, round), family));
            }
        }
        // The port of a flow that had to make room may be taken meanwhile.
        let reasons = [Counter::DropFlowsFull, Counter::DropNoPort];
        let counted: u64 = reasons.map(|reason| world.counted(reason)).iter().sum();
        assert_eq!(counted, dropped);
        let (entries, flows) = (world.flow_entries(), world.client_entries());
        assert_eq!(
            entries,
            2 * flows,
            "{hook} {transport:?}: one-sided entries"
        );
        // Another CPU may take the room twice.
        assert!(
            dropped < u64::from(FLOWS) / 20,
            "{hook} {transport:?}: {dropped} dropped"
        );
    }
}
