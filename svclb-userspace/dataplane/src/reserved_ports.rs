//! Keeping sockets of the node off the source ports of flows:
//! `net.ipv4.ip_local_reserved_ports` (Documentation/networking/ip-sysctl.rst).
//!
//! The kernel has one list, and does not know who added a port. So a pinned map records which
//! ports svclb added, one bit for each: they are removed again when the range changes or with a
//! cleanup, and ports that others had reserved stay.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::AsFd;

use crate::pins::Pins;
use crate::source_ports::PortRange;
use crate::sys::{self, Map};

/// That of the calling thread's network namespace.
const SYSCTL: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

pub(crate) type Ports = BTreeSet<u16>;

/// The pinned record: an array of one element, a bit for each port.
#[derive(Debug)]
pub(crate) struct ReservedPorts(Map);

const RECORD_SIZE: usize = (u16::MAX as usize + 1) / 8;

impl ReservedPorts {
    /// Opens the record, or makes one.
    ///
    /// `unrecorded` is the range of an agent that kept no record: all of it that is in the
    /// kernel's list is taken for svclb's. Nothing of it is where the list cannot be read: then that
    /// agent could not change it either.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn open(pins: &Pins, unrecorded: Option<PortRange>) -> io::Result<Self> {
        let path = pins.reserved_ports();
        match Map::open(&path) {
            Ok(map) => Ok(Self(map)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let record = Self(Map::new_array(RECORD_SIZE as u32)?);
                if let Some(range) = unrecorded {
                    let listed = list().unwrap_or_default();
                    let ours = range.ports().filter(|port| listed.contains(port));
                    record.write(&ours.collect())?;
                }
                sys::pin(record.0.as_fd(), &path)?;
                Ok(record)
            }
            Err(error) => Err(error),
        }
    }

    /// The map, to be pinned again.
    pub(crate) const fn map(&self) -> &Map {
        &self.0
    }

    /// Reserves ranges besides what is recorded. Sockets are given no port of them, unless they ask
    /// for one by its number.
    ///
    /// # Errors
    /// The system's error; then nothing is reserved that was not before.
    pub(crate) fn reserve(&self, ranges: &[PortRange]) -> io::Result<()> {
        let ports = ranges.iter().flat_map(|range| range.ports());
        self.change(|before| before.iter().copied().chain(ports).collect())
    }

    /// Gives back what is recorded, other than ranges and ports that are used.
    ///
    /// # Errors
    /// The system's error; then nothing is given back.
    pub(crate) fn give_back_all_but(&self, ranges: &[PortRange], used: &Ports) -> io::Result<()> {
        self.change(|before| {
            let used = before.intersection(used).copied();
            let ports = ranges.iter().flat_map(|range| range.ports());
            used.chain(ports).collect()
        })
    }

    fn change(&self, wanted: impl FnOnce(&Ports) -> Ports) -> io::Result<()> {
        let listed = list()?;
        let before = self.read()?;
        let (list, ours) = changed(&listed, &before, &wanted(&before));
        if list != listed {
            // A crash in between loses no port: giving back one that is not in the list is harmless.
            self.write(&before.union(&ours).copied().collect())?;
            if let Err(error) = fs::write(SYSCTL, format(&list)) {
                self.write(&before)?;
                return Err(error);
            }
        }
        self.write(&ours)
    }

    /// The ports that svclb reserved.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn read(&self) -> io::Result<Ports> {
        let mut bits = vec![0; self.0.value_size.max(RECORD_SIZE)];
        self.0.lookup(sys::bytes(&0_u32), &mut bits)?;
        Ok((0..=u16::MAX)
            .filter(|port| {
                let byte = bits.get(usize::from(*port) / 8).copied();
                byte.unwrap_or_default() >> (port % 8) & 1 == 1
            })
            .collect())
    }

    fn write(&self, ports: &Ports) -> io::Result<()> {
        let mut bits = vec![0_u8; RECORD_SIZE];
        for port in ports {
            if let Some(byte) = bits.get_mut(usize::from(*port) / 8) {
                *byte |= 1 << (port % 8);
            }
        }
        self.0.update(sys::bytes(&0_u32), &bits)
    }
}

/// Gives back everything that is recorded, and removes the record; `false` if there was none.
/// `unrecorded` as with [`ReservedPorts::open`].
///
/// # Errors
/// The system's error.
pub(crate) fn give_back(pins: &Pins, unrecorded: Option<PortRange>) -> io::Result<bool> {
    let has_record = pins.reserved_ports().exists();
    if has_record || unrecorded.is_some() {
        ReservedPorts::open(pins, unrecorded)?.change(|_| Ports::new())?;
        fs::remove_file(pins.reserved_ports())?;
    }
    Ok(has_record)
}

/// The kernel's list.
fn list() -> io::Result<Ports> {
    parse(&read_list()?)
}

/// The kernel's list, by one read: it gives nothing to a second one, and the first that
/// `fs::read_to_string` does is of 32 bytes (`proc_do_large_bitmap` of kernel/sysctl.c).
fn read_list() -> io::Result<String> {
    /// More than the list of every other port.
    const LONGEST: usize = 256 << 10;
    let mut list = vec![0; LONGEST];
    let length = File::open(SYSCTL)?.read(&mut list)?;
    list.truncate(length);
    String::from_utf8(list).map_err(io::Error::other)
}

/// The list with the wanted ports and without those of `ours` that are no longer wanted; and which
/// ports of it are svclb's then.
fn changed(listed: &Ports, ours: &Ports, wanted: &Ports) -> (Ports, Ports) {
    let is_given_back = |port: &u16| ours.contains(port) && !wanted.contains(port);
    let mut list = listed.clone();
    list.retain(|port| !is_given_back(port));
    list.extend(wanted);
    let is_ours = |port: &&u16| ours.contains(port) || !listed.contains(port);
    (list, wanted.iter().filter(is_ours).copied().collect())
}

/// The ports of a list such as `8080,9148-9150`. (The kernel joins neighbouring ranges, so that
/// what was written is not what is read.)
fn parse(list: &str) -> io::Result<Ports> {
    let mut ports = Ports::new();
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.parse::<u16>().map_err(io::Error::other);
        ports.extend(number(first)?..=number(last)?);
    }
    Ok(ports)
}

/// The list of some ports, as the kernel reads it.
fn format(ports: &Ports) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_the_kernel_joined_are_taken_apart_again() {
        let joined = parse("8080,40000-60999\n").unwrap();
        assert_eq!(format(&joined), "8080-8080,40000-60999\n");
        let (rest, ours) = changed(&joined, &(50_000..=60_999).collect(), &Ports::new());
        assert_eq!(format(&rest), "8080-8080,40000-49999\n");
        assert!(ours.is_empty());
        assert_eq!(format(&parse("\n").unwrap()), "\n");
        assert!(parse("80,x").is_err());
    }

    #[test]
    fn a_port_that_was_reserved_before_is_not_ours() {
        let (list, ours) = changed(&[1, 2].into(), &Ports::new(), &[2, 3].into());
        assert_eq!((list, ours), ([1, 2, 3].into(), [3].into()));
    }

    #[test]
    fn of_another_range_only_what_is_no_longer_wanted_is_given_back() {
        let (list, ours) = changed(&[1, 2, 3, 4].into(), &[3, 4].into(), &[2, 4, 5].into());
        assert_eq!((list, ours), ([1, 2, 4, 5].into(), [4, 5].into()));
    }
}
