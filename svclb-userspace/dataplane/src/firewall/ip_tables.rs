//! The chains FORWARD, and POSTROUTING of NAT, of `iptables-legacy`, by getsockopt(2)
//! (include/uapi/linux/netfilter_ipv4/ip_tables.h and netfilter_ipv6/ip6_tables.h).

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

use svclb_core::model::Family;

use super::rules::{
    Action, Chains, Dropping, Findings, Outcome, Packet, Place, Rule, all, decision, malformed,
    masquerades_by, xt_mark,
};
use crate::sys;

/// Where a family's structures have what.
struct Layout {
    family: Family,
    command: &'static str,
    /// The tables that exist; to ask for another one would make it.
    names: &'static str,
    level: i32,
    /// How long the part of an entry is that is compared with addresses, devices and protocol, and
    /// which bytes of it are flags: for fragments and the like, and to invert a condition.
    address: usize,
    flags: usize,
    invert: usize,
    /// The flag of a jump that does not come back, and those of conditions.
    goto: u8,
    conditions: u8,
    /// Where the offset of the target is, then that of the next entry, 16 bits each.
    offsets: usize,
    /// How long an entry is before its matches.
    entry: usize,
}

const LAYOUTS: [Layout; 2] = [
    Layout {
        family: Family::V4,
        command: "iptables-legacy",
        names: "/proc/self/net/ip_tables_names",
        level: libc::IPPROTO_IP,
        address: 82,
        flags: 82,
        invert: 83,
        goto: 2,
        conditions: 1,
        offsets: 88,
        entry: 112,
    },
    Layout {
        family: Family::V6,
        command: "ip6tables-legacy",
        names: "/proc/self/net/ip6_tables_names",
        level: libc::IPPROTO_IPV6,
        address: 131,
        flags: 131,
        invert: 132,
        goto: 4,
        // That of the protocol (1) is set together with the protocol.
        conditions: 2,
        offsets: 140,
        entry: 168,
    },
];

/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO`; the entries are the next one.
const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;
/// `XT_TABLE_MAXNAMELEN`
const NAME: usize = 32;
/// `struct xt_entry_match` and `struct xt_entry_target`: a size of 16 bits, a name of 29, a revision.
const HEADER: usize = 32;

/// What is in the way of packets with each of these marks.
///
/// # Errors
/// The system's error.
pub(super) fn look(marks: &[u32], families: &[Family]) -> io::Result<Vec<Findings>> {
    let mut found = vec![Findings::default(); marks.len()];
    for layout in &LAYOUTS {
        for place in Place::ALL {
            if !families.contains(&layout.family) || !has_table(layout, place) {
                continue;
            }
            let table = read(layout, place)?;
            for (mark, found) in marks.iter().zip(&mut found) {
                table.look(layout, place, *mark, found)?;
            }
        }
    }
    Ok(found)
}

pub(super) fn dropping(command: &str, mark: u32) -> Dropping {
    Dropping {
        chain: format!("the chain FORWARD of {command}"),
        remedy: format!("{command} -I FORWARD -m mark --mark {mark:#x}/{mark:#x} -j ACCEPT"),
    }
}

pub(super) fn masquerading(command: &str) -> String {
    format!("the chain POSTROUTING of {command}")
}

const fn table_name(place: Place) -> &'static str {
    match place {
        Place::Forward => "filter",
        Place::Postrouting => "nat",
    }
}

fn has_table(layout: &Layout, place: Place) -> bool {
    let names = fs::read_to_string(layout.names).unwrap_or_default();
    names.lines().any(|name| name == table_name(place))
}

/// The entries of a table, and where the chain of a hook begins and has its policy.
struct Table {
    entries: Vec<u8>,
    first: usize,
    policy: usize,
}

fn read(layout: &Layout, place: Place) -> io::Result<Table> {
    let name = table_name(place);
    let any = match layout.family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(std::net::SocketAddr::new(any, 0))?;
    // struct ipt_getinfo: the name, the hooks, for each of five hooks its first entry and its policy,
    // and the number and the size of all entries.
    let mut info = vec![0; NAME + 4 * 13];
    info.splice(..name.len(), name.bytes());
    sys::getsockopt(&socket, layout.level, GET_INFO, &mut info)?;
    let at = |index: usize| number(&info, NAME + 4 * index);
    let hook = usize::from(place.hook());
    let (first, policy, size) = (at(1 + hook)?, at(6 + hook)?, at(12)?);
    // struct ipt_get_entries: the name, the size, four bytes of padding, the entries.
    let start = NAME + 8;
    let mut all = vec![0; start + size];
    all.splice(..name.len(), name.bytes());
    let length = u32::try_from(size).map_err(io::Error::other)?;
    all.splice(NAME..NAME + 4, length.to_ne_bytes());
    // EAGAIN: the table changed since.
    sys::getsockopt(&socket, layout.level, GET_ENTRIES, &mut all)?;
    Ok(Table {
        entries: all.split_off(start),
        first,
        policy,
    })
}

impl Table {
    fn look(
        &self,
        layout: &Layout,
        place: Place,
        mark: u32,
        found: &mut Findings,
    ) -> io::Result<()> {
        let decision = |mark| {
            let family = layout.family;
            self.decision(layout, Packet { mark, family })
        };
        match place {
            Place::Forward => {
                if decision(mark)? == Outcome::Dropped {
                    found.dropping.push(dropping(layout.command, mark));
                }
            }
            Place::Postrouting => {
                if masquerades_by(mark, decision)? {
                    found.masquerading.push(masquerading(layout.command));
                }
            }
        }
        Ok(())
    }

    fn decision(&self, layout: &Layout, packet: Packet) -> io::Result<Outcome> {
        let mut chains = Chains::new();
        let mut waiting = vec![self.first];
        while let Some(first) = waiting.pop() {
            if chains.contains_key(&first) {
                continue;
            }
            let rules = self.chain(layout, first, packet)?;
            for rule in &rules {
                waiting.extend(rule.leads_to());
            }
            chains.insert(first, rules);
        }
        let policy = self.entry(layout, self.policy)?;
        let policy = policy.rule(layout, self.policy, packet)?;
        let policy_is_drop = policy.is_some_and(|rule| rule.action == Action::Drop);
        Ok(decision(&chains, &self.first, policy_is_drop))
    }

    /// The rules of a chain: up to the policy, or to the entry that begins another chain.
    fn chain(&self, layout: &Layout, first: usize, packet: Packet) -> io::Result<Vec<Rule<usize>>> {
        let mut rules = Vec::new();
        let mut at = first;
        while at < self.entries.len() && at != self.policy {
            let entry = self.entry(layout, at)?;
            let Some(rule) = entry.rule(layout, at, packet)? else {
                break;
            };
            rules.push(rule);
            at += entry.bytes.len();
        }
        Ok(rules)
    }

    fn entry(&self, layout: &Layout, at: usize) -> io::Result<Entry<'_>> {
        let bytes = self.entries.get(at..).unwrap_or_default();
        let target = short(bytes, layout.offsets)?;
        let next = short(bytes, layout.offsets + 2)?;
        if target < layout.entry || next < target + HEADER {
            return Err(malformed("an entry of iptables has no target"));
        }
        let bytes = bytes.get(..next);
        Ok(Entry {
            bytes: bytes.ok_or_else(|| malformed("an entry of iptables is cut"))?,
            target,
        })
    }
}

/// `struct ipt_entry`, its matches and its target.
struct Entry<'a> {
    bytes: &'a [u8],
    target: usize,
}

impl Entry<'_> {
    /// Of the entry at an offset; `None` if it begins a chain or ends the table.
    fn rule(&self, layout: &Layout, at: usize, packet: Packet) -> io::Result<Option<Rule<usize>>> {
        let (_, name) = self.extension(self.target)?;
        let byte = |at: usize| self.bytes.get(at).copied().unwrap_or_default();
        let flags = byte(layout.flags);
        let action = match name {
            b"ERROR" => return Ok(None),
            b"REJECT" => Action::Drop,
            b"MASQUERADE" | b"SNAT" => Action::Masquerade,
            b"" => {
                let verdict = number(self.bytes, self.target + HEADER)?;
                let goes = flags & layout.goto != 0;
                // Negative ones are those of netfilter, minus one; others are offsets.
                match u32::try_from(verdict).unwrap_or_default().cast_signed() {
                    -1 => Action::Drop,
                    -2 => Action::Accept,
                    -5 => Action::Return,
                    negative if negative < 0 => Action::Continue,
                    _ if verdict == at + self.bytes.len() => Action::Continue,
                    _ if goes => Action::Goto(verdict),
                    _ => Action::Jump(verdict),
                }
            }
            _ => Action::Continue,
        };
        let addresses = self.bytes.get(..layout.address).unwrap_or_default();
        let is_any = addresses.iter().all(|byte| *byte == 0)
            && flags & layout.conditions == 0
            && byte(layout.invert) == 0;
        let mut conditions = vec![is_any.then_some(true)];
        let mut match_at = layout.entry;
        while match_at < self.target {
            let (size, name) = self.extension(match_at)?;
            let info = self.bytes.get(match_at + HEADER..match_at + size);
            conditions.push(match name {
                b"comment" => Some(true),
                b"mark" => xt_mark(info.unwrap_or_default(), packet),
                _ => None,
            });
            match_at += size;
        }
        Ok(Some(Rule {
            applies: all(conditions.into_iter()),
            action,
        }))
    }

    /// The size and the name of a match or a target.
    fn extension(&self, at: usize) -> io::Result<(usize, &[u8])> {
        let size = short(self.bytes, at)?;
        let name = self.bytes.get(at + 2..at + HEADER - 1);
        match name {
            Some(name) if size >= HEADER => {
                let end = name.iter().position(|byte| *byte == 0);
                Ok((size, name.get(..end.unwrap_or(name.len())).unwrap_or(name)))
            }
            _ => Err(malformed("a match of iptables is cut")),
        }
    }
}

fn number(bytes: &[u8], at: usize) -> io::Result<usize> {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
    let bytes = bytes.ok_or_else(|| malformed("a table of iptables is cut"))?;
    Ok(u32::from_ne_bytes(*bytes) as usize)
}

fn short(bytes: &[u8], at: usize) -> io::Result<usize> {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
    let bytes = bytes.ok_or_else(|| malformed("an entry of iptables is cut"))?;
    Ok(u16::from_ne_bytes(*bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: Packet = Packet {
        mark: 0x4000,
        family: Family::V4,
    };

    fn extension(name: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        let size = u16::try_from(HEADER + data.len()).unwrap();
        bytes.splice(..2, size.to_ne_bytes());
        bytes.splice(2..2 + name.len(), name.bytes());
        bytes.extend(data);
        bytes
    }

    fn entry(layout: &Layout, matches: &[Vec<u8>], target: Vec<u8>) -> Vec<u8> {
        let mut bytes = vec![0; layout.entry];
        bytes.extend(matches.concat());
        let offset = u16::try_from(bytes.len()).unwrap();
        bytes.extend(target);
        let next = u16::try_from(bytes.len()).unwrap();
        bytes.splice(layout.offsets..layout.offsets + 2, offset.to_ne_bytes());
        bytes.splice(layout.offsets + 2..layout.offsets + 4, next.to_ne_bytes());
        bytes
    }

    fn verdict(verdict: i32) -> Vec<u8> {
        extension("", &[verdict.to_ne_bytes(), [0; 4]].concat())
    }

    fn mark() -> Vec<u8> {
        let mark = 0x4000_u32.to_ne_bytes();
        extension("mark", &[mark, mark, [0; 4], [0; 4]].concat())
    }

    /// Whether a packet is dropped by a chain with these entries before its policy, in a table whose only
    /// other chain accepts the mark.
    fn dropped(layout: &Layout, rules: &[Vec<u8>], policy: i32) -> bool {
        let mut entries = rules.concat();
        let at = entries.len();
        entries.extend(entry(layout, &[], verdict(policy)));
        entries.extend(entry(layout, &[], extension("ERROR", &[0; 32])));
        entries.extend(entry(layout, &[mark()], verdict(-2)));
        entries.extend(entry(layout, &[], verdict(-5)));
        entries.extend(entry(layout, &[], extension("ERROR", &[0; 32])));
        let table = Table {
            entries,
            first: 0,
            policy: at,
        };
        table.decision(layout, PACKET).unwrap() == Outcome::Dropped
    }

    #[test]
    fn a_chain_drops_unless_it_or_one_that_it_jumps_to_accepts_the_mark() {
        for layout in &LAYOUTS {
            assert!(dropped(layout, &[], -1));
            assert!(!dropped(layout, &[], -2));
            let accepts = entry(layout, &[mark()], verdict(-2));
            assert!(!dropped(layout, &[accepts], -1));
            let mut of_device = entry(layout, &[mark()], verdict(-2));
            of_device[layout.address - 20] = 1;
            assert!(dropped(layout, &[of_device], -1));
            let other = entry(layout, &[extension("conntrack", &[0; 8])], verdict(-2));
            assert!(dropped(layout, &[other], -1));
            assert!(dropped(
                layout,
                &[entry(layout, &[], extension("REJECT", &[0; 8]))],
                -2
            ));
            // To the chain behind the policy, with a comment.
            let comment = extension("comment", &[0; 256]);
            let jump = |to: usize| {
                let to = i32::try_from(to).unwrap();
                entry(layout, std::slice::from_ref(&comment), verdict(to))
            };
            let own = jump(0).len();
            let policy = entry(layout, &[], verdict(-1)).len();
            let head = entry(layout, &[], extension("ERROR", &[0; 32])).len();
            assert!(!dropped(layout, &[jump(own + policy + head)], -1));
        }
    }

    #[test]
    fn kube_proxys_rules_masquerade_by_the_mark_and_those_of_others_do_not() {
        for layout in &LAYOUTS {
            let not_marked = [
                0x4000_u32.to_ne_bytes(),
                0x4000_u32.to_ne_bytes(),
                [1, 0, 0, 0],
                [0; 4],
            ];
            let not_marked = extension("mark", &not_marked.concat());
            let returns = entry(layout, &[not_marked], verdict(-5));
            let clears = entry(layout, &[], extension("MARK", &[0; 16]));
            let masquerades = entry(layout, &[], extension("MASQUERADE", &[0; 24]));
            let found = |rules: &[&[u8]]| {
                let mut entries = rules.concat();
                let policy = entries.len();
                entries.extend(entry(layout, &[], verdict(-2)));
                let first = 0;
                let table = Table {
                    entries,
                    first,
                    policy,
                };
                let mut found = Findings::default();
                let place = Place::Postrouting;
                table.look(layout, place, 0x4000, &mut found).unwrap();
                assert!(found.dropping.is_empty());
                found.masquerading
            };
            let place = format!("the chain POSTROUTING of {}", layout.command);
            assert_eq!(found(&[&returns, &clears, &masquerades]), [place]);
            assert!(found(&[&masquerades]).is_empty());
            assert!(found(&[&returns, &clears]).is_empty());
            let of_addresses = entry(
                layout,
                &[extension("set", &[0; 8])],
                extension("MASQUERADE", &[0; 24]),
            );
            assert!(found(&[&of_addresses]).is_empty());
        }
    }

    #[test]
    fn a_cut_table_is_an_error_and_never_a_panic() {
        let layout = &LAYOUTS[0];
        let whole = entry(layout, &[mark()], verdict(-2));
        for length in 0..whole.len() {
            let table = Table {
                entries: whole[..length].to_vec(),
                first: 0,
                policy: 0,
            };
            assert!(table.decision(layout, PACKET).is_err(), "{length}");
        }
    }
}
