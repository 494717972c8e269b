//! Choosing a slot: pure arithmetic, tested on the host.

use crate::frontend::SlotRange;

/// The position that a random word chooses from a range, or `None` if it is empty.
///
/// Multiplication and shift instead of a remainder: as even (no position is more likely
/// than another by more than `count / 2^32`) and without a division.
#[inline(always)]
pub const fn pick(range: SlotRange, random: u32) -> Option<u32> {
    if range.count == 0 {
        return None;
    }
    let offset = (random as u64 * range.count as u64) >> 32;
    Some(range.first.wrapping_add(offset as u32))
}

/// Spreads a counter-like number (a socket cookie) over 32 bits, for [`pick`].
///
/// The finalizer of SplitMix64, whose high half is even over consecutive inputs.
#[inline(always)]
pub const fn spread(number: u64) -> u32 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_range_offers_nothing() {
        assert_eq!(pick(SlotRange { first: 7, count: 0 }, 12345), None);
    }

    #[test]
    fn every_pick_lies_in_its_range_and_both_ends_are_reached() {
        let range = SlotRange { first: 5, count: 3 };
        assert_eq!(pick(range, 0), Some(5));
        assert_eq!(pick(range, u32::MAX), Some(7));
        for random in (0..u32::MAX).step_by(65_537) {
            let position = pick(range, random).unwrap();
            assert!(range.contains(position), "{position} is outside {range:?}");
        }
    }

    #[test]
    fn consecutive_cookies_spread_evenly() {
        let range = SlotRange {
            first: 0,
            count: 10,
        };
        let mut hits = [0_u32; 10];
        for cookie in 1..=10_000_u64 {
            hits[pick(range, spread(cookie)).unwrap() as usize] += 1;
        }
        assert!(hits.iter().all(|n| (850..1150).contains(n)), "{hits:?}");
    }
}
