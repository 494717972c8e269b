//! The source ports of flows to backends on other nodes, and the ports that the kernel gives sockets.

use std::fmt;
use std::fs;
use std::io;
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

/// The NodePorts of a cluster that does not say otherwise (`--service-node-port-range` of the API server).
const NODE_PORTS: PortRange = PortRange {
    first: 30_000,
    last: 32_767,
};

/// The source ports unless the operator says otherwise.
const DEFAULT: PortRange = PortRange {
    first: 50_000,
    last: 60_999,
};

impl Default for PortRange {
    fn default() -> Self {
        DEFAULT
    }
}

impl PortRange {
    /// The ports that are in both ranges.
    fn common(self, other: Self) -> Option<Self> {
        Self::new(self.first.max(other.first), self.last.min(other.last))
    }

    /// How many ports are in both ranges.
    fn common_count(self, other: Self) -> u32 {
        self.common(other).map_or(0, Self::count)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// The ports that the kernel gives sockets of the calling thread's network namespace
/// (`net.ipv4.ip_local_port_range`).
///
/// # Errors
/// The system's error.
pub fn ephemeral_ports() -> io::Result<PortRange> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let mut ports = text.split_whitespace().map(str::parse);
    let mut next = || ports.next()?.ok();
    let range = next().zip(next());
    range
        .and_then(|(first, last)| PortRange::new(first, last))
        .ok_or_else(|| io::Error::other(format!("{text:?} is no range of ports")))
}

/// The source ports, where the operator gave a range or none. No more than half of the ephemeral ports
/// are taken: sockets need the others.
///
/// # Errors
/// A sentence for the operator, about the range that was given.
pub fn choose_source_ports(
    given: Option<PortRange>,
    ephemeral: PortRange,
) -> Result<PortRange, String> {
    let takes_too_many = |range: PortRange| range.common_count(ephemeral) > ephemeral.count() / 2;
    if let Some(range) = given {
        if takes_too_many(range) {
            return Err(format!(
                "--source-ports {range} would take more than half of the ports that the kernel gives \
                 sockets ({ephemeral}, net.ipv4.ip_local_port_range), and connects would fail for want of \
                 one; choose another range, or widen that one"
            ));
        }
        return Ok(range);
    }
    if !takes_too_many(DEFAULT) {
        return Ok(DEFAULT);
    }
    // Outside of the ephemeral ports and of NodePorts: the highest room that is large enough, since low
    // ports are those that servers have; or the largest there is; or the upper half of the ephemeral
    // ports.
    let rooms = [
        (
            1024,
            NODE_PORTS.first.min(ephemeral.first).saturating_sub(1),
        ),
        (NODE_PORTS.last + 1, ephemeral.first.saturating_sub(1)),
        (
            ephemeral.last.saturating_add(1).max(NODE_PORTS.last + 1),
            u16::MAX,
        ),
    ];
    let most = DEFAULT.count();
    let rooms: Vec<_> = rooms
        .into_iter()
        .filter_map(|(first, last)| PortRange::new(first, last))
        .filter(|room| room.common_count(ephemeral) == 0)
        .collect();
    let sufficient = rooms.iter().rev().find(|room| room.count() >= most);
    let room = sufficient.or_else(|| rooms.iter().max_by_key(|room| room.count()));
    match room {
        Some(room) if room.count() >= most / 2 => {
            let first = u32::from(room.last) + 1 - room.count().min(most);
            Ok(PortRange {
                first: u16::try_from(first).unwrap_or(room.first),
                last: room.last,
            })
        }
        _ => {
            let count = (ephemeral.count() / 2).clamp(1, most);
            let first = u32::from(ephemeral.last) + 1 - count;
            Ok(PortRange {
                first: u16::try_from(first).unwrap_or(ephemeral.first),
                last: ephemeral.last,
            })
        }
    }
}

/// The NodePorts that the kernel would give sockets: a connection of the node from one of them, and one
/// to the Service, could be taken for each other. None where they are more than half of the ephemeral
/// ports.
pub(crate) fn ephemeral_node_ports(ephemeral: PortRange) -> Option<PortRange> {
    let common = NODE_PORTS.common(ephemeral)?;
    (common.count() <= ephemeral.count() / 2).then_some(common)
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

    fn range(first: u16, last: u16) -> PortRange {
        PortRange::new(first, last).unwrap()
    }

    #[test]
    fn no_more_than_half_of_the_ephemeral_ports_are_taken() {
        for (ephemeral, expected) in [
            // Linux's own.
            ((32_768, 60_999), (50_000, 60_999)),
            // People's.
            ((1_024, 65_535), (50_000, 60_999)),
            ((50_000, 60_999), (39_000, 49_999)),
            ((49_152, 65_535), (38_152, 49_151)),
            ((40_000, 60_999), (19_000, 29_999)),
        ] {
            let ephemeral = range(ephemeral.0, ephemeral.1);
            let chosen = choose_source_ports(None, ephemeral).unwrap();
            assert_eq!(chosen, range(expected.0, expected.1), "{ephemeral}");
            assert!(chosen.common_count(ephemeral) <= ephemeral.count() / 2);
        }
        // Nowhere is room.
        let all = range(1_030, 65_535);
        assert!(choose_source_ports(Some(range(2_000, 60_000)), all).is_err());
        let given = range(20_000, 20_999);
        assert_eq!(choose_source_ports(Some(given), all), Ok(given));
        let error = choose_source_ports(Some(range(50_000, 60_999)), range(50_000, 60_999));
        assert!(error.unwrap_err().contains("50000-60999"));
    }

    #[test]
    fn the_source_ports_are_some_whatever_the_ephemeral_ports_are() {
        for first in (1..=u16::MAX).step_by(601) {
            for last in (first..=u16::MAX).step_by(997) {
                let ephemeral = range(first, last);
                let chosen = choose_source_ports(None, ephemeral).unwrap();
                let most = (ephemeral.count() / 2).max(1);
                assert!(
                    chosen.common_count(ephemeral) <= most,
                    "{ephemeral} {chosen}"
                );
                assert!(chosen.count() <= 11_000);
            }
        }
    }

    #[test]
    fn node_ports_are_kept_out_of_the_ephemeral_ports_that_they_are_among() {
        assert_eq!(ephemeral_node_ports(range(32_768, 60_999)), None);
        assert_eq!(ephemeral_node_ports(range(30_000, 32_767)), None);
        let common = ephemeral_node_ports(range(1_024, 65_535));
        assert_eq!(common, Some(NODE_PORTS));
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
