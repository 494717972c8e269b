//! Frames that no sender should send: what is broken in each, and that it is left as it is. They
//! would all be a Service's if they were whole; the kernel, which gets them, drops them by its
//! own rules.

use svclb_common::Counter;

use super::frames::{Family, Frame, Transport};
use super::world::{self, EGRESS, HOOKS, PASS, World};

const IP: usize = 14;

/// What is broken, and how.
type Fault = (&'static str, fn(&mut Vec<u8>));

fn is_left_alone(family: Family, transport: Transport, faults: &[Fault]) {
    let world = World::new();
    let whole = Frame::new(family, transport).to(family.node(), world::NODE_PORT);
    for (name, fault) in faults {
        let mut frame = whole.bytes();
        fault(&mut frame);
        for hook in [HOOKS[0], HOOKS[1], EGRESS] {
            // The kernel refuses to run some programs on some of them: good enough.
            if let Ok(run) = world.try_run(hook, &frame) {
                assert_eq!(
                    run.verdict,
                    PASS(hook),
                    "{name} {hook} {family:?} {transport:?}"
                );
                assert_eq!(run.frame, frame, "{name} {hook} {family:?} {transport:?}");
            }
        }
    }
    assert_eq!(world.counted(Counter::FlowsOpened), 0);
    // The same frame, whole, is translated: nothing else was wrong with it.
    let run = world.run(HOOKS[0], &whole.bytes());
    assert_ne!(run.frame, whole.bytes());
}

#[test]
fn ipv4_headers_with_wrong_lengths_and_versions() {
    let faults: [Fault; 8] = [
        ("header shorter than any", |f| f[IP] = 0x44),
        ("header of no length", |f| f[IP] = 0x40),
        ("header longer than the frame", |f| {
            f[IP] = 0x4f;
            f.truncate(IP + 40);
        }),
        ("version 5", |f| f[IP] = 0x55),
        ("version 6 in a frame of IPv4", |f| f[IP] = 0x65),
        ("packet shorter than its header", |f| f[IP + 3] = 19),
        ("packet longer than the frame", |f| f[IP + 2] = 4),
        ("cut off in the header", |f| f.truncate(IP + 19)),
    ];
    for transport in [Transport::Tcp, Transport::Udp] {
        is_left_alone(Family::V4, transport, &faults);
    }
}

#[test]
fn ipv6_headers_with_wrong_lengths_and_versions() {
    let faults: [Fault; 5] = [
        ("version 4 in a frame of IPv6", |f| f[IP] = 0x40),
        ("version 0", |f| f[IP] = 0),
        ("packet longer than the frame", |f| f[IP + 4] = 4),
        ("cut off in the header", |f| f.truncate(IP + 39)),
        ("nothing after the header", |f| {
            f[IP + 6] = 59;
        }),
    ];
    for transport in [Transport::Tcp, Transport::Udp] {
        is_left_alone(Family::V6, transport, &faults);
    }
}

/// Puts extension headers before the transport's: each with its number and its length byte.
fn extended(frame: &mut Vec<u8>, headers: &[(u8, u8)]) {
    let mut chain = Vec::new();
    let transport = frame[IP + 6];
    for (at, (_, length)) in headers.iter().enumerate() {
        let next = headers.get(at + 1).map_or(transport, |(number, _)| *number);
        let mut header = [0; 8];
        (header[0], header[1]) = (next, *length);
        chain.extend(header);
    }
    frame[IP + 6] = headers[0].0;
    frame[IP + 5] += chain.len() as u8;
    frame.splice(IP + 40..IP + 40, chain);
}

#[test]
fn ipv6_extension_headers_without_end() {
    let faults: [Fault; 4] = [
        ("five of them", |f| extended(f, &[(60, 0); 5])),
        ("twelve of them", |f| extended(f, &[(60, 0); 12])),
        ("one that ends behind the frame", |f| {
            extended(f, &[(60, 200)])
        }),
        ("one that says it is itself", |f| {
            extended(f, &[(43, 0)]);
            f[IP + 40] = 43;
        }),
    ];
    for transport in [Transport::Tcp, Transport::Udp] {
        is_left_alone(Family::V6, transport, &faults);
    }
}

#[test]
fn transports_with_no_port_or_no_room_for_one() {
    for family in [Family::V4, Family::V6] {
        let headers = if family == Family::V4 { 20 } else { 40 };
        let faults: [Fault; 4] = match headers {
            20 => [
                ("source port 0", |f| f[IP + 20..IP + 22].fill(0)),
                ("destination port 0", |f| f[IP + 22..IP + 24].fill(0)),
                ("cut off before the ports", |f| {
                    f.truncate(IP + 20);
                    f[IP + 3] = 20;
                }),
                ("cut off between the ports", |f| {
                    f.truncate(IP + 22);
                    f[IP + 3] = 22;
                }),
            ],
            _ => [
                ("source port 0", |f| f[IP + 40..IP + 42].fill(0)),
                ("destination port 0", |f| f[IP + 42..IP + 44].fill(0)),
                ("cut off before the ports", |f| {
                    f.truncate(IP + 40);
                    f[IP + 5] = 0;
                }),
                ("cut off between the ports", |f| {
                    f.truncate(IP + 42);
                    f[IP + 5] = 2;
                }),
            ],
        };
        for transport in [Transport::Tcp, Transport::Udp] {
            is_left_alone(family, transport, &faults);
        }
    }
}

#[test]
fn a_wrong_checksum_stays_as_wrong_as_it_was() {
    // Routers do not look at a transport's checksum, and neither do we: its receiver does.
    for family in [Family::V4, Family::V6] {
        let world = World::new();
        let whole = Frame::new(family, Transport::Udp).to(family.node(), world::NODE_PORT);
        let expected = whole.to(family.backend(), world::TARGET);
        let at = if family == Family::V4 {
            IP + 26
        } else {
            IP + 46
        };
        for hook in HOOKS {
            let mut frame = whole.bytes();
            // One less in the data than the checksum says.
            *frame.last_mut().unwrap() -= 1;
            let run = world.run(hook, &frame);
            let mut wrong = expected.by_port_of(&run.frame).bytes();
            *wrong.last_mut().unwrap() -= 1;
            assert_eq!(run.frame[at..at + 2], wrong[at..at + 2]);
            assert_eq!(run.frame, wrong);
        }
    }
}
