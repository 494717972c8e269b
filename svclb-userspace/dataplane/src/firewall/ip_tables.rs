//! The chains PREROUTING, FORWARD, and POSTROUTING of NAT, of `iptables-legacy`, by getsockopt(2)
//! (include/uapi/linux/netfilter_ipv4/ip_tables.h and netfilter_ipv6/ip6_tables.h).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

use svclb_core::model::Family;

use super::missing::{Sight, missing};
use super::rules::{
    Action, Chains, Condition, Dropping, Field, Findings, Outcome, Packet, Place, Rule, Test,
    decision, malformed, masquerades_by, xt_match,
};
use super::traffic::Traffic;
use crate::sys;

/// Where a family's structures have what.
struct Layout {
    family: Family,
    command: &'static str,
    /// The tables that exist; to ask for another one would make it.
    names: &'static str,
    level: i32,
    /// How long an address is, of which an entry has four at first: source, destination, their masks.
    address: usize,
    /// Which bytes of an entry are flags: for fragments and the like, and to invert a condition.
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
        address: 4,
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
        address: 16,
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

/// The tables that have chains which decide, and the priority of these chains.
const TABLES: [(&str, Place, i32); 5] = [
    ("raw", Place::Prerouting, -300),
    ("mangle", Place::Prerouting, -150),
    ("mangle", Place::Forward, -150),
    ("filter", Place::Forward, 0),
    ("nat", Place::Postrouting, 100),
];

/// What is in the way of packets with each of these marks.
///
/// # Errors
/// The system's error.
pub(super) fn look(marks: &[u32], traffic: &Traffic) -> io::Result<Vec<Findings>> {
    let mut found = vec![Findings::default(); marks.len()];
    for layout in &LAYOUTS {
        for (name, place, priority) in TABLES {
            if !traffic.families.contains(&layout.family) || !has_table(layout, name) {
                continue;
            }
            let table = read(layout, name, place, priority)?;
            for (mark, found) in marks.iter().zip(&mut found) {
                table.look(layout, *mark, traffic, found)?;
            }
        }
    }
    Ok(found)
}

pub(super) fn dropping(command: &str, table: &str, place: Place, mark: u32) -> Dropping {
    let (chain, of_table) = (chain_name(place), of_table(table));
    Dropping {
        place,
        chain: chain_of(command, table, place),
        remedy: format!(
            "{command}{of_table} -I {chain} -m mark --mark {mark:#x}/{mark:#x} -j ACCEPT"
        ),
    }
}

/// The chain of a table, in words.
pub(super) fn chain_of(command: &str, table: &str, place: Place) -> String {
    let of_table = match table {
        "raw" | "mangle" => of_table(table),
        _ => String::new(),
    };
    format!("the chain {} of {command}{of_table}", chain_name(place))
}

fn of_table(table: &str) -> String {
    match table {
        "filter" => String::new(),
        table => format!(" -t {table}"),
    }
}

pub(super) const fn chain_name(place: Place) -> &'static str {
    match place {
        Place::Prerouting => "PREROUTING",
        Place::Forward => "FORWARD",
        Place::Postrouting => "POSTROUTING",
    }
}

fn has_table(layout: &Layout, table: &str) -> bool {
    let names = fs::read_to_string(layout.names).unwrap_or_default();
    names.lines().any(|name| name == table)
}

/// The entries of a table, and where the chain of a hook begins and has its policy.
struct Table {
    name: &'static str,
    place: Place,
    priority: i32,
    entries: Vec<u8>,
    first: usize,
    policy: usize,
}

fn read(layout: &Layout, name: &'static str, place: Place, priority: i32) -> io::Result<Table> {
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
        name,
        place,
        priority,
        entries: all.split_off(start),
        first,
        policy,
    })
}

impl Table {
    fn look(
        &self,
        layout: &Layout,
        mark: u32,
        traffic: &Traffic,
        found: &mut Findings,
    ) -> io::Result<()> {
        let decision = |mark| self.decision(layout, Packet::new(mark, layout.family));
        let mut drops = false;
        match self.place {
            Place::Prerouting => {
                for packet in traffic.to_pods(mark, layout.family) {
                    drops |= self.decision(layout, packet)? == Outcome::Dropped;
                }
            }
            Place::Forward => drops = decision(mark)? == Outcome::Dropped,
            Place::Postrouting => {
                if masquerades_by(mark, decision)? {
                    let chain = chain_of(layout.command, self.name, self.place);
                    found.masquerading.push(chain);
                }
                return Ok(());
            }
        }
        if drops {
            let dropping = dropping(layout.command, self.name, self.place, mark);
            found.dropping.push(dropping);
        }
        let frontends = traffic.frontends(layout.family);
        let sight = Sight::of(self.place, self.priority);
        let mut rules = BTreeSet::new();
        for packet in traffic.to_frontends(layout.family) {
            let chains = self.chains(layout, packet, Rule::may_lead_to)?;
            rules.extend(missing(&chains, &self.first, sight, &frontends));
        }
        let chain = chain_of(layout.command, self.name, self.place);
        found.missing.extend(rules.iter().map(|_| chain.clone()));
        Ok(())
    }

    fn decision(&self, layout: &Layout, packet: Packet<'_>) -> io::Result<Outcome> {
        let chains = self.chains(layout, packet, Rule::leads_to)?;
        let policy = self.entry(layout, self.policy)?;
        let policy = policy.rule(layout, self.policy, packet)?;
        let policy_is_drop = policy.is_some_and(|rule| rule.action == Action::Drop);
        Ok(decision(&chains, &self.first, policy_is_drop))
    }

    /// The chain of the hook, and those that its rules lead to.
    fn chains(
        &self,
        layout: &Layout,
        packet: Packet<'_>,
        leads_to: fn(&Rule<usize>) -> Option<usize>,
    ) -> io::Result<Chains<usize>> {
        let mut chains = Chains::new();
        let mut waiting = vec![self.first];
        while let Some(first) = waiting.pop() {
            if chains.contains_key(&first) {
                continue;
            }
            let rules = self.chain(layout, first, packet)?;
            waiting.extend(rules.iter().filter_map(leads_to));
            chains.insert(first, rules);
        }
        Ok(chains)
    }

    /// The rules of a chain: up to the policy, or to the entry that begins another chain.
    fn chain(
        &self,
        layout: &Layout,
        first: usize,
        packet: Packet<'_>,
    ) -> io::Result<Vec<Rule<usize>>> {
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
    fn rule(
        &self,
        layout: &Layout,
        at: usize,
        packet: Packet<'_>,
    ) -> io::Result<Option<Rule<usize>>> {
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
        let mut conditions = self.conditions(layout, packet)?;
        let mut match_at = layout.entry;
        while match_at < self.target {
            let (size, name) = self.extension(match_at)?;
            let info = self.bytes.get(match_at + HEADER..match_at + size);
            let revision = byte(match_at + HEADER - 1);
            let info = info.unwrap_or_default();
            conditions.extend(xt_match(name, revision, info, packet));
            match_at += size;
        }
        Ok(Some(Rule::new(conditions, packet, action)))
    }

    /// Those of `struct ipt_ip`: the addresses, the names of the devices by which packets come in and
    /// leave with a mask for each, and the protocol.
    fn conditions(&self, layout: &Layout, packet: Packet<'_>) -> io::Result<Vec<Condition>> {
        const DEVICE: u8 = 1;
        const DESTINATION: u8 = 0x10;
        const PROTOCOL: u8 = 0x40;
        let part = |at: usize, length: usize| {
            let bytes = self.bytes.get(at..at + length);
            bytes.ok_or_else(|| malformed("an entry of iptables is cut"))
        };
        let address = |index: usize| part(index * layout.address, layout.address);
        let name = |index: usize| part(4 * layout.address + 16 * index, 16);
        let is_any = |mask: &[u8]| mask.iter().all(|byte| *byte == 0);
        let byte = |at: usize| self.bytes.get(at).copied().unwrap_or_default();
        let inverted = byte(layout.invert);
        let is_inverted = |flag| inverted & flag != 0;
        let others = is_any(address(2)?)
            && is_any(name(3)?)
            && byte(layout.flags) & layout.conditions == 0
            && inverted & !(DEVICE | DESTINATION | PROTOCOL) == 0;
        let mut conditions = vec![Condition::Other(others.then_some(true))];
        if !is_any(name(2)?) || is_inverted(DEVICE) {
            let (wanted, mask) = (name(0)?, name(2)?);
            let is_met = packet.device.map(|(_, device)| {
                let device = device.bytes().chain(std::iter::repeat(0));
                let mut pairs = device.zip(wanted.iter().zip(mask));
                let is_same = pairs.all(|(one, (two, mask))| (one ^ two) & mask == 0);
                is_same != is_inverted(DEVICE)
            });
            conditions.push(Condition::Other(is_met));
        }
        if !is_any(address(3)?) || is_inverted(DESTINATION) {
            conditions.push(Test::address(
                Field::Address,
                address(1)?,
                address(3)?,
                is_inverted(DESTINATION),
            ));
        }
        let protocol = short(self.bytes, 4 * layout.address + 64)?;
        if protocol != 0 || is_inverted(PROTOCOL) {
            conditions.push(match u8::try_from(protocol) {
                Ok(protocol) => Test::protocol(protocol, is_inverted(PROTOCOL)),
                Err(_) => Condition::Other(None),
            });
        }
        Ok(conditions)
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
    use std::net::IpAddr;

    use super::super::missing::Frontend;
    use super::*;

    fn packet() -> Packet<'static> {
        Packet::new(0x4000, Family::V4)
    }

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

    fn table(entries: Vec<u8>, policy: usize, place: Place) -> Table {
        let (name, _, priority) = TABLES.into_iter().find(|table| table.1 == place).unwrap();
        Table {
            name,
            place,
            priority,
            entries,
            first: 0,
            policy,
        }
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
        let table = table(entries, at, Place::Forward);
        table.decision(layout, packet()).unwrap() == Outcome::Dropped
    }

    #[test]
    fn a_chain_drops_unless_it_or_one_that_it_jumps_to_accepts_the_mark() {
        for layout in &LAYOUTS {
            assert!(dropped(layout, &[], -1));
            assert!(!dropped(layout, &[], -2));
            let accepts = entry(layout, &[mark()], verdict(-2));
            assert!(!dropped(layout, &[accepts], -1));
            let mut of_device = entry(layout, &[mark()], verdict(-2));
            of_device[4 * layout.address + 32] = 1;
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
                let table = table(entries, policy, Place::Postrouting);
                let mut found = Findings::default();
                let traffic = Traffic::default();
                table.look(layout, 0x4000, &traffic, &mut found).unwrap();
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

    /// What is found of the chain of a table that has this rule.
    fn found(layout: &Layout, place: Place, rule: Vec<u8>) -> Findings {
        let (pod, at) = match layout.family {
            Family::V4 => ("10.244.1.10", "192.0.2.1:30080"),
            Family::V6 => ("fd00::a", "[2001:db8::1]:30080"),
        };
        let pod: IpAddr = pod.parse().unwrap();
        let traffic = Traffic {
            families: vec![layout.family],
            bridges: vec![],
            uplinks: vec![(7, "eth0".into())],
            pods: vec![pod],
            frontends: vec![Frontend {
                at: at.parse().unwrap(),
                protocol: 6,
                backend: Some((pod, 80).into()),
            }],
        };
        let policy = rule.len();
        let entries = [rule, entry(layout, &[], verdict(-2))].concat();
        let mut found = Findings::default();
        let table = table(entries, policy, place);
        table.look(layout, 0x4000, &traffic, &mut found).unwrap();
        found
    }

    fn shorts(numbers: &[u16]) -> Vec<u8> {
        numbers.iter().flat_map(|one| one.to_ne_bytes()).collect()
    }

    #[test]
    fn rules_that_drop_by_a_frontend_are_counted() {
        let tcp = |first, last| {
            let ports = shorts(&[0, u16::MAX, first, last]);
            extension("tcp", &[ports, vec![0; 4]].concat())
        };
        let multiport = |which: u8| {
            let mut info = vec![which, 3];
            info.extend(shorts(&[22, 30_000, 32_767]));
            info.resize(32, 0);
            info.extend([0, 1]);
            info.resize(48, 0);
            extension("multiport", &info)
        };
        let original = |first: u16, last: u16| {
            let mut info = vec![0; 160];
            info.splice(140..142, first.to_ne_bytes());
            info.splice(146..148, (1_u16 << 9).to_ne_bytes());
            info.splice(156..158, last.to_ne_bytes());
            let mut matched = extension("conntrack", &info);
            matched[HEADER - 1] = 3;
            matched
        };
        for layout in &LAYOUTS {
            for (place, matched, missing) in [
                (Place::Prerouting, tcp(30_000, 32_767), 1),
                (Place::Prerouting, tcp(22, 22), 0),
                (Place::Prerouting, tcp(80, 80), 0),
                (Place::Prerouting, multiport(1), 1),
                (Place::Prerouting, multiport(0), 0),
                (Place::Forward, original(30_000, 32_767), 1),
                (Place::Forward, original(22, 22), 0),
                (Place::Forward, tcp(30_000, 32_767), 0),
            ] {
                let rule = |action| entry(layout, std::slice::from_ref(&matched), verdict(action));
                let dropped = found(layout, place, rule(-1));
                assert_eq!(dropped.missing.len(), missing, "{place:?} {matched:?}");
                assert!(dropped.dropping.is_empty());
                assert!(found(layout, place, rule(-2)).missing.is_empty());
            }
        }
    }

    #[test]
    fn a_chain_that_drops_what_is_for_pods_by_an_uplink_is_found_with_its_remedy() {
        for layout in &LAYOUTS {
            let pods: &[u8] = match layout.family {
                Family::V4 => &[10, 244],
                Family::V6 => &[0xfd, 0],
            };
            let rule = |network: &[u8], device: &str, invert: u8| {
                let mut rule = entry(layout, &[], verdict(-1));
                let length = layout.address;
                rule.splice(length..length + 2, network.iter().copied());
                rule.splice(3 * length..3 * length + 2, [0xff; 2]);
                let end = device.len();
                rule.splice(4 * length..4 * length + end, device.bytes());
                rule.splice(4 * length + 32..4 * length + 32 + end, vec![0xff; end]);
                rule[layout.invert] = invert;
                rule
            };
            for (rule, is_found) in [
                (rule(pods, "eth0\0", 0), true),
                (rule(pods, "eth", 0), true),
                (rule(pods, "docker0\0", 1), true),
                (rule(pods, "docker0\0", 0), false),
                (rule(pods, "eth0\0", 1), false),
                (rule(&[10, 99], "eth0\0", 0), false),
                (rule(pods, "eth0\0", 0x10), false),
            ] {
                let found = found(layout, Place::Prerouting, rule);
                assert_eq!(!found.dropping.is_empty(), is_found);
                assert!(found.missing.is_empty());
                let command = layout.command;
                let remedy = format!(
                    "{command} -t raw -I PREROUTING -m mark --mark 0x4000/0x4000 -j ACCEPT"
                );
                assert!(found.dropping.iter().all(|one| one.remedy == remedy));
            }
        }
    }

    #[test]
    fn a_cut_table_is_an_error_and_never_a_panic() {
        let layout = &LAYOUTS[0];
        let whole = entry(layout, &[mark()], verdict(-2));
        for length in 0..whole.len() {
            let table = table(whole[..length].to_vec(), 0, Place::Forward);
            assert!(table.decision(layout, packet()).is_err(), "{length}");
        }
    }
}
