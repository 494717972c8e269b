//! The Internet checksum (RFC 1071), and how it changes with what it covers (RFC 1624).

/// The change of a sum when some words are replaced by others: to be added to the sum. The
/// words are as they stand in memory; so is the sum, whatever the machine's byte order
/// (RFC 1071 section 2(B)).
#[inline(always)]
pub fn change<const N: usize>(old: [u32; N], new: [u32; N]) -> u32 {
    let mut sum = 0_u64;
    for (old, new) in old.into_iter().zip(new) {
        sum += u64::from(!old) + u64::from(new);
    }
    fold_to_32(sum)
}

/// Two changes together.
#[inline(always)]
pub const fn add(one: u32, other: u32) -> u32 {
    fold_to_32(one as u64 + other as u64)
}

/// A checksum field after a change of what it covers.
#[inline(always)]
pub const fn apply(field: u16, change: u32) -> u16 {
    !fold((!field) as u32 as u64 + change as u64)
}

/// The checksum field of some words, the field itself among them as zero.
#[inline(always)]
pub fn of<const N: usize>(words: [u32; N], and: u32) -> u16 {
    let mut sum = u64::from(and);
    for word in words {
        sum += u64::from(word);
    }
    !fold(sum)
}

#[inline(always)]
const fn fold_to_32(mut sum: u64) -> u32 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum as u32
}

#[inline(always)]
const fn fold(sum: u64) -> u16 {
    let mut sum = fold_to_32(sum);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SplitMix64: numbers that look random, the same at every run.
    fn numbers() -> impl Iterator<Item = u32> {
        (1_u64..).map(|n| {
            let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (z >> 16) as u32
        })
    }

    #[test]
    fn a_changed_field_is_the_field_of_what_it_covers_now() {
        let mut numbers = numbers();
        let mut next = || numbers.next().unwrap();
        for _ in 0..100_000 {
            let (constant, old, new) = (next(), [next(), next()], [next(), next()]);
            let before = of([constant, old[0], old[1]], 0);
            let after = of([constant, new[0], new[1]], 0);
            assert_eq!(apply(before, change(old, new)), after);
        }
    }

    #[test]
    fn words_of_zeros_and_ones_keep_both_ways_of_writing_zero_apart() {
        // 0xffff covers nothing but zeros, which no real header is (RFC 1624 section 3).
        for old in [0, 1, u32::MAX, 0xffff, 0xffff_0000] {
            for new in [0, 1, u32::MAX, 0xffff, 0xffff_0000] {
                let constant = 0x4500_0028;
                let before = of([constant, old], 0);
                assert_eq!(apply(before, change([old], [new])), of([constant, new], 0));
            }
        }
    }

    #[test]
    fn the_example_of_rfc_1071_section_3() {
        let words = [
            u32::from_ne_bytes([0, 1, 0xf2, 3]),
            u32::from_ne_bytes([0xf4, 0xf5, 0xf6, 0xf7]),
        ];
        assert_eq!(of(words, 0).to_ne_bytes(), [!0xdd, !0xf2]);
    }

    #[test]
    fn changes_add_up() {
        let mut numbers = numbers();
        let mut next = || numbers.next().unwrap();
        for _ in 0..1000 {
            let (a, b, c, d) = (next(), next(), next(), next());
            let together = change([a, b], [c, d]);
            let apart = add(change([a], [c]), change([b], [d]));
            assert_eq!(apply(0x1234, together), apply(0x1234, apart));
        }
    }
}
