//! The source ports that flows to backends elsewhere are given: kept from sockets of the node
//! by `net.ipv4.ip_local_reserved_ports`.

use std::fs;
use std::io;
use std::str::FromStr;

const SYSCTL: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

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

    /// How many there are.
    pub fn count(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }

    fn text(self) -> String {
        format!("{}-{}", self.first, self.last)
    }

    /// Keeps sockets of the calling thread's network namespace off the ports, unless they ask
    /// for one by its number.
    ///
    /// # Errors
    /// What the system said.
    pub fn reserve(self) -> io::Result<()> {
        let known = fs::read_to_string(SYSCTL)?;
        if parts(&known).any(|part| part == self.text()) {
            return Ok(());
        }
        let all: Vec<_> = parts(&known)
            .map(str::to_owned)
            .chain([self.text()])
            .collect();
        fs::write(SYSCTL, all.join(","))
    }

    /// Gives the ports back.
    ///
    /// # Errors
    /// What the system said.
    pub fn give_back(self) -> io::Result<()> {
        let known = fs::read_to_string(SYSCTL)?;
        if parts(&known).all(|part| part != self.text()) {
            return Ok(());
        }
        let rest: Vec<_> = parts(&known).filter(|part| *part != self.text()).collect();
        fs::write(SYSCTL, format!("{}\n", rest.join(",")))
    }
}

fn parts(list: &str) -> impl Iterator<Item = &str> {
    list.trim().split(',').filter(|part| !part.is_empty())
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
