//! The kernel forwards: a packet is given its backend as it comes in, and an address of this node as it
//! leaves; its reply the client's address as it comes in, and the Service's as it leaves.
//!
//! Frames come in and leave by the loopback device here, so every flow leaves by the device that it came
//! in by.

use svclb_common::{Counter, DeviceFlags};
use svclb_core::conntrack::Timeouts;

use super::frames::{Family, Frame, Problem, Transport, family_and_transport};
use super::world::{self, EGRESS, NODE_PORT, PASS, TARGET, World};

const INGRESS: &str = "svclb_ingress";

/// The frame that a program passes on.
fn passed(world: &World, program: &str, bytes: &[u8]) -> Vec<u8> {
    let run = world.run(program, bytes);
    assert_eq!(run.verdict, PASS(program), "{program}");
    run.frame
}

/// What a frame is to become, from whichever port of the node.
fn from_node(frame: Frame, family: Family, bytes: &[u8]) -> Frame {
    let from = |port| frame.of_client(family.node()).by_port(port);
    let mut ports = 50_000..51_000;
    let port = ports.find(|port| from(*port).bytes() == bytes);
    from(port.unwrap_or_else(|| panic!("{bytes:02x?} is not from the node")))
}

/// A client's first packet comes in and leaves. Returns it as the client sent it, as the kernel has it, and
/// as it left.
fn opened(world: &World, family: Family, transport: Transport) -> (Frame, Frame, Frame) {
    let request = Frame::new(family, transport).to(family.node(), NODE_PORT);
    let inside = comes_in(world, family, request);
    let left = passed(world, EGRESS, &inside.bytes());
    (request, inside, from_node(inside, family, &left))
}

/// What the kernel has of a client's packet.
fn comes_in(world: &World, family: Family, request: Frame) -> Frame {
    let sent = passed(world, INGRESS, &request.bytes());
    let inside = request.to(family.backend(), TARGET).by_port_of(&sent);
    assert_eq!(sent, inside.bytes());
    inside
}

#[test]
fn a_packet_leaves_from_the_node_and_its_reply_reaches_the_client_from_the_service() {
    family_and_transport(|family, transport| {
        let world = World::with_addresses_on_the_device(DeviceFlags::NONE);
        let (request, inside, left) = opened(&world, family, transport);
        // The kernel's conntrack sees client and backend, both ways.
        for _ in 0..2 {
            let back = passed(&world, INGRESS, &left.reply().bytes());
            assert_eq!(back, inside.reply().bytes());
            let seen = passed(&world, EGRESS, &back);
            assert_eq!(seen, request.reply().bytes());
            let later = passed(&world, INGRESS, &request.established().bytes());
            let later = passed(&world, EGRESS, &later);
            assert_eq!(later, left.established().bytes());
        }
        assert_eq!(world.counted(Counter::FlowsOpened), 1);
        assert_eq!(world.counted(Counter::FlowsMasqueraded), 1);
        assert_eq!(world.flow_entries(), 4);
        let at_once = Timeouts {
            tcp_established: std::time::Duration::ZERO,
            tcp_opening: std::time::Duration::ZERO,
            udp: std::time::Duration::ZERO,
            udp_stream: std::time::Duration::ZERO,
            ..Timeouts::default()
        };
        world.sweep(&at_once);
        assert_eq!(world.flow_entries(), 0);
    });
}

#[test]
fn a_masqueraded_source_that_another_rule_already_gave_is_left_alone_and_the_reply_is_the_services()
{
    family_and_transport(|family, transport| {
        let world = World::with_addresses_on_the_device(DeviceFlags::NONE);
        let request = Frame::new(family, transport).to(family.node(), NODE_PORT);
        let inside = comes_in(&world, family, request);
        // As a network plugin's rule does, between the hooks.
        let masqueraded = inside.of_client(family.node()).by_port(33_333);
        let left = passed(&world, EGRESS, &masqueraded.bytes());
        assert_eq!(left, masqueraded.bytes());
        let back = passed(&world, INGRESS, &masqueraded.reply().bytes());
        assert_eq!(back, masqueraded.reply().bytes());
        // Netfilter gave the client's address back.
        let seen = passed(&world, EGRESS, &inside.reply().bytes());
        assert_eq!(seen, request.reply().bytes());
    });
}

#[test]
fn an_error_about_a_packet_that_left_reaches_the_client_about_its_own_packet() {
    family_and_transport(|family, transport| {
        let world = World::with_addresses_on_the_device(DeviceFlags::NONE);
        let (request, inside, left) = opened(&world, family, transport);
        let router = family.router();
        let error = |about: Frame| about.error(router, Problem::TooBig(1280), 1024);
        let back = passed(&world, INGRESS, &error(left));
        same_but_carried_checksum(&back, &error(inside));
        let seen = passed(&world, EGRESS, &back);
        same_but_carried_checksum(&seen, &error(request));
        // And one about a reply reaches the backend.
        let reply = error(request.reply());
        let inside = passed(&world, INGRESS, &reply);
        let left_error = passed(&world, EGRESS, &inside);
        let by_node = left
            .reply()
            .error(family.node(), Problem::TooBig(1280), 1024);
        same_but_carried_checksum(&left_error, &by_node);
    });
}

/// Compares two errors. The checksum of the carried packet's transport is not corrected, and neither is
/// what of the message's own depends on it.
fn same_but_carried_checksum(one: &[u8], other: &[u8]) {
    assert_eq!(one.len(), other.len());
    let differing = one.iter().zip(other).filter(|(one, other)| one != other);
    assert!(differing.count() <= 4, "{one:02x?}\n{other:02x?}");
}

#[test]
fn a_stray_reset_or_end_does_not_end_a_connection_and_one_that_is_accepted_does() {
    for family in [Family::V4, Family::V6] {
        for stray in [true, false] {
            let world = World::with_addresses_on_the_device(DeviceFlags::NONE);
            let (request, _, left) = opened(&world, family, Transport::Tcp);
            let back = passed(&world, INGRESS, &left.reply().bytes());
            passed(&world, EGRESS, &back);
            let by = if stray { 1 << 30 } else { 0 };
            for last in [request.reset().ahead(by), request.ending().ahead(by)] {
                let inside = passed(&world, INGRESS, &last.bytes());
                passed(&world, EGRESS, &inside);
            }
            let soon = Timeouts {
                tcp_reset: std::time::Duration::ZERO,
                tcp_half_closed: std::time::Duration::ZERO,
                ..Timeouts::default()
            };
            world.sweep(&soon);
            let left_over = if stray { 4 } else { 0 };
            assert_eq!(world.flow_entries(), left_over, "stray: {stray}");
        }
    }
}

#[test]
fn the_replies_to_a_flow_of_the_node_itself_are_left_alone() {
    for family in [Family::V4, Family::V6] {
        let world = World::with_addresses_on_the_device(DeviceFlags::NONE);
        // A socket of the host, or a pod that is masqueraded, sends from the NodePort.
        let peer = (family.client(), 53);
        let question = Frame::new(family, Transport::Udp)
            .of_client(family.node())
            .by_port(NODE_PORT)
            .to(peer.0, peer.1);
        for _ in 0..2 {
            let left = passed(&world, EGRESS, &question.bytes());
            assert_eq!(left, question.bytes());
            let answer = question.reply();
            let back = passed(&world, INGRESS, &answer.bytes());
            assert_eq!(back, answer.bytes());
        }
        assert_eq!(world.counted(Counter::FlowsOwn), 1);
        assert_eq!(world.counted(Counter::FlowsOpened), 0);
        // Another client of the port is served.
        opened(&world, family, Transport::Udp);
    }
}

#[test]
fn a_flow_of_the_node_itself_whose_replies_would_be_those_of_another_one_is_given_another_port() {
    family_and_transport(|family, transport| {
        let world = World::with_addresses_on_the_device(DeviceFlags::NONE);
        let (_, inside, left) = opened(&world, family, transport);
        // Masquerading gave a pod the port that the flow has, and it goes to the same backend.
        let moved = passed(&world, EGRESS, &left.bytes());
        let moved = from_node(left, family, &moved);
        assert_ne!(moved.bytes(), left.bytes());
        let back = passed(&world, INGRESS, &moved.reply().bytes());
        assert_eq!(back, left.reply().bytes());
        // The client's flow goes on.
        let back = passed(&world, INGRESS, &left.reply().bytes());
        assert_eq!(back, inside.reply().bytes());
    });
}

#[test]
fn a_pod_keeps_its_address_unless_its_backend_is_behind_the_same_device() {
    family_and_transport(|family, transport| {
        let world = World::with_addresses_on_the_device(DeviceFlags::PODS);
        // The loopback device is both.
        let (_, _, left) = opened(&world, family, transport);
        let back = passed(&world, INGRESS, &left.reply().bytes());
        assert_ne!(back, left.reply().bytes());
        assert_eq!(world.counted(Counter::FlowsMasqueraded), 1);
    });
}

#[test]
fn a_connection_whose_backend_is_gone_is_given_another_one_when_it_is_opened_again() {
    for family in [Family::V4, Family::V6] {
        let world = World::with_two_backends();
        let request = Frame::new(family, Transport::Tcp).to(family.node(), world::NODE_PORT);
        let first = passed(&world, INGRESS, &request.bytes());
        // While its backend is known it stays, however often its client opens it.
        for _ in 0..8 {
            assert_eq!(passed(&world, INGRESS, &request.bytes()), first);
        }
        world.forget_backends();
        let is_moved = (0..64).any(|_| passed(&world, INGRESS, &request.bytes()) != first);
        assert!(is_moved, "it stays with a backend that is gone");
        assert_eq!(world.flow_entries(), 2);
    }
}

#[test]
fn a_connection_that_both_ended_makes_room_where_no_source_port_is_free() {
    makes_room(Transport::Tcp, 2100, |world, left, request| {
        passed(world, INGRESS, &left.reply().ending().bytes());
        let last = passed(world, INGRESS, &request.ending().bytes());
        passed(world, EGRESS, &last);
    });
}

#[test]
fn a_connection_that_was_not_opened_any_further_makes_room_where_no_source_port_is_free() {
    makes_room(Transport::Tcp, 5100, |world, left, _| {
        passed(world, INGRESS, &left.reply().accepting().bytes());
    });
}

#[test]
fn a_question_that_was_answered_makes_room_where_no_source_port_is_free() {
    makes_room(Transport::Udp, 2100, |world, left, _| {
        passed(world, INGRESS, &left.reply().bytes());
    });
}

/// As 14,000 questions of 1,500 a second with 11,000 ports, of which the kernel's conntrack loses none.
#[test]
fn questions_of_more_sockets_than_there_are_source_ports_are_all_answered() {
    const QUESTIONS: u16 = 2000;
    const EACH: std::time::Duration = std::time::Duration::from_millis(7);
    let family = Family::V4;
    let world = World::with_addresses_on_the_device(DeviceFlags::NONE);
    let first = Frame::new(family, Transport::Udp).to(family.node(), NODE_PORT);
    for port in 0..QUESTIONS {
        let request = first.by_port(30_000 + port);
        let inside = comes_in(&world, family, request);
        let left = from_node(inside, family, &passed(&world, EGRESS, &inside.bytes()));
        passed(&world, INGRESS, &left.reply().bytes());
        std::thread::sleep(EACH);
    }
    assert_eq!(world.counted(Counter::DropNoPort), 0);
}

/// As many flows as there are source ports make room for others, after some milliseconds. `goes_on` is what
/// becomes of each, as it left the node and as its client sent it.
fn makes_room(transport: Transport, after: u64, goes_on: impl Fn(&World, Frame, Frame)) {
    // As many as there are.
    const PORTS: u16 = 1000;
    const LATER: u16 = 200;
    for family in [Family::V4, Family::V6] {
        let world = World::with_addresses_on_the_device(DeviceFlags::NONE);
        let first = Frame::new(family, transport).to(family.node(), NODE_PORT);
        let mut dropped = 0;
        for port in 0..PORTS {
            let request = first.by_port(30_000 + port);
            let inside = comes_in(&world, family, request);
            let run = world.run(EGRESS, &inside.bytes());
            if run.verdict != PASS(EGRESS) {
                dropped += 1;
                continue;
            }
            goes_on(&world, from_node(inside, family, &run.frame), request);
        }
        assert!(dropped < LATER, "{dropped}: most of the ports were taken");
        std::thread::sleep(std::time::Duration::from_millis(after));
        for port in 0..LATER {
            let request = first.by_port(40_000 + port);
            let inside = comes_in(&world, family, request);
            from_node(inside, family, &passed(&world, EGRESS, &inside.bytes()));
        }
    }
}
