//! Frames that were damaged, by accident or on purpose.

use std::env;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::frames::{Frame, family_and_transport, is_sound};
use super::world::{EGRESS, HOOKS, NODE_PORT, World};

/// A frame with some bytes changed, cut short, or made longer.
fn mutated(numbers: &mut fastrand::Rng, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=numbers.usize(..3) {
        let at = 12 + numbers.usize(..bytes.len() - 12);
        bytes[at] = numbers.u8(..);
    }
    match numbers.usize(..6) {
        // Less than a link header is no frame.
        0 => bytes.truncate(14 + numbers.usize(..bytes.len() - 14)),
        1 => bytes.resize(bytes.len() + numbers.usize(..40), 0xaa),
        _ => {}
    }
    bytes
}

/// For how long: `SVCLB_FUZZ_SECONDS`, with other frames at each run. Else a short time, with the
/// same ones.
fn budget() -> (Duration, u64) {
    let seconds = env::var("SVCLB_FUZZ_SECONDS").ok();
    match seconds.and_then(|seconds| seconds.parse().ok()) {
        Some(seconds) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            (Duration::from_secs(seconds), now.as_secs())
        }
        None => (Duration::ZERO, 1),
    }
}

#[test]
fn a_mutated_frame_is_never_given_a_broken_header() {
    let (time, seed) = budget();
    let end = Instant::now() + time;
    let mut numbers = fastrand::Rng::with_seed(seed);
    let (mut frames, mut changed) = (0, 0);
    loop {
        let (tried, translated) = mutations(&mut numbers);
        frames += tried;
        changed += translated;
        assert!(
            translated > 1000,
            "hardly anything was translated: {translated}"
        );
        if Instant::now() >= end {
            break;
        }
    }
    println!("{frames} mutated frames in three programs, of which {changed} were translated");
}

/// Some thousand mutated frames for a new node: how many, and how often one was translated.
fn mutations(numbers: &mut fastrand::Rng) -> (u32, u32) {
    let world = World::new();
    let (mut frames, mut changed) = (0, 0);
    family_and_transport(|family, transport| {
        let frame = Frame::new(family, transport).to(family.node(), NODE_PORT);
        for round in 0..3000 {
            let base = if round % 2 == 0 {
                frame
            } else {
                frame.established()
            };
            let bytes = mutated(numbers, &base.bytes());
            frames += 1;
            for hook in HOOKS.into_iter().chain([EGRESS]) {
                // The kernel takes no frame that ends within its link header, and looks at the
                // type in it.
                let Ok(run) = world.try_run(hook, &bytes) else {
                    continue;
                };
                if run.frame != bytes {
                    changed += 1;
                    // What was sound stays sound, and what was not is not made so.
                    assert_eq!(
                        is_sound(&run.frame),
                        is_sound(&bytes),
                        "{hook}: {bytes:02x?} became {:02x?}",
                        run.frame
                    );
                }
            }
        }
    });
    (frames, changed)
}
