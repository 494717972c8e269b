//! The chains of nf_tables that filter at the prerouting and forward hooks, and those of NAT at the
//! postrouting hook, by netlink (include/uapi/linux/netfilter/nf_tables.h), and so those that `iptables-nft` makes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use netlink_packet_core::NlasIterator;
use svclb_core::model::Family;

use super::ip_tables;
use super::missing::{Sight, missing};
use super::rules::{
    Action, Chains, Condition, Dropping, Field, Findings, Outcome, Packet, Place, Range, Rule,
    Test, decision, malformed, masquerades_by, xt_match,
};
use super::traffic::Traffic;
use crate::netlink::Netlink;

/// `NFNL_SUBSYS_NFTABLES`, in the upper byte of a message's type.
const SUBSYSTEM: u16 = 10 << 8;
const NFT_MSG_GETCHAIN: u16 = SUBSYSTEM | 4;
const NFT_MSG_GETRULE: u16 = SUBSYSTEM | 7;
const NFT_MSG_GETSETELEM: u16 = SUBSYSTEM | 13;

/// `NFPROTO_…`: tables of one family, or of both.
const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// A base chain.
#[derive(Debug)]
struct BaseChain {
    place: Place,
    protocol: u8,
    table: String,
    name: String,
    priority: i32,
    policy_is_drop: bool,
}

/// What is in the way of packets with each of these marks.
///
/// # Errors
/// The system's error; where the kernel has no nf_tables, too.
pub(super) fn look(marks: &[u32], traffic: &Traffic) -> io::Result<Vec<Findings>> {
    /// How often a list is asked for that changes meanwhile.
    const ATTEMPTS: u32 = 5;
    for _ in 1..ATTEMPTS {
        match read(marks, traffic) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
    read(marks, traffic)
}

fn read(marks: &[u32], traffic: &Traffic) -> io::Result<Vec<Findings>> {
    let mut netlink = Netlink::netfilter()?;
    let mut chains = Vec::new();
    // struct nfgenmsg: family (of all), version, resource.
    netlink.dump(NFT_MSG_GETCHAIN, &[0; 4], |message| {
        chains.extend(base_chain(message));
    })?;
    let mut found = vec![Findings::default(); marks.len()];
    for chain in &chains {
        let mut rules = Rules::new(Table {
            netlink: &mut netlink,
            chain,
        });
        for (mark, found) in marks.iter().zip(&mut found) {
            look_at(chain, &mut rules, *mark, traffic, found)?;
        }
    }
    Ok(found)
}

fn look_at<L: List>(
    chain: &BaseChain,
    rules: &mut Rules<L>,
    mark: u32,
    traffic: &Traffic,
    found: &mut Findings,
) -> io::Result<()> {
    let (mut drops, mut masquerades) = (false, false);
    let mut misses = BTreeSet::new();
    for family in &traffic.families {
        let is_seen = match family {
            Family::V4 => chain.protocol != IPV6,
            Family::V6 => chain.protocol != IPV4,
        };
        if !is_seen {
            continue;
        }
        let mut decision = |mark| rules.decision(chain, Packet::new(mark, *family));
        match chain.place {
            Place::Prerouting => {
                for packet in traffic.to_pods(mark, *family) {
                    drops |= rules.decision(chain, packet)? == Outcome::Dropped;
                }
            }
            Place::Forward => drops |= decision(mark)? == Outcome::Dropped,
            Place::Postrouting => {
                masquerades |= masquerades_by(mark, decision)?;
                continue;
            }
        }
        let frontends = traffic.frontends(*family);
        let sight = Sight::of(chain.place, chain.priority);
        for packet in traffic.to_frontends(*family) {
            let chains = rules.chains(chain, packet, Rule::may_lead_to)?;
            misses.extend(missing(&chains, &chain.name, sight, &frontends));
        }
    }
    if drops {
        found.dropping.push(dropping(chain, mark));
    }
    if masquerades {
        found.masquerading.push(in_words(chain));
    }
    found.missing.extend(misses.iter().map(|_| in_words(chain)));
    Ok(())
}

/// What a table has.
trait List {
    /// The expressions of each rule of a chain.
    fn rules(&mut self, chain: &str) -> io::Result<Vec<Vec<u8>>>;
    /// The attributes of each element of a set.
    fn elements(&mut self, set: &str) -> io::Result<Vec<Vec<u8>>>;
}

/// The kernel's table that a base chain is in.
struct Table<'a> {
    netlink: &'a mut Netlink,
    chain: &'a BaseChain,
}

impl Table<'_> {
    /// A request about a chain or a set of the table: the attributes of its names have the same numbers.
    fn request(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut request = vec![self.chain.protocol, 0, 0, 0];
        put_text(&mut request, NFTA_RULE_TABLE, &self.chain.table)?;
        put_text(&mut request, NFTA_RULE_CHAIN, name)?;
        Ok(request)
    }
}

impl List for Table<'_> {
    fn rules(&mut self, name: &str) -> io::Result<Vec<Vec<u8>>> {
        let request = self.request(name)?;
        let mut rules = Vec::new();
        self.netlink.dump(NFT_MSG_GETRULE, &request, |message| {
            let attributes = Attributes::new(message.get(4..).unwrap_or_default());
            if attributes.text(NFTA_RULE_CHAIN).as_deref() == Some(name) {
                let expressions = attributes.get(NFTA_RULE_EXPRESSIONS);
                rules.push(expressions.unwrap_or_default().to_vec());
            }
        })?;
        Ok(rules)
    }

    fn elements(&mut self, name: &str) -> io::Result<Vec<Vec<u8>>> {
        const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
        let request = self.request(name)?;
        let mut elements = Vec::new();
        self.netlink.dump(NFT_MSG_GETSETELEM, &request, |message| {
            let attributes = Attributes::new(message.get(4..).unwrap_or_default());
            let list = attributes.get(NFTA_SET_ELEM_LIST_ELEMENTS);
            let list = Attributes::new(list.unwrap_or_default());
            elements.extend(list.all().map(|(_, element)| element.to_vec()));
        })?;
        Ok(elements)
    }
}

/// The rules of a table, by chain: those that a packet comes to are listed, since kube-proxy's table of
/// NAT has thousands. So are the sets that where a packet goes is looked up in.
struct Rules<L> {
    list: L,
    known: BTreeMap<String, Vec<Vec<u8>>>,
    sets: BTreeMap<String, Vec<Range>>,
}

impl<L: List> Rules<L> {
    /// How many chains are listed for one base chain.
    const CHAINS: usize = 1000;

    const fn new(list: L) -> Self {
        Self {
            list,
            known: BTreeMap::new(),
            sets: BTreeMap::new(),
        }
    }

    /// What becomes of a packet that comes to a base chain.
    fn decision(&mut self, chain: &BaseChain, packet: Packet<'_>) -> io::Result<Outcome> {
        let chains = self.chains(chain, packet, Rule::leads_to)?;
        Ok(decision(&chains, &chain.name, chain.policy_is_drop))
    }

    /// A base chain, and those that its rules lead to.
    fn chains(
        &mut self,
        chain: &BaseChain,
        packet: Packet<'_>,
        leads_to: fn(&Rule<String>) -> Option<String>,
    ) -> io::Result<Chains<String>> {
        let mut chains = Chains::new();
        let mut waiting = vec![chain.name.clone()];
        while let Some(name) = waiting.pop() {
            if chains.contains_key(&name) || chains.len() >= Self::CHAINS {
                continue;
            }
            let rules = self.chain(&name, packet)?;
            waiting.extend(rules.iter().filter_map(leads_to));
            chains.insert(name, rules);
        }
        Ok(chains)
    }

    fn chain(&mut self, name: &str, packet: Packet<'_>) -> io::Result<Vec<Rule<String>>> {
        let Self { list, known, sets } = self;
        if !known.contains_key(name) {
            known.insert(name.to_owned(), list.rules(name)?);
        }
        let mut set = |name: &str| {
            // One that can't be listed is unknown, as are others that are not known here.
            if !sets.contains_key(name) {
                sets.insert(name.to_owned(), ranges(&list.elements(name).ok()?));
            }
            sets.get(name).cloned()
        };
        let rules = known.get(name).into_iter().flatten();
        Ok(rules.map(|one| rule(one, packet, &mut set)).collect())
    }
}

/// The ranges of a set, by its elements: each is a value, or one begins a range, and the first value behind
/// the range ends it.
fn ranges(elements: &[Vec<u8>]) -> Vec<Range> {
    const NFTA_SET_ELEM_KEY: u16 = 1;
    const NFTA_SET_ELEM_FLAGS: u16 = 3;
    const NFT_SET_ELEM_INTERVAL_END: u32 = 1;
    let bound = |element: &Vec<u8>| {
        let element = Attributes::new(element);
        let key = Attributes::new(element.get(NFTA_SET_ELEM_KEY)?).get(1)?;
        let flags = element.number(NFTA_SET_ELEM_FLAGS).unwrap_or(0);
        let is_first = flags & NFT_SET_ELEM_INTERVAL_END == 0;
        Some((key.to_vec(), is_first))
    };
    let mut bounds: Vec<_> = elements.iter().filter_map(bound).collect();
    // Where one range ends as another begins, the end is first.
    bounds.sort();
    let are_ranges = bounds.iter().any(|(_, is_first)| !is_first);
    let mut ranges = Vec::new();
    let mut rest = bounds.into_iter().peekable();
    while let Some((first, is_first)) = rest.next() {
        if !is_first {
            continue;
        }
        let last = match rest.peek() {
            _ if !are_ranges => first.clone(),
            Some((end, _)) => before(end),
            None => vec![0xff; first.len()],
        };
        ranges.push((first, last));
    }
    ranges
}

/// The number before another, in network byte order.
fn before(number: &[u8]) -> Vec<u8> {
    let mut number = number.to_vec();
    for byte in number.iter_mut().rev() {
        let is_borrowed = *byte == 0;
        *byte = byte.wrapping_sub(1);
        if !is_borrowed {
            break;
        }
    }
    number
}

const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;

/// The chain of a message, if it is one that decides about packets that are forwarded.
fn base_chain(message: &[u8]) -> Option<BaseChain> {
    const NF_DROP: u32 = 0;
    let (header, attributes) = message.split_first_chunk::<4>()?;
    let protocol = header[0];
    let attributes = Attributes::new(attributes);
    let hook = Attributes::new(attributes.get(NFTA_CHAIN_HOOK)?);
    let priority = hook.number(NFTA_HOOK_PRIORITY).unwrap_or(0);
    let hook = hook.number(NFTA_HOOK_HOOKNUM)?;
    let is_nat = attributes.text(NFTA_CHAIN_TYPE).as_deref() == Some("nat");
    let is_at = |place: &Place| u32::from(place.hook()) == hook;
    let place = Place::ALL.into_iter().find(is_at)?;
    let decides = [INET, IPV4, IPV6].contains(&protocol)
        && match place {
            Place::Forward => true,
            Place::Prerouting => !is_nat,
            Place::Postrouting => is_nat,
        };
    decides.then_some(BaseChain {
        place,
        protocol,
        table: attributes.text(NFTA_CHAIN_TABLE)?,
        name: attributes.text(NFTA_CHAIN_NAME)?,
        priority: priority.cast_signed(),
        policy_is_drop: attributes.number(NFTA_CHAIN_POLICY) == Some(NF_DROP),
    })
}

const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_LOOKUP_DREG: u16 = 3;
const NFTA_NAT_TYPE: u16 = 1;
const NFT_NAT_SNAT: u32 = 0;

/// A rule: its expressions, one after the other, load and compare registers. `set` knows the sets.
fn rule(
    expressions: &[u8],
    packet: Packet<'_>,
    set: &mut dyn FnMut(&str) -> Option<Vec<Range>>,
) -> Rule<String> {
    let mut registers = Registers::default();
    let mut conditions = Vec::new();
    let mut action = Action::Continue;
    for (_, element) in Attributes::new(expressions).all() {
        let element = Attributes::new(element);
        let name = element.text(NFTA_EXPR_NAME).unwrap_or_default();
        let data = Attributes::new(element.get(NFTA_EXPR_DATA).unwrap_or_default());
        match name.as_str() {
            "counter" | "log" | "notrack" => {}
            "meta" => registers.load_meta(&data, packet),
            "payload" => registers.load_payload(&data, packet.family),
            "ct" => registers.load_ct(&data, packet.family),
            "bitwise" => registers.mask(&data),
            "cmp" => conditions.push(registers.compare(&data)),
            "range" => conditions.push(registers.compare_range(&data)),
            "lookup" if data.number(NFTA_LOOKUP_DREG).is_none() => {
                conditions.push(registers.look_up(&data, set));
            }
            "match" => conditions.extend(conditions_of_match(&data, packet)),
            "immediate" => match verdict(&data) {
                Some(verdict) => action = verdict,
                None => registers.forget(&data),
            },
            "reject" => action = Action::Drop,
            "masq" => action = Action::Masquerade,
            "nat" if data.number(NFTA_NAT_TYPE) == Some(NFT_NAT_SNAT) => {
                action = Action::Masquerade;
            }
            "target" => match data.text(1).as_deref() {
                Some("REJECT") => action = Action::Drop,
                Some("MASQUERADE" | "SNAT") => action = Action::Masquerade,
                // Another changes the packet and goes on, or decides by what is unknown.
                _ => {}
            },
            // A map, a limit, an option of TCP…
            _ => {
                registers.forget(&data);
                conditions.push(Condition::Other(None));
            }
        }
    }
    Rule::new(conditions, packet, action)
}

/// `NFTA_IMMEDIATE_…`: the verdict, if it is one.
fn verdict(data: &Attributes<'_>) -> Option<Action<String>> {
    const NFT_REG_VERDICT: u32 = 0;
    if data.number(1)? != NFT_REG_VERDICT {
        return None;
    }
    // NFTA_DATA_VERDICT: NFTA_VERDICT_CODE and NFTA_VERDICT_CHAIN.
    let verdict = Attributes::new(Attributes::new(data.get(2)?).get(2)?);
    let chain = || verdict.text(2);
    Some(match verdict.number(1)?.cast_signed() {
        0 => Action::Drop,
        1 => Action::Accept,
        -3 => Action::Jump(chain()?),
        -4 => Action::Goto(chain()?),
        -5 => Action::Return,
        _ => Action::Continue,
    })
}

/// `NFTA_MATCH_…`: a match of iptables.
fn conditions_of_match(data: &Attributes<'_>, packet: Packet<'_>) -> Vec<Condition> {
    let name = data.text(1).unwrap_or_default();
    let revision = data.number(2).unwrap_or(0);
    let revision = u8::try_from(revision).unwrap_or(u8::MAX);
    xt_match(
        name.as_bytes(),
        revision,
        data.get(3).unwrap_or_default(),
        packet,
    )
}

/// What a register holds.
#[derive(Clone)]
enum Value {
    Bytes(Vec<u8>),
    /// As many bytes of where the packet goes, from one on, as the mask has.
    Part {
        field: Field,
        at: usize,
        mask: Vec<u8>,
    },
}

/// What is known of the registers.
#[derive(Default)]
struct Registers(BTreeMap<u32, Value>);

impl Registers {
    /// `NFTA_META_DREG` and `NFTA_META_KEY`.
    fn load_meta(&mut self, data: &Attributes<'_>, packet: Packet<'_>) {
        const NFT_META_MARK: u32 = 3;
        // The device by which the packet came in.
        const INDEX: u32 = 4;
        const NAME: u32 = 6;
        const NFT_META_NFPROTO: u32 = 15;
        const NFT_META_L4PROTO: u32 = 16;
        let Some(register) = data.number(1) else {
            // One that sets something.
            return;
        };
        let value = match (data.number(2), packet.device) {
            (Some(NFT_META_MARK), _) => Value::Bytes(packet.mark.to_ne_bytes().to_vec()),
            (Some(INDEX), Some((index, _))) => Value::Bytes(index.to_ne_bytes().to_vec()),
            (Some(NAME), Some((_, name))) => {
                let mut name = name.as_bytes().to_vec();
                name.resize(16, 0);
                Value::Bytes(name)
            }
            (Some(NFT_META_NFPROTO), _) => Value::Bytes(vec![match packet.family {
                Family::V4 => IPV4,
                Family::V6 => IPV6,
            }]),
            (Some(NFT_META_L4PROTO), _) => part(Field::Protocol, 0, 1),
            _ => {
                self.0.remove(&register);
                return;
            }
        };
        self.0.insert(register, value);
    }

    /// `NFTA_PAYLOAD_…`: bytes of the network header, or of the next one.
    fn load_payload(&mut self, data: &Attributes<'_>, family: Family) {
        const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
        const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
        let Some(register) = data.number(1) else {
            return;
        };
        let number = |kind| Some(data.number(kind)? as usize);
        let loaded = || {
            let (field, start, length) = match data.number(2)? {
                NFT_PAYLOAD_NETWORK_HEADER => match family {
                    Family::V4 => (Field::Address, 16, 4),
                    Family::V6 => (Field::Address, 24, 16),
                },
                NFT_PAYLOAD_TRANSPORT_HEADER => (Field::Port, 2, 2),
                _ => return None,
            };
            let (at, count) = (number(3)?.checked_sub(start)?, number(4)?);
            (at < length && count <= length - at).then(|| part(field, at, count))
        };
        self.put(register, loaded());
    }

    /// `NFTA_CT_…`: of where a connection went at first.
    fn load_ct(&mut self, data: &Attributes<'_>, family: Family) {
        const ORIGINAL: &[u8] = &[0];
        let Some(register) = data.number(1) else {
            return;
        };
        let length = match family {
            Family::V4 => 4,
            Family::V6 => 16,
        };
        // NFT_CT_DST, NFT_CT_PROTO_DST, NFT_CT_DST_IP and NFT_CT_DST_IP6.
        let loaded = match (data.number(2), data.get(3), family) {
            (Some(9), Some(ORIGINAL), _)
            | (Some(20), Some(ORIGINAL), Family::V4)
            | (Some(22), Some(ORIGINAL), Family::V6) => {
                Some(part(Field::OriginalAddress, 0, length))
            }
            (Some(12), Some(ORIGINAL), _) => Some(part(Field::OriginalPort, 0, 2)),
            (Some(10), _, _) => Some(part(Field::Protocol, 0, 1)),
            _ => None,
        };
        self.put(register, loaded);
    }

    fn put(&mut self, register: u32, value: Option<Value>) {
        match value {
            Some(value) => self.0.insert(register, value),
            None => self.0.remove(&register),
        };
    }

    /// `NFTA_BITWISE_…`: (source & mask) ^ xor; other operations are unknown.
    fn mask(&mut self, data: &Attributes<'_>) {
        let Some(to) = data.number(2) else {
            return;
        };
        let masked = || {
            if data.number(6).unwrap_or(0) != 0 {
                return None;
            }
            let value = |kind| Attributes::new(data.get(kind)?).get(1);
            let (mask, xor) = (value(4)?, value(5)?);
            let and = |bytes: &[u8]| -> Vec<u8> {
                let bytes = bytes.iter().zip(mask);
                bytes.map(|(byte, mask)| byte & mask).collect()
            };
            Some(match self.0.get(&data.number(1)?)? {
                Value::Bytes(from) => {
                    let bytes = and(from).into_iter().zip(xor);
                    Value::Bytes(bytes.map(|(byte, xor)| byte ^ xor).collect())
                }
                Value::Part {
                    field,
                    at,
                    mask: before,
                } if xor.iter().all(|byte| *byte == 0) => Value::Part {
                    field: *field,
                    at: *at,
                    mask: and(before),
                },
                Value::Part { .. } => return None,
            })
        };
        let masked = masked();
        self.put(to, masked);
    }

    /// `NFTA_CMP_…`: equal, or not; of where a packet goes also less or greater.
    fn compare(&self, data: &Attributes<'_>) -> Condition {
        let compared = || {
            let value = Attributes::new(data.get(3)?).get(1)?;
            let value = value.to_vec();
            let operation = data.number(2)?;
            match self.0.get(&data.number(1)?)? {
                Value::Bytes(register) => {
                    let is_equal = register.get(..value.len())? == value;
                    match operation {
                        0 => Some(Condition::Other(Some(is_equal))),
                        1 => Some(Condition::Other(Some(!is_equal))),
                        _ => None,
                    }
                }
                of_packet @ Value::Part { .. } => {
                    let (least, most) = (vec![0; value.len()], vec![0xff; value.len()]);
                    let (range, is_inverted) = match operation {
                        0 => ((value.clone(), value), false),
                        1 => ((value.clone(), value), true),
                        // Less, at most, greater, at least.
                        2 => ((value, most), true),
                        3 => ((least, value), false),
                        4 => ((least, value), true),
                        5 => ((value, most), false),
                        _ => return None,
                    };
                    test(of_packet, vec![range], is_inverted)
                }
            }
        };
        compared().unwrap_or(Condition::Other(None))
    }

    /// `NFTA_RANGE_…`: within, or not.
    fn compare_range(&self, data: &Attributes<'_>) -> Condition {
        let compared = || {
            let value = |kind| Some(Attributes::new(data.get(kind)?).get(1)?.to_vec());
            let is_inverted = data.number(2)? != 0;
            let register = self.0.get(&data.number(1)?)?;
            test(register, vec![(value(3)?, value(4)?)], is_inverted)
        };
        compared().unwrap_or(Condition::Other(None))
    }

    /// `NFTA_LOOKUP_…`: in a set, or not.
    fn look_up(
        &self,
        data: &Attributes<'_>,
        set: &mut dyn FnMut(&str) -> Option<Vec<Range>>,
    ) -> Condition {
        let mut compared = || {
            let is_inverted = data.number(5).unwrap_or(0) & 1 != 0;
            match self.0.get(&data.number(2)?)? {
                Value::Bytes(_) => None,
                of_packet @ Value::Part { .. } => {
                    test(of_packet, set(&data.text(1)?)?, is_inverted)
                }
            }
        };
        compared().unwrap_or(Condition::Other(None))
    }

    /// An expression of which only this is known, that it may write registers.
    fn forget(&mut self, _data: &Attributes<'_>) {
        self.0.clear();
    }
}

/// As many bytes of a field.
fn part(field: Field, at: usize, length: usize) -> Value {
    let mask = vec![0xff; length];
    Value::Part { field, at, mask }
}

/// A condition about where a packet goes; of several fields at once it is unknown.
fn test(value: &Value, ranges: Vec<Range>, is_inverted: bool) -> Option<Condition> {
    let Value::Part { field, at, mask } = value else {
        return None;
    };
    let is_part = |(first, last): &Range| first.len() == mask.len() && last.len() == mask.len();
    ranges.iter().all(is_part).then(|| {
        Condition::Test(Test {
            field: *field,
            at: *at,
            mask: mask.clone(),
            ranges,
            is_inverted,
        })
    })
}

fn dropping(chain: &BaseChain, mark: u32) -> Dropping {
    let BaseChain {
        table, name, place, ..
    } = chain;
    if let Some(iptables) = iptables(chain) {
        return ip_tables::dropping(iptables, table, *place, mark);
    }
    let family = family_name(chain);
    Dropping {
        place: *place,
        chain: in_words(chain),
        remedy: format!(
            "nft insert rule {family} {table} {name} 'meta mark & {mark:#x} == {mark:#x} accept'"
        ),
    }
}

fn in_words(chain: &BaseChain) -> String {
    let BaseChain {
        table, name, place, ..
    } = chain;
    if let Some(iptables) = iptables(chain) {
        return ip_tables::chain_of(iptables, table, *place);
    }
    let family = family_name(chain);
    format!("the chain {name} of the nftables table {family} {table}")
}

/// The command that lists a chain, if `nft` does not: `iptables-nft` lists its own tables alone.
fn iptables(chain: &BaseChain) -> Option<&'static str> {
    let tables: &[&str] = match chain.place {
        Place::Prerouting => &["raw", "mangle"],
        Place::Forward => &["filter", "mangle"],
        Place::Postrouting => &["nat"],
    };
    if !tables.contains(&&*chain.table) || chain.name != ip_tables::chain_name(chain.place) {
        return None;
    }
    match chain.protocol {
        IPV4 => Some("iptables-nft"),
        IPV6 => Some("ip6tables-nft"),
        _ => None,
    }
}

const fn family_name(chain: &BaseChain) -> &'static str {
    match chain.protocol {
        IPV4 => "ip",
        IPV6 => "ip6",
        _ => "inet",
    }
}

/// Attributes of netlink.
#[derive(Clone, Copy)]
struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Those up to the first that is malformed.
    fn all(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        NlasIterator::new(self.0).map_while(|attribute| {
            let attribute = attribute.ok()?;
            let kind = attribute.kind();
            let length = usize::from(attribute.length());
            Some((kind, attribute.into_inner().get(4..length)?))
        })
    }

    fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.all()
            .find(|(found, _)| *found == kind)
            .map(|(_, value)| value)
    }

    /// Four bytes, in network byte order.
    fn number(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }

    fn text(self, kind: u16) -> Option<String> {
        let text = self.get(kind)?;
        let end = text.iter().position(|byte| *byte == 0);
        let text = text.get(..end.unwrap_or(text.len()))?;
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

/// Appends an attribute: a text with the zero that ends it.
fn put_text(message: &mut Vec<u8>, kind: u16, text: &str) -> io::Result<()> {
    let length = u16::try_from(text.len() + 5).map_err(|_long| malformed("a name is too long"))?;
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(text.as_bytes());
    message.push(0);
    message.resize(message.len().next_multiple_of(4), 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::missing::Frontend;
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn expression(name: &str, data: &[Vec<u8>]) -> Vec<u8> {
        let name = attribute(NFTA_EXPR_NAME, format!("{name}\0").as_bytes());
        attribute(
            1,
            &[name, attribute(NFTA_EXPR_DATA, &data.concat())].concat(),
        )
    }

    fn number(kind: u16, value: u32) -> Vec<u8> {
        attribute(kind, &value.to_be_bytes())
    }

    fn data(kind: u16, value: u32) -> Vec<u8> {
        attribute(kind, &attribute(1, &value.to_ne_bytes()))
    }

    /// `meta mark & 0x4000 == VALUE accept`
    fn accepts(value: u32) -> Vec<Vec<u8>> {
        let accept = attribute(2, &number(1, 1));
        vec![
            expression("meta", &[number(2, 3), number(1, 8)]),
            expression(
                "bitwise",
                &[
                    number(1, 8),
                    number(2, 8),
                    number(3, 4),
                    data(4, 0x4000),
                    data(5, 0),
                ],
            ),
            expression("cmp", &[number(1, 8), number(2, 0), data(3, value)]),
            expression("counter", &[]),
            expression("immediate", &[number(1, 0), attribute(2, &accept)]),
        ]
    }

    fn packet() -> Packet<'static> {
        Packet::new(0x4000, Family::V4)
    }

    /// A rule in a table without sets.
    fn rule(expressions: &[u8], packet: Packet<'_>) -> Rule<String> {
        super::rule(expressions, packet, &mut |_| None)
    }

    /// Rules of each chain, and elements of each set.
    impl<F: FnMut(&str) -> Vec<Vec<u8>>> List for F {
        fn rules(&mut self, chain: &str) -> io::Result<Vec<Vec<u8>>> {
            Ok(self(chain))
        }

        fn elements(&mut self, set: &str) -> io::Result<Vec<Vec<u8>>> {
            Ok(self(set))
        }
    }

    #[test]
    fn a_rule_that_compares_the_mark_applies_or_does_not() {
        let rule = |expressions: Vec<Vec<u8>>| rule(&expressions.concat(), packet());
        let accepted = rule(accepts(0x4000));
        assert_eq!(
            (accepted.applies, accepted.action),
            (Some(true), Action::Accept)
        );
        assert_eq!(rule(accepts(0)).applies, Some(false));
        let mut limited = accepts(0x4000);
        limited.insert(0, expression("limit", &[]));
        assert_eq!(rule(limited).applies, None);
    }

    /// `meta mark & 0x4000 == 0 return`
    fn returns_without_mark() -> Vec<u8> {
        let mut expressions = accepts(0);
        let verdict = attribute(2, &number(1, (-5_i32).cast_unsigned()));
        let verdict = expression("immediate", &[number(1, 0), attribute(2, &verdict)]);
        expressions.pop();
        expressions.push(verdict);
        expressions.concat()
    }

    fn jump(to: &str) -> Vec<u8> {
        let to = attribute(2, format!("{to}\0").as_bytes());
        let verdict = [number(1, (-3_i32).cast_unsigned()), to].concat();
        let verdict = attribute(2, &attribute(2, &verdict));
        expression("immediate", &[number(1, 0), verdict])
    }

    #[test]
    fn what_masquerades_by_the_mark_is_found_through_jumps() {
        let sets_mark = expression("meta", &[number(2, 3), number(3, 8)]);
        let target = |name: &str| {
            let name = attribute(1, format!("{name}\0").as_bytes());
            expression("target", &[name])
        };
        let set = expression("lookup", &[]);
        let chain = |protocol, table: &str, name: &str| BaseChain {
            place: Place::Postrouting,
            protocol,
            table: table.into(),
            name: name.into(),
            priority: 0,
            policy_is_drop: false,
        };
        let kube_proxy = chain(IPV4, "kube-proxy", "nat-postrouting");
        let found = |chain: &BaseChain, rules: &[Vec<u8>]| {
            let list = |name: &str| match name {
                "others" => rules.to_vec(),
                _ => vec![jump("others")],
            };
            let mut all = Rules::new(list);
            let mut found = Findings::default();
            let traffic = Traffic {
                families: vec![Family::V4, Family::V6],
                ..Traffic::default()
            };
            look_at(chain, &mut all, 0x4000, &traffic, &mut found).unwrap();
            assert!(found.dropping.is_empty());
            found.masquerading
        };
        for masquerade in [
            expression("masq", &[]),
            expression("nat", &[number(1, 0)]),
            target("MASQUERADE"),
            target("SNAT"),
        ] {
            let rules = [
                returns_without_mark(),
                sets_mark.clone(),
                masquerade.clone(),
            ];
            assert_eq!(
                found(&kube_proxy, &rules),
                ["the chain nat-postrouting of the nftables table ip kube-proxy"]
            );
            let only_of_some = [set.clone(), masquerade.clone()].concat();
            assert!(found(&kube_proxy, &[only_of_some]).is_empty());
            assert!(found(&kube_proxy, &[masquerade]).is_empty());
        }
        assert!(found(&kube_proxy, &[expression("nat", &[number(1, 1)])]).is_empty());
        let rules = [returns_without_mark(), target("MASQUERADE")];
        assert_eq!(
            found(&chain(IPV6, "nat", "POSTROUTING"), &rules),
            ["the chain POSTROUTING of ip6tables-nft"]
        );
    }

    fn drop_verdict() -> Vec<u8> {
        expression(
            "immediate",
            &[number(1, 0), attribute(2, &attribute(2, &number(1, 0)))],
        )
    }

    fn value(kind: u16, bytes: &[u8]) -> Vec<u8> {
        attribute(kind, &attribute(1, bytes))
    }

    fn payload(base: u32, offset: u32, length: u32) -> Vec<u8> {
        expression(
            "payload",
            &[
                number(1, 8),
                number(2, base),
                number(3, offset),
                number(4, length),
            ],
        )
    }

    fn compare(operation: u32, bytes: &[u8]) -> Vec<u8> {
        expression(
            "cmp",
            &[number(1, 8), number(2, operation), value(3, bytes)],
        )
    }

    fn looks_up(set: &str) -> Vec<u8> {
        let set = attribute(1, format!("{set}\0").as_bytes());
        expression("lookup", &[set, number(2, 8)])
    }

    /// An element of a set; of ranges it may be the end.
    fn element(key: &[u8], is_end: bool) -> Vec<u8> {
        [value(1, key), number(3, u32::from(is_end))].concat()
    }

    fn traffic() -> Traffic {
        let frontend = |at: &str, backend: &str| Frontend {
            at: at.parse().unwrap(),
            protocol: 6,
            backend: Some(backend.parse().unwrap()),
        };
        Traffic {
            families: vec![Family::V4, Family::V6],
            bridges: vec![],
            uplinks: vec![(7, "eth0".into())],
            pods: vec!["10.244.1.10".parse().unwrap(), "fd00::a".parse().unwrap()],
            frontends: vec![
                frontend("192.0.2.1:30080", "10.244.1.10:80"),
                frontend("[2001:db8::10]:80", "[fd00::a]:8080"),
            ],
        }
    }

    /// What is found of a chain before NAT that has these rules, in a table with one set.
    fn found(place: Place, rules: &[Vec<u8>], set: &[Vec<u8>]) -> Findings {
        let chain = BaseChain {
            place,
            protocol: INET,
            table: "operator".into(),
            name: "guard".into(),
            priority: -150,
            policy_is_drop: false,
        };
        let list = |name: &str| match name {
            "set" => set.to_vec(),
            _ => rules.to_vec(),
        };
        let mut found = Findings::default();
        look_at(
            &chain,
            &mut Rules::new(list),
            0x4000,
            &traffic(),
            &mut found,
        )
        .unwrap();
        found
    }

    #[test]
    fn rules_that_drop_by_a_frontend_are_counted() {
        let port = || payload(2, 2, 2);
        let [least, most, ssh] = [30_000_u16, 32_767, 22].map(u16::to_be_bytes);
        let original =
            |key: u32| expression("ct", &[number(1, 8), number(2, key), attribute(3, &[0])]);
        let ranged = expression(
            "range",
            &[
                number(1, 8),
                number(2, 0),
                value(3, &least),
                value(4, &most),
            ],
        );
        let masks = |mask: &[u8]| {
            let none = vec![0; mask.len()];
            expression(
                "bitwise",
                &[number(1, 8), number(2, 8), value(4, mask), value(5, &none)],
            )
        };
        for (conditions, missing) in [
            (vec![port(), compare(5, &least), compare(3, &most)], 1),
            (vec![port(), ranged.clone()], 1),
            (vec![port(), looks_up("set")], 1),
            (vec![port(), compare(0, &ssh)], 0),
            (vec![port(), compare(1, &ssh)], 0),
            // Source ports.
            (vec![payload(2, 0, 2), ranged.clone()], 0),
            (vec![payload(1, 16, 4), compare(0, &[192, 0, 2, 1])], 1),
            (vec![payload(1, 16, 3), compare(0, &[192, 0, 2])], 1),
            (
                vec![
                    payload(1, 16, 4),
                    masks(&[255, 255, 254, 0]),
                    compare(0, &[192, 0, 2, 0]),
                ],
                1,
            ),
            (vec![payload(1, 16, 4), compare(0, &[192, 0, 2, 9])], 0),
            (
                vec![payload(1, 24, 4), compare(0, &[0x20, 1, 0xd, 0xb8])],
                1,
            ),
            (vec![original(12), ranged.clone()], 1),
            (vec![original(20), compare(0, &[192, 0, 2, 1])], 1),
            (vec![original(8), compare(0, &[192, 0, 2, 1])], 0),
        ] {
            let rule = [conditions.concat(), drop_verdict()].concat();
            let set = [
                element(&most, true),
                element(&least, false),
                element(&[0, 0], true),
            ];
            let all = found(Place::Prerouting, &[rule], &set);
            assert_eq!(all.missing.len(), missing, "{conditions:?}");
            assert!(all.dropping.is_empty(), "{conditions:?}");
        }
        let by_port = [port(), ranged, drop_verdict()].concat();
        assert!(found(Place::Forward, &[by_port], &[]).missing.is_empty());
    }

    #[test]
    fn a_chain_that_drops_what_is_for_pods_by_an_uplink_is_found_with_its_remedy() {
        let by = |key: u32, value: &[u8]| {
            [
                expression("meta", &[number(2, key), number(1, 8)]),
                compare(0, value),
            ]
            .concat()
        };
        let to = |octets: &[u8]| [payload(1, 16, 3), compare(0, octets)].concat();
        let pods = to(&[10, 244, 1]);
        let mut name = b"eth0".to_vec();
        name.resize(16, 0);
        for (conditions, is_found) in [
            (vec![by(6, &name), pods.clone()], true),
            (vec![by(6, b"eth"), pods.clone()], true),
            (vec![by(4, &7_u32.to_ne_bytes()), pods.clone()], true),
            (vec![by(4, &8_u32.to_ne_bytes()), pods.clone()], false),
            (vec![by(6, b"docker0"), pods.clone()], false),
            (vec![by(6, &name), to(&[10, 244, 2])], false),
            (vec![pods, expression("limit", &[])], false),
        ] {
            let rule = [conditions.concat(), drop_verdict()].concat();
            let all = found(Place::Prerouting, std::slice::from_ref(&rule), &[]);
            assert_eq!(!all.dropping.is_empty(), is_found, "{conditions:?}");
            assert!(all.missing.is_empty(), "{conditions:?}");
            let remedy =
                "nft insert rule inet operator guard 'meta mark & 0x4000 == 0x4000 accept'";
            assert!(all.dropping.iter().all(|one| one.remedy == remedy));
            // As the remedy says.
            let all = found(Place::Prerouting, &[accepts(0x4000).concat(), rule], &[]);
            assert!(all.dropping.is_empty(), "{conditions:?}");
        }
    }

    #[test]
    fn a_set_has_values_or_ranges() {
        let both = |first: &[u8], last: &[u8]| (first.to_vec(), last.to_vec());
        let values = [element(&[0, 22], false), element(&[0, 80], false)];
        assert_eq!(
            ranges(&values),
            [both(&[0, 22], &[0, 22]), both(&[0, 80], &[0, 80])]
        );
        let of_ranges = [
            element(&[1, 0], true),
            element(&[0, 80], false),
            element(&[0, 0], true),
            element(&[255, 0], false),
        ];
        let expected = [both(&[0, 80], &[0, 255]), both(&[255, 0], &[255, 255])];
        assert_eq!(ranges(&of_ranges), expected);
        assert_eq!(ranges(&[vec![1, 2], vec![]]), []);
    }

    #[test]
    fn a_malformed_rule_is_none_that_applies_and_never_a_panic() {
        let whole = accepts(0x4000).concat();
        for length in 0..whole.len() {
            let _ = rule(&whole[..length], packet());
        }
        for fill in [0, 1, 0x7f, 0xff] {
            let filled = [fill; 64];
            assert_ne!(rule(&filled, packet()).action, Action::Accept);
            assert!(base_chain(&filled).is_none());
        }
    }

    #[test]
    fn the_missing_rule_is_said_in_the_words_of_who_drops() {
        let chain = |protocol, table: &str, name: &str| BaseChain {
            place: Place::Forward,
            protocol,
            table: table.into(),
            name: name.into(),
            priority: 0,
            policy_is_drop: true,
        };
        for (chain, remedy) in [
            (
                chain(INET, "docker", "forward"),
                "nft insert rule inet docker forward 'meta mark & 0x4000 == 0x4000 accept'",
            ),
            (
                chain(IPV6, "filter", "FORWARD"),
                "ip6tables-nft -I FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
            ),
        ] {
            assert_eq!(dropping(&chain, 0x4000).remedy, remedy);
        }
    }
}
