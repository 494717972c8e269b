//! Frames that went wrong on their way, or were made to.

use super::frames::{Frame, family_and_transport, is_sound};
use super::world::{EGRESS, HOOKS, NODE_PORT, World};

/// SplitMix64: numbers that look random, the same at every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z >> 33) as usize) % end
    }
}

/// A frame with some bytes changed, cut short, or made longer.
fn mutated(numbers: &mut Numbers, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=numbers.below(3) {
        let at = 12 + numbers.below(bytes.len() - 12);
        bytes[at] = numbers.below(256) as u8;
    }
    match numbers.below(6) {
        // Less than a link header is no frame.
        0 => bytes.truncate(14 + numbers.below(bytes.len() - 14)),
        1 => bytes.resize(bytes.len() + numbers.below(40), 0xaa),
        _ => {}
    }
    bytes
}

#[test]
fn a_mutated_frame_is_never_given_a_broken_header() {
    let world = World::new();
    let mut numbers = Numbers(1);
    let mut changed = 0_u32;
    family_and_transport(|family, transport| {
        let frame = Frame::new(family, transport).to(family.node(), NODE_PORT);
        for round in 0..3000 {
            let base = if round % 2 == 0 {
                frame
            } else {
                frame.established()
            };
            let bytes = mutated(&mut numbers, &base.bytes());
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
    assert!(changed > 1000, "hardly anything was translated: {changed}");
}
