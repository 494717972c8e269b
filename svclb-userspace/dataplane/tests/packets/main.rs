//! The packet programs, frame by frame: what comes in, the verdict, what goes out, what is
//! counted. Each case runs for IPv4 and IPv6 and for TCP and UDP, in XDP and in tc alike.
//!
//! Frames never are on a wire: `BPF_PROG_TEST_RUN` hands them to the program as if they came in
//! by the loopback device. So no case is about a next hop; those are in the labs.
#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails, so that the line shows"
)]

mod elsewhere;
mod fragments;
mod frames;
mod full;
mod fuzz;
mod kernel_flows;
mod malformed;
mod masquerade;
mod races;
mod world;

use std::ops::Range;
use std::thread::sleep;
use std::time::Duration;

use frames::{Family, Frame, Transport, family_and_transport};
use svclb_common::Counter;
use svclb_core::conntrack::Timeouts;
use world::{DROP, EGRESS, HOOKS, PASS, World};

#[test]
fn a_packet_of_no_service_is_left_as_it_is() {
    let world = World::new();
    family_and_transport(|family, transport| {
        let frame = Frame::new(family, transport).to(family.node(), 9);
        for hook in HOOKS {
            let run = world.run(hook, &frame.bytes());
            assert_eq!((run.verdict, run.frame), (PASS(hook), frame.bytes()));
        }
    });
    assert_eq!(world.counted(Counter::Translated), 0);
}

#[test]
fn the_first_packet_of_a_client_goes_to_the_local_backend_from_the_clients_own_address() {
    family_and_transport(|family, transport| {
        for hook in HOOKS {
            let world = World::new();
            let frame = Frame::new(family, transport).to(family.node(), world::NODE_PORT);
            let run = world.run(hook, &frame.bytes());
            let expected = frame.to(family.backend(), world::TARGET);
            let expected = expected.by_port_of(&run.frame);
            assert_eq!(run.verdict, PASS(hook));
            assert_eq!(
                run.frame,
                expected.bytes(),
                "{hook} {family:?} {transport:?}"
            );
            assert_eq!(world.counted(Counter::FlowsOpened), 1);
            assert_eq!(world.counted(Counter::Translated), 1);
        }
    });
}

#[test]
fn the_backends_reply_leaves_under_the_services_address() {
    family_and_transport(|family, transport| {
        let world = World::new();
        let request = Frame::new(family, transport).to(family.node(), world::NODE_PORT);
        let sent = world.run(HOOKS[0], &request.bytes()).frame;
        let inside = request.to(family.backend(), world::TARGET);
        let reply = inside.by_port_of(&sent).reply();
        let run = world.run(EGRESS, &reply.bytes());
        assert_eq!(run.verdict, PASS(EGRESS));
        assert_eq!(
            run.frame,
            request.reply().bytes(),
            "{family:?} {transport:?}"
        );
        // The pod's own packets to other addresses are left alone.
        let other = reply.to(family.client(), 1);
        assert_eq!(world.run(EGRESS, &other.bytes()).frame, other.bytes());
    });
}

#[test]
fn later_packets_go_where_the_first_went() {
    family_and_transport(|family, transport| {
        let world = World::new();
        let first = Frame::new(family, transport).to(family.node(), world::NODE_PORT);
        let later = first.established();
        for hook in HOOKS {
            let sent = world.run(hook, &first.bytes()).frame;
            let run = world.run(hook, &later.bytes());
            let expected = later.to(family.backend(), world::TARGET);
            assert_eq!(run.frame, expected.by_port_of(&sent).bytes());
        }
        assert_eq!(world.counted(Counter::FlowsOpened), 1);
    });
}

#[test]
fn a_connection_without_a_flow_is_left_to_the_kernel_at_a_node_port() {
    for family in [Family::V4, Family::V6] {
        let world = World::new();
        let frame = Frame::new(family, Transport::Tcp)
            .to(family.node(), world::NODE_PORT)
            .established();
        for hook in HOOKS {
            let run = world.run(hook, &frame.bytes());
            assert_eq!((run.verdict, run.frame), (PASS(hook), frame.bytes()));
        }
    }
}

#[test]
fn with_endpoints_elsewhere_only_a_local_policy_drops() {
    family_and_transport(|family, transport| {
        let world = World::with_local_policy_and_no_endpoint_here();
        let frame = Frame::new(family, transport).to(family.node(), world::NODE_PORT);
        for hook in HOOKS {
            assert_eq!(world.run(hook, &frame.bytes()).verdict, DROP(hook));
        }
        assert_eq!(world.counted(Counter::DropNoLocalEndpoint), 3);
    });
}

#[test]
fn a_frame_for_another_machine_is_passed_over() {
    family_and_transport(|family, transport| {
        let world = World::new();
        let mut bytes = Frame::new(family, transport)
            .to(family.node(), world::NODE_PORT)
            .bytes();
        bytes[5] = 0x77;
        for hook in HOOKS {
            let run = world.run(hook, &bytes);
            assert_eq!((run.verdict, run.frame), (PASS(hook), bytes.clone()));
        }
    });
}

#[test]
fn a_mapped_address_on_the_wire_is_not_taken_for_ipv4() {
    let world = World::new();
    let frame = Frame::new(Family::V6, Transport::Udp)
        .of_client("::ffff:198.51.100.9".parse().unwrap())
        .to("::ffff:192.0.2.7".parse().unwrap(), world::NODE_PORT);
    for hook in HOOKS {
        assert_eq!(world.run(hook, &frame.bytes()).frame, frame.bytes());
    }
}

#[test]
fn a_loopback_source_is_the_kernels_to_drop() {
    let world = World::new();
    for (family, source) in [(Family::V4, "127.0.0.1"), (Family::V6, "::1")] {
        let frame = Frame::new(family, Transport::Udp)
            .of_client(source.parse().unwrap())
            .to(family.node(), world::NODE_PORT);
        for hook in HOOKS {
            assert_eq!(world.run(hook, &frame.bytes()).frame, frame.bytes());
        }
    }
}

#[test]
fn a_client_that_reaches_one_backend_by_two_addresses_from_one_port_gets_two_flows() {
    for family in [Family::V4, Family::V6] {
        let world = World::new();
        let one = Frame::new(family, Transport::Udp).to(family.node(), world::NODE_PORT);
        let cluster_ip = match family {
            Family::V4 => "10.96.0.10",
            Family::V6 => "fd00::10",
        };
        let other = one.to(cluster_ip.parse().unwrap(), 80);
        let sent = world.run(HOOKS[1], &one.bytes()).frame;
        let first = one.to(family.backend(), world::TARGET).by_port_of(&sent);
        assert_eq!(sent, first.bytes());
        // From the port that the first one was given.
        let again = other.by_port_of(&sent);
        is_given_one_of(&world, family, again, 15_512..30_000);
        let second = world.run(HOOKS[1], &again.bytes()).frame;
        assert_ne!(second, sent);
    }
}

#[test]
fn a_client_is_given_a_port_that_nobody_takes_of_himself() {
    family_and_transport(|family, transport| {
        let world = World::new();
        let first = Frame::new(family, transport).to(family.node(), world::NODE_PORT);
        // Those of nodes' flows among them.
        for port in [1024, 29_999, 40_000, 50_000, 50_999, u16::MAX] {
            is_given_one_of(&world, family, first.by_port(port), 15_512..30_000);
        }
        for port in [1, 1023] {
            is_given_one_of(&world, family, first.by_port(port), 320..512);
        }
    });
}

/// Whether the backend gets it from the client's address, by one of these ports, and its reply comes back.
fn is_given_one_of(world: &World, family: Family, request: Frame, ports: Range<u16>) {
    let inside = request.to(family.backend(), world::TARGET);
    let sent = world.run(HOOKS[1], &request.bytes()).frame;
    let seen = inside.by_port_of(&sent);
    assert_eq!(sent, seen.bytes());
    let is_given = ports.into_iter().any(|port| inside.by_port(port) == seen);
    assert!(is_given, "{seen:?}");
    let back = world.run(EGRESS, &seen.reply().bytes()).frame;
    assert_eq!(back, request.reply().bytes());
}

#[test]
fn a_client_that_uses_up_the_ports_that_are_given_keeps_its_own() {
    // More than twice as many as there are.
    let world = World::of_few_flows(36_000);
    let first = Frame::new(Family::V4, Transport::Tcp).to(Family::V4.node(), world::NODE_PORT);
    let mut kept = 0;
    for port in 30_000..=u16::MAX {
        let frame = first.by_port(port);
        let run = world.run(HOOKS[2], &frame.bytes());
        assert_eq!(run.verdict, PASS(HOOKS[2]));
        kept += u32::from(run.frame == frame.to(Family::V4.backend(), world::TARGET).bytes());
    }
    assert!(kept > 20_000, "{kept}");
}

#[test]
fn only_clients_of_the_source_ranges_reach_a_load_balancers_address() {
    let ranges = [
        "198.51.100.8/30",
        "192.0.2.0/24",
        "2001:db8::8/126",
        "fd00::/8",
    ];
    family_and_transport(|family, transport| {
        let stranger = match family {
            Family::V4 => "198.51.100.12",
            Family::V6 => "2001:db8::c",
        };
        for hook in HOOKS {
            let world = World::limited_to(&ranges);
            let known = Frame::new(family, transport).to(family.balancer(), 80);
            is_served(&world, hook, family, known);
            let unknown = known.of_client(stranger.parse().unwrap());
            assert_eq!(world.run(hook, &unknown.bytes()).verdict, DROP(hook));
            assert_eq!(world.counted(Counter::DropSourceRange), 1);
            // The node's own ports are for everybody, as with kube-proxy.
            let at_node = unknown.to(family.node(), world::NODE_PORT);
            is_served(&world, hook, family, at_node);
        }
    });
}

/// Whether the backend gets it, by whichever port. Returns it as the backend does.
fn is_served(world: &World, hook: &str, family: Family, frame: Frame) -> Frame {
    let sent = world.run(hook, &frame.bytes()).frame;
    let expected = frame.to(family.backend(), world::TARGET);
    let expected = expected.by_port_of(&sent);
    assert_eq!(sent, expected.bytes(), "{hook} {family:?}");
    expected
}

#[test]
fn ranges_of_one_family_limit_no_client_of_the_other() {
    for (ranges, family) in [("fd00::/8", Family::V4), ("192.0.2.0/24", Family::V6)] {
        let world = World::limited_to(&[ranges]);
        let frame = Frame::new(family, Transport::Tcp).to(family.balancer(), 80);
        for hook in HOOKS {
            is_served(&world, hook, family, frame);
        }
    }
}

#[test]
fn a_flow_goes_on_after_its_service_and_two_starts_and_no_other_client_comes_in() {
    family_and_transport(|family, transport| {
        let world = World::new();
        let first = Frame::new(family, transport).to(family.node(), world::NODE_PORT);
        let sent = world.run(HOOKS[0], &first.bytes()).frame;
        world.forget_services();
        let later = first.established();
        let expected = later.to(family.backend(), world::TARGET);
        let expected = expected.by_port_of(&sent);
        let other = first.by_port(2);
        for hook in HOOKS {
            assert_eq!(world.run(hook, &later.bytes()).frame, expected.bytes());
            assert_eq!(world.run(hook, &other.bytes()).frame, other.bytes());
        }
        let reply = expected.reply();
        let shown = world.run(EGRESS, &reply.bytes()).frame;
        assert_eq!(shown, later.reply().bytes());
    });
}

#[test]
fn a_client_that_ended_a_connection_opens_another_one_from_the_same_port() {
    for family in [Family::V4, Family::V6] {
        let world = World::new();
        let first = Frame::new(family, Transport::Tcp).to(family.node(), world::NODE_PORT);
        for _ in 0..3 {
            for hook in HOOKS {
                let expected = is_served(&world, hook, family, first);
                world.run(hook, &first.ending().bytes());
                world.run(EGRESS, &expected.reply().ending().bytes());
            }
        }
        assert_eq!(world.counted(Counter::FlowsOpened), 9);
    }
}

/// One that only its client ended, while its backend lives, is opened anew within its flow.
#[test]
fn a_connection_opened_anew_is_remembered_for_as_long_as_any_other() {
    let timeouts = Timeouts {
        tcp_half_closed: Duration::ZERO,
        tcp_closed: Duration::ZERO,
        ..Timeouts::default()
    };
    for family in [Family::V4, Family::V6] {
        for hook in HOOKS {
            for (is_accepted, removed) in [(true, 0), (false, 1)] {
                let world = World::new();
                let first = Frame::new(family, Transport::Tcp).to(family.node(), world::NODE_PORT);
                let reply = is_served(&world, hook, family, first).reply();
                world.run(EGRESS, &reply.accepting().bytes());
                world.run(hook, &first.established().bytes());
                world.run(hook, &first.ending().bytes());
                is_served(&world, hook, family, first);
                if is_accepted {
                    world.run(EGRESS, &reply.accepting().bytes());
                }
                assert_eq!(world.sweep(&timeouts), removed, "{hook} {family:?}");
            }
        }
    }
}

#[test]
fn a_connection_opened_anew_leaves_no_entry_of_the_one_before() {
    for family in [Family::V4, Family::V6] {
        for hook in HOOKS {
            let world = World::with_two_backends();
            let first = Frame::new(family, Transport::Tcp).to(family.node(), world::NODE_PORT);
            for _ in 0..32 {
                world.run(hook, &first.bytes());
                assert_eq!(world.flow_entries(), 2, "{hook} {family:?}");
                world.run(hook, &first.reset().bytes());
            }
            assert_eq!(world.counted(Counter::FlowsOpened), 32);
        }
    }
}

#[test]
fn where_no_more_flows_can_be_remembered_new_ones_are_dropped_and_known_ones_go_on() {
    family_and_transport(|family, transport| {
        for hook in HOOKS {
            let world = World::of_few_flows(3);
            let first = Frame::new(family, transport).to(family.node(), world::NODE_PORT);
            for port in 1..=3 {
                assert_eq!(
                    world.run(hook, &first.by_port(port).bytes()).verdict,
                    PASS(hook)
                );
            }
            for port in 4..=6 {
                assert_eq!(
                    world.run(hook, &first.by_port(port).bytes()).verdict,
                    DROP(hook)
                );
            }
            assert_eq!(world.counted(Counter::DropFlowsFull), 3);
            for port in 1..=3 {
                let known = first.by_port(port).established();
                is_served(&world, hook, family, known);
            }
        }
    });
}

#[test]
fn flows_without_a_reply_are_forgotten_sooner_where_there_is_little_room() {
    // A full map leaves a twelfth of it.
    let timeout = Duration::from_secs(24);
    let timeouts = Timeouts {
        tcp_opening: timeout,
        udp: timeout,
        ..Timeouts::default()
    };
    family_and_transport(|family, transport| {
        let hook = HOOKS[0];
        let first = Frame::new(family, transport).to(family.node(), world::NODE_PORT);
        let opened = |world: &World| {
            for port in 1..=4 {
                world.run(hook, &first.by_port(port).bytes());
            }
            sleep(timeout / 10);
        };
        let roomy = World::of_few_flows(8);
        opened(&roomy);
        assert_eq!(roomy.sweep(&timeouts), 0);
        let full = World::of_few_flows(4);
        opened(&full);
        assert_eq!(full.sweep(&timeouts), 4);
        assert_eq!(
            full.run(hook, &first.by_port(5).bytes()).verdict,
            PASS(hook)
        );
    });
}
