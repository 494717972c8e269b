//! Segments that no receiver would accept end no flow.

use std::thread::sleep;
use std::time::Duration;

use svclb_tests::{PodNetwork, Transport, UplinkOptions};

use super::raw::{ACK, FIN, RST, last_acknowledged, listen_to_segments, segment, send_from};
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
        let listener = listen_to_segments(&world.client, to.is_ipv6());
        world.wait_for_answers(to, &["a", "b"]);
        let mut missing = vec!["a", "b"];
        while !missing.is_empty() {
            let socket = world.client.socket(Transport::Tcp, to.is_ipv6()).unwrap();
            socket.connect(to).unwrap();
            let backend = asks_on(&socket, "before").unwrap();
            if missing.contains(&&*backend) {
                missing.retain(|name| *name != backend);
                let from = socket.local_name().unwrap();
                let expected = last_acknowledged(&listener, to, from);
                flows.push((to, backend, socket, expected));
            }
        }
    }
    for (to, _, socket, expected) in &flows {
        let from = socket.local_name().unwrap();
        // Behind what the server expects, and ahead of it.
        for by in [0x9000_0000, 0x1000_0000] {
            let stray = segment(from, *to, expected.wrapping_add(by), flags);
            send_from(&world.client, to.ip(), &stray);
        }
    }
    // A flow that was reset is remembered for ten seconds, and looked for every five.
    sleep(Duration::from_secs(16));
    for (to, backend, socket, _) in &flows {
        let answer = asks_on(socket, "after");
        assert_eq!(answer.as_ref(), Ok(backend), "{mode:?} {to}");
    }
}
