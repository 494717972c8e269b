//! Endpoints that change many times a second, and agents that are killed meanwhile. `cargo xtask
//! soak` is the same for longer.

use std::time::Duration;

use svclb_tests::churn::{Options, Results, World};
use svclb_tests::{SOON, wait_until};

use super::scene::alone;

fn world(clients_yield: bool) -> World {
    let options = Options {
        clients_yield,
        ..Options::default()
    };
    let grace = options.grace;
    let mut world = World::new(options).unwrap();
    // Where agents start slowly, agents and clients are late.
    world.set_grace(grace.max(8 * world.slowest_start()));
    world
}

/// Nothing failed, no backend was reached after its endpoint was gone, and enough was asked.
fn nothing_failed(world: &World, mut results: Results, enough: u64) {
    world.stop_loads(&mut results).unwrap();
    assert!(results.is_clean(), "{results:?}");
    assert!(results.answered > enough, "{results:?}");
}

/// How many questions are enough.
const ENOUGH: u64 = 1_000;
/// How many servers have to be closed at least.
const CLOSED: u64 = 10;

#[test]
fn while_endpoints_change_a_hundred_times_a_second_no_connect_fails() {
    let _turn = alone();
    let mut world = world(false);
    world.start_loads().unwrap();
    let mut results = Results::default();
    // Once is enough, but for the slowest of emulated kernels.
    for _ in 0..10 {
        world.churn_for(Duration::from_secs(12)).unwrap();
        world.take_results(&mut results).unwrap();
        if results.answered > ENOUGH && world.done().closed > CLOSED {
            break;
        }
    }
    nothing_failed(&world, results, ENOUGH);
    // The servers of endpoints that were gone for the grace were closed.
    assert!(world.done().closed > CLOSED, "{:?}", world.done());
    world.settles_in(SOON).unwrap();
}

#[test]
fn an_agent_that_is_killed_at_any_moment_leaves_what_serves_and_finds_it_again() {
    let _turn = alone();
    let mut world = world(true);
    let held_clients = world.held_clients().unwrap();
    let held = held_clients.connect().unwrap();
    world.start_loads().unwrap();
    for round in 0..6 {
        world.crash(round % 2, Duration::from_millis(500)).unwrap();
        world.settles_in(SOON).unwrap();
        held.stand().unwrap();
    }
    // Clients that yield get what six emulated starts leave them.
    let mut results = Results::default();
    let enough = ENOUGH / 2;
    wait_until(3 * SOON, || {
        world.take_results(&mut results).unwrap();
        results.answered > enough
    });
    nothing_failed(&world, results, enough);
}
