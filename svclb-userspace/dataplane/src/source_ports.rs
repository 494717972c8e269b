//! The source ports of flows to backends on other nodes.

use std::ops::RangeInclusive;
use std::str::FromStr;

/// A range of ports, both ends in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// From its ends; `None` if there is nothing between them.
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first == 0 || first > last {
            return None;
        }
        Some(Self { first, last })
    }

    /// The first and the last.
    pub const fn ends(self) -> [u16; 2] {
        [self.first, self.last]
    }

    /// Every port of the range.
    pub(crate) const fn ports(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }

    /// How many there are.
    pub fn count(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let range = text
            .split_once('-')
            .and_then(|(first, last)| Self::new(first.parse().ok()?, last.parse().ok()?));
        range.ok_or_else(|| format!("{text:?} is no range of ports such as 50000-60999"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_two_ports_in_order() {
        let range: PortRange = "50000-60999".parse().unwrap();
        assert_eq!((range.ends(), range.count()), ([50_000, 60_999], 11_000));
        for bad in ["", "50000", "60000-50000", "0-7", "1-70000", "a-b"] {
            assert!(bad.parse::<PortRange>().is_err(), "{bad}");
        }
    }
}
