//! Packets of one flow on two CPUs at once.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::frames::{Family, Frame, family_and_transport};
use super::world::{self, EGRESS, HOOKS, World};

/// Before only what a run had entered was taken back, more than half of them lost their replies.
const ROUNDS: u16 = 1000;
const FIRST_PORT: u16 = 1024;

/// Runs the calling thread on one CPU alone.
fn pin(cpu: usize) {
    let mut one = CpuSet::new();
    one.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &one).unwrap();
}

#[test]
fn a_flow_that_two_cpus_open_at_once_goes_to_one_backend_and_its_replies_are_translated() {
    family_and_transport(|family, transport| {
        let world = World::new();
        let request = Frame::new(family, transport).to(family.node(), world::NODE_PORT);
        for hook in HOOKS {
            open_at_once(&world, hook, family, request);
        }
    });
}

fn open_at_once(world: &World, hook: &str, family: Family, request: Frame) {
    let ports = match hook {
        hook if hook == HOOKS[0] => FIRST_PORT..FIRST_PORT + ROUNDS,
        _ => FIRST_PORT + ROUNDS..FIRST_PORT + 2 * ROUNDS,
    };
    let arrived = AtomicU32::new(0);
    let one_cpu = &|cpu| {
        pin(cpu);
        let mut lost = 0;
        for (round, port) in (1..).zip(ports.clone()) {
            let frame = request.by_port(port);
            let (bytes, expected) = (frame.bytes(), frame.to(family.backend(), world::TARGET));
            arrived.fetch_add(1, Ordering::SeqCst);
            while arrived.load(Ordering::SeqCst) < 2 * round {
                spin_loop();
            }
            let run = world.try_run(hook, &bytes);
            lost += u32::from(run.is_ok_and(|run| run.frame != expected.bytes()));
        }
        lost
    };
    let lost: u32 = thread::scope(|scope| {
        let threads = [0, 1].map(|cpu| scope.spawn(move || one_cpu(cpu)));
        threads.map(|thread| thread.join().unwrap()).iter().sum()
    });
    let without_replies = ports.clone().filter(|port| {
        let frame = request.by_port(*port);
        let reply = frame.to(family.backend(), world::TARGET).reply();
        world.run(EGRESS, &reply.bytes()).frame != frame.reply().bytes()
    });
    assert_eq!(
        (lost, without_replies.count()),
        (0, 0),
        "{hook} {family:?}: packets not translated, flows without replies"
    );
}
