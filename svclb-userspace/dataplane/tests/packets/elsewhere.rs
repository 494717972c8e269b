//! Backends on another node: packets leave by a device, from an address of this node.
//!
//! The node has a network of its own here, with a router that everything else is behind. tc
//! leaves the link header to the kernel, and XDP writes it, so frames are compared after it.

use svclb_common::{Counter, DeviceFlags};

use super::frames::{Family, Frame, HOPS, Problem, Transport, family_and_transport, is_sound};
use super::world::{self, DIRECT_HOOKS, DROP, EGRESS, PASS, SENT, World};

const LINK: usize = 14;

/// The frame without its link header.
fn packet(bytes: &[u8]) -> &[u8] {
    &bytes[LINK..]
}

/// What the backend gets of a client's packet, whichever port it comes from.
fn sent_on(from_client: Frame, family: Family, got: &[u8]) -> Frame {
    let sent = |port| {
        let from_node = from_client.of_client(family.node()).by_port(port);
        let to_backend = from_node.to(family.backend(), world::TARGET);
        to_backend.hops(HOPS - 1)
    };
    let mut ports = 50_000..51_000;
    let port = ports.find(|port| packet(&sent(*port).bytes()) == packet(got));
    sent(port.unwrap_or_else(|| panic!("{got:02x?} is not from the node")))
}

#[test]
fn a_packet_goes_on_from_the_nodes_address_with_a_lower_hop_limit_and_so_does_its_reply() {
    let world = World::with_the_backend_elsewhere(9000);
    family_and_transport(|family, transport| {
        for hook in DIRECT_HOOKS {
            let request = Frame::new(family, transport).to(family.node(), world::NODE_PORT);
            let run = world.run(hook, &request.bytes());
            assert_eq!(run.verdict, SENT(hook), "{hook} {family:?} {transport:?}");
            let sent = sent_on(request, family, &run.frame);
            let later = world.run(hook, &request.established().bytes());
            let expected = sent.established().bytes();
            assert_eq!(packet(&later.frame), packet(&expected));

            let reply = sent.reply();
            let run = world.run(hook, &reply.bytes());
            assert_eq!(run.verdict, SENT(hook), "{hook} {family:?} {transport:?}");
            let expected = request.reply().hops(HOPS - 1).bytes();
            assert_eq!(packet(&run.frame), packet(&expected));
        }
    });
    // XDP opened them, and tc found them.
    assert_eq!(world.counted(Counter::FlowsOpened), 4);
}

#[test]
fn xdp_writes_the_link_header_of_the_next_hop() {
    let world = World::with_the_backend_elsewhere(9000);
    for family in [Family::V4, Family::V6] {
        let request = Frame::new(family, Transport::Tcp).to(family.node(), world::NODE_PORT);
        let run = world.run(DIRECT_HOOKS[0], &request.bytes());
        assert_eq!(run.frame[..6], [2, 0, 0, 0, 0, 0x63]);
    }
}

#[test]
fn a_packet_without_a_hop_left_is_reported_to_its_sender() {
    let world = World::with_the_backend_elsewhere(9000);
    for family in [Family::V4, Family::V6] {
        let request = Frame::new(family, Transport::Udp).to(family.node(), world::NODE_PORT);
        let last = request.hops(1);
        let run = world.run(DIRECT_HOOKS[0], &last.bytes());
        assert_eq!(
            (run.verdict, run.frame),
            (PASS(DIRECT_HOOKS[0]), last.bytes())
        );
        let run = world.run(DIRECT_HOOKS[1], &last.bytes());
        let carried = if family == Family::V4 { 28 } else { 48 };
        let expected = last.error(family.node(), Problem::NoHops, carried);
        assert_eq!(run.verdict, SENT(DIRECT_HOOKS[1]));
        same_but_for_the_id(&run.frame, &expected);
    }
    assert_eq!(world.counted(Counter::DropHopLimit), 2);
    assert_eq!(world.counted(Counter::DropTooBig), 0);
}

#[test]
fn a_packet_that_is_too_long_is_reported_with_the_length_that_fits() {
    let world = World::with_the_backend_elsewhere(1300);
    family_and_transport(|family, transport| {
        let long = Frame::new(family, transport)
            .to(family.node(), world::NODE_PORT)
            .data(1300);
        let run = world.run(DIRECT_HOOKS[0], &long.bytes());
        assert_eq!(
            (run.verdict, run.frame),
            (PASS(DIRECT_HOOKS[0]), long.bytes())
        );
        let run = world.run(DIRECT_HOOKS[1], &long.bytes());
        let carried = if family == Family::V4 { 28 } else { 48 };
        let expected = long.error(family.node(), Problem::TooBig(1300), carried);
        assert_eq!(run.verdict, SENT(DIRECT_HOOKS[1]));
        same_but_for_the_id(&run.frame, &expected);
        let fits = long.data(1200);
        assert_eq!(
            world.run(DIRECT_HOOKS[1], &fits.bytes()).verdict,
            SENT(DIRECT_HOOKS[1])
        );
    });
    assert_eq!(world.counted(Counter::DropTooBig), 4);
}

#[test]
fn an_error_about_a_forwarded_packet_reaches_the_client_about_its_own_packet() {
    let world = World::with_the_backend_elsewhere(9000);
    family_and_transport(|family, transport| {
        let request = Frame::new(family, transport)
            .to(family.node(), world::NODE_PORT)
            .data(600);
        let run = world.run(DIRECT_HOOKS[1], &request.bytes());
        let sent = sent_on(request, family, &run.frame);
        for problem in [Problem::NoHops, Problem::TooBig(1400)] {
            // Cut off in the middle, as routers do, and after the least that is allowed.
            for carried in [128, 56] {
                let error = sent.error(family.router(), problem, carried);
                let run = world.run(DIRECT_HOOKS[1], &error);
                assert_eq!(run.verdict, SENT(DIRECT_HOOKS[1]), "{family:?} {problem:?}");
                is_error_about(
                    request,
                    &run.frame,
                    &request.error(family.node(), problem, carried),
                );
                // XDP leaves it to tc.
                let run = world.run(DIRECT_HOOKS[0], &error);
                assert_eq!((run.verdict, run.frame), (PASS(DIRECT_HOOKS[0]), error));
            }
        }
    });
}

#[test]
fn an_error_about_a_reply_reaches_the_backend_about_its_own_packet() {
    let world = World::with_the_backend_elsewhere(9000);
    family_and_transport(|family, transport| {
        let request = Frame::new(family, transport).to(family.node(), world::NODE_PORT);
        let run = world.run(DIRECT_HOOKS[1], &request.bytes());
        let reply = sent_on(request, family, &run.frame).reply().data(600);
        let seen = request.reply().data(600);
        let error = seen.error(family.router(), Problem::TooBig(1400), 128);
        let run = world.run(DIRECT_HOOKS[1], &error);
        assert_eq!(
            run.verdict,
            SENT(DIRECT_HOOKS[1]),
            "{family:?} {transport:?}"
        );
        is_error_about(
            reply,
            &run.frame,
            &reply.error(family.node(), Problem::TooBig(1400), 128),
        );
    });
}

#[test]
fn a_backend_behind_a_device_without_programs_sees_the_client_itself() {
    let world = World::with_the_backend_behind(DeviceFlags::NONE, 9000);
    family_and_transport(|family, transport| {
        let request = Frame::new(family, transport).to(family.node(), world::NODE_PORT);
        let mut expected = request.to(family.backend(), world::TARGET);
        for hook in DIRECT_HOOKS {
            let run = world.run(hook, &request.bytes());
            expected = expected.by_port_of(&run.frame);
            assert_eq!((run.verdict, run.frame), (PASS(hook), expected.bytes()));
        }
        let reply = world.run(EGRESS, &expected.reply().bytes());
        assert_eq!(reply.frame, request.reply().bytes());
    });
}

#[test]
fn no_flow_misses_a_source_port_while_seven_tenths_of_them_are_taken() {
    for family in [Family::V4, Family::V6] {
        let world = World::with_the_backend_elsewhere(9000);
        let request = Frame::new(family, Transport::Udp).to(family.node(), world::NODE_PORT);
        for port in 1..=700 {
            let run = world.run(DIRECT_HOOKS[1], &request.by_port(port).bytes());
            assert_eq!(run.verdict, SENT(DIRECT_HOOKS[1]), "flow {port}");
        }
        assert_eq!(world.counted(Counter::DropNoPort), 0);
    }
}

#[test]
fn without_a_route_to_the_backend_tc_drops_and_xdp_passes_up() {
    let world = World::with_the_backend_elsewhere(9000);
    let status = std::process::Command::new("ip")
        .args(["link", "set", "wire", "down"])
        .status();
    assert!(status.unwrap().success());
    family_and_transport(|family, transport| {
        let request = Frame::new(family, transport).to(family.node(), world::NODE_PORT);
        let verdicts = DIRECT_HOOKS.map(|hook| world.run(hook, &request.bytes()).verdict);
        assert_eq!(verdicts, [PASS(DIRECT_HOOKS[0]), DROP(DIRECT_HOOKS[1])]);
    });
    assert_eq!(world.counted(Counter::DropNoRoute), 4);
}

/// Whether a reject is as expected. It may differ in its IPv4 identification, its flags and the header's
/// checksum, which has to fit.
fn same_but_for_the_id(got: &[u8], expected: &[u8]) {
    let mut got = got.to_vec();
    assert!(is_sound(&got), "{got:02x?}");
    if got[12..14] == [8, 0] {
        for at in [18..22, 24..26] {
            got[at.clone()].copy_from_slice(&expected[at]);
        }
    }
    assert_eq!(packet(&got), packet(expected));
}

/// Whether an error is one that the sender of `about` understands: about its own packet, from the
/// node, and with a checksum that fits. What it carries of the transport's checksum is as it was.
fn is_error_about(about: Frame, got: &[u8], expected: &[u8]) {
    assert!(is_sound(got), "{got:02x?}");
    let is_v4 = got[12..14] == [8, 0];
    let (headers, own) = if is_v4 { (28, 20) } else { (48, 40) };
    let carried = LINK + headers;
    assert_eq!(got.len(), expected.len());
    // Addresses of the message, its type, its code and its word.
    let addresses = if is_v4 { 26..34 } else { 22..54 };
    assert_eq!(got[addresses.clone()], expected[addresses]);
    let message = LINK + own;
    assert_eq!(got[message..message + 2], expected[message..message + 2]);
    assert_eq!(
        got[message + 4..message + 8],
        expected[message + 4..message + 8]
    );
    // The addresses and ports of the packet that it carries.
    let inner = if is_v4 { 12..24 } else { 8..44 };
    let theirs = &about.bytes()[LINK..];
    assert_eq!(got[carried..][inner.clone()], theirs[inner]);
}
