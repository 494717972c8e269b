//! Segments that no receiver would accept end no flow.

use std::thread::sleep;
use std::time::Duration;

use svclb_tests::{PodNetwork, Transport, UplinkOptions};

use super::raw::{ACK, FIN, RST, segment, send_from};
use super::{MODES, World, asks_on};

#[test]
fn a_reset_with_a_wrong_sequence_number_is_ignored() {
    for mode in MODES {
        is_ignored(mode, RST);
    }
}

#[test]
fn an_end_with_a_wrong_sequence_number_is_ignored() {
    for mode in MODES {
        is_ignored(mode, FIN | ACK);
    }
}

/// Flows to either backend survive a segment out of the window, and longer than flows are remembered
/// that are over.
fn is_ignored(mode: &[&str], flags: u8) {
    let short = [
        "--conntrack-tcp-timeout-closed",
        "3",
        "--conntrack-tcp-timeout-close-wait",
        "3",
    ];
    let args = [mode, &short].concat();
    let options = UplinkOptions::default();
    let world = World::serving(PodNetwork::Routed, options, &["a", "b"], &args);
    let mut flows = Vec::new();
    for to in world.balanced() {
        world.wait_for_answers(to, &["a", "b"]);
        let mut missing = vec!["a", "b"];
        while !missing.is_empty() {
            let socket = world.client.socket(Transport::Tcp, to.is_ipv6()).unwrap();
            socket.connect(to).unwrap();
            let backend = asks_on(&socket, "before").unwrap();
            if missing.contains(&&*backend) {
                missing.retain(|name| *name != backend);
                flows.push((to, backend, socket));
            }
        }
    }
    for (to, _, socket) in &flows {
        let from = socket.local_name().unwrap();
        send_from(
            &world.client,
            to.ip(),
            &segment(from, *to, 0x1234_5678, flags),
        );
        send_from(
            &world.client,
            to.ip(),
            &segment(from, *to, 0x9234_5678, flags),
        );
    }
    // A flow that was reset is remembered for ten seconds, and looked for every five.
    sleep(Duration::from_secs(16));
    for (to, backend, socket) in &flows {
        let answer = asks_on(socket, "after");
        assert_eq!(answer.as_ref(), Ok(backend), "{mode:?} {to}");
    }
}
