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

/// The checksum field of a header after a change of what it covers (RFC 1624 section 3).
#[inline(always)]
pub const fn apply(field: u16, change: u32) -> u16 {
    !fold((!field) as u32 as u64 + change as u64)
}

/// The checksum field of a TCP or UDP header after a change of what it covers. In UDP zero stands for
/// "no checksum", which stays, and no sum is written as zero (RFC 768).
#[inline(always)]
pub const fn apply_transport(field: u16, change: u32, is_udp: bool) -> u16 {
    if is_udp && field == 0 {
        return 0;
    }
    match apply(field, change) {
        0 if is_udp => 0xffff,
        field => field,
    }
}

/// The sum of some words.
#[inline(always)]
pub fn sum<const N: usize>(words: [u32; N]) -> u32 {
    // From nothing to the words: their sum, and that of as many "minus zero"s, which is none.
    change([0; N], words)
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
