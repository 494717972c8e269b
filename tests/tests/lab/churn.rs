//! Endpoints that change many times a second, and agents that are killed meanwhile. `cargo xtask
//! soak` is the same for longer.

use std::time::Duration;

use svclb_tests::churn::{Heard, Options, World};

use super::scene::turn;

fn world(clients_yield: bool) -> World {
    World::new(Options {
        clients_yield,
        // An emulated kernel's agent is behind by more than a real one's.
        grace: Duration::from_secs(3),
        ..Options::default()
    })
    .unwrap()
}

/// Nothing failed, nobody was asked who was no endpoint, and enough was asked.
fn nothing_failed(world: &World, mut heard: Heard, enough: u64) {
    world.stop_loads(&mut heard).unwrap();
    assert!(heard.is_clean(), "{heard:?}");
    assert!(heard.answered > enough, "{heard:?}");
}

/// How many questions are enough.
const ENOUGH: u64 = 1_000;

#[test]
fn while_endpoints_change_a_hundred_times_a_second_no_connect_fails() {
    let _turn = turn();
    let mut world = world(false);
    world.start_loads().unwrap();
    let mut heard = Heard::default();
    // Once is enough, but for the slowest of emulated kernels.
    for _ in 0..4 {
        world.churn_for(Duration::from_secs(12)).unwrap();
        world.heard(&mut heard).unwrap();
        if heard.answered > ENOUGH {
            break;
        }
    }
    nothing_failed(&world, heard, ENOUGH);
    // The servers of endpoints that were gone for the grace were closed.
    assert!(world.done().closed > 10, "{:?}", world.done());
    world.settles_in(Duration::from_secs(20)).unwrap();
}

#[test]
fn an_agent_that_is_killed_at_any_moment_leaves_what_serves_and_finds_it_again() {
    let _turn = turn();
    let mut world = world(true);
    let patients = world.patients().unwrap();
    let held = patients.connect().unwrap();
    world.start_loads().unwrap();
    for round in 0..6 {
        world.crash(round % 2, Duration::from_millis(500)).unwrap();
        world.settles_in(Duration::from_secs(20)).unwrap();
        held.stand().unwrap();
    }
    nothing_failed(&world, Heard::default(), ENOUGH / 2);
}
