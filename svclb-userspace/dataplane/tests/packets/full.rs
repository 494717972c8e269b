//! A full map of flows, without an agent that sweeps it.

use std::thread::sleep;
use std::time::Duration;

use svclb_common::Counter;

use super::frames::{Family, Frame, Transport, family_and_transport};
use super::world::{self, DROP, EGRESS, HOOKS, PASS, World};

/// Longer than a full map remembers a flow without replies: a twelfth of 30 seconds.
pub(crate) const OVER: Duration = Duration::from_secs(3);

pub(crate) fn request(family: Family, transport: Transport) -> Frame {
    Frame::new(family, transport).to(family.node(), world::NODE_PORT)
}

/// Opens a flow.
pub(crate) fn opens(world: &World, hook: &str, frame: Frame, family: Family) -> bool {
    let run = world.run(hook, &frame.bytes());
    let expected = frame.to(family.backend(), world::TARGET);
    let expected = expected.by_port_of(&run.frame).bytes();
    assert!(run.verdict == DROP(hook) || (run.verdict, &run.frame) == (PASS(hook), &expected));
    run.verdict == PASS(hook)
}

/// Packets of an established connection, both ways.
pub(crate) fn goes_on(world: &World, hook: &str, frame: Frame, family: Family) -> bool {
    let later = frame.established();
    let left = world.run(hook, &later.bytes()).frame;
    let sent = later.to(family.backend(), world::TARGET).by_port_of(&left);
    let there = left == sent.bytes();
    let back = world.run(EGRESS, &sent.reply().bytes()).frame == later.reply().bytes();
    there && back
}

#[test]
fn where_the_map_is_full_a_new_flow_takes_the_place_of_one_that_is_over() {
    const FLOWS: u16 = 8;
    let mut worlds = Vec::new();
    family_and_transport(|family, transport| {
        for hook in HOOKS {
            let world = World::of_few_flows(u32::from(FLOWS));
            let first = request(family, transport);
            for port in 1..=FLOWS {
                assert!(opens(&world, hook, first.by_port(port), family));
            }
            worlds.push((world, hook, family, transport));
        }
    });
    sleep(OVER);
    for (world, hook, family, transport) in worlds {
        let first = request(family, transport);
        for port in 100..100 + FLOWS {
            let served = opens(&world, hook, first.by_port(port), family);
            assert!(served, "{hook} {family:?} {transport:?}: flow {port}");
        }
        // What was replaced is gone in both directions, and what took its place has both.
        for port in 1..=FLOWS {
            let reply = first
                .by_port(port)
                .to(family.backend(), world::TARGET)
                .reply();
            assert_eq!(world.run(EGRESS, &reply.bytes()).frame, reply.bytes());
        }
        for port in 100..100 + FLOWS {
            assert!(goes_on(&world, hook, first.by_port(port), family));
        }
        assert_eq!(world.counted(Counter::DropFlowsFull), 0);
    }
}

#[test]
fn where_the_map_is_full_no_flow_that_goes_on_is_replaced() {
    const LIVE: u16 = 6;
    for hook in HOOKS {
        let family = Family::V4;
        let first = request(family, Transport::Tcp);
        let world = World::of_few_flows(u32::from(LIVE) + 1);
        for port in 1..=LIVE {
            assert!(opens(&world, hook, first.by_port(port), family));
            assert!(goes_on(&world, hook, first.by_port(port), family));
        }
        assert!(opens(&world, hook, first.by_port(100), family));
        sleep(OVER);
        // One was over, and one is served.
        assert!(opens(&world, hook, first.by_port(101), family));
        for port in 102..110 {
            assert!(!opens(&world, hook, first.by_port(port), family));
        }
        assert_eq!(world.counted(Counter::DropFlowsFull), 8);
        for port in (1..=LIVE).chain([101]) {
            assert!(goes_on(&world, hook, first.by_port(port), family));
        }
    }
}
