//! The source ports that flows to backends elsewhere are given: kept from sockets of the node
//! by `net.ipv4.ip_local_reserved_ports`.

use std::collections::BTreeSet;
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

    /// Keeps sockets of the calling thread's network namespace off the ports, unless they ask
    /// for one by its number.
    ///
    /// # Errors
    /// What the system said.
    pub fn reserve(self) -> io::Result<()> {
        let mut reserved = parse(&fs::read_to_string(SYSCTL)?)?;
        reserved.extend(self.first..=self.last);
        fs::write(SYSCTL, format(&reserved))
    }

    /// Gives the ports back. (Also those that somebody else had reserved before: the kernel
    /// keeps one list, and no owners.)
    ///
    /// # Errors
    /// What the system said.
    pub fn give_back(self) -> io::Result<()> {
        let mut reserved = parse(&fs::read_to_string(SYSCTL)?)?;
        reserved.retain(|port| !(self.first..=self.last).contains(port));
        fs::write(SYSCTL, format(&reserved))
    }
}

/// The ports of a list such as `8080,9148-9150`. (The kernel joins neighbouring ranges, so that
/// what was written is not what is read.)
fn parse(list: &str) -> io::Result<BTreeSet<u16>> {
    let mut ports = BTreeSet::new();
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.parse::<u16>().map_err(io::Error::other);
        ports.extend(number(first)?..=number(last)?);
    }
    Ok(ports)
}

/// The list of some ports, as the kernel reads it.
fn format(ports: &BTreeSet<u16>) -> String {
    let mut ranges = Vec::<(u16, u16)>::new();
    for port in ports {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*port) => *last = *port,
            _ => ranges.push((*port, *port)),
        }
    }
    let parts: Vec<_> = ranges
        .iter()
        .map(|(first, last)| format!("{first}-{last}"))
        .collect();
    // An empty list is an empty line.
    parts.join(",") + "\n"
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
    fn ranges_that_the_kernel_joined_are_taken_apart_again() {
        let joined = parse("8080,40000-60999\n").unwrap();
        assert_eq!(format(&joined), "8080-8080,40000-60999\n");
        let ours: PortRange = "50000-60999".parse().unwrap();
        let [first, last] = ours.ends();
        let rest: BTreeSet<_> = joined
            .into_iter()
            .filter(|port| !(first..=last).contains(port))
            .collect();
        assert_eq!(format(&rest), "8080-8080,40000-49999\n");
        assert_eq!(format(&parse("\n").unwrap()), "\n");
        assert!(parse("80,x").is_err());
    }

    #[test]
    fn a_range_is_two_ports_in_order() {
        let range: PortRange = "50000-60999".parse().unwrap();
        assert_eq!((range.ends(), range.count()), ([50_000, 60_999], 11_000));
        for bad in ["", "50000", "60000-50000", "0-7", "1-70000", "a-b"] {
            assert!(bad.parse::<PortRange>().is_err(), "{bad}");
        }
    }
}
