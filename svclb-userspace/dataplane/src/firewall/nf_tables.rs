//! The chains of nf_tables at the forward hook, and those of NAT at the postrouting hook, by netlink
//! (include/uapi/linux/netfilter/nf_tables.h), and so those that `iptables-nft` makes.

use std::collections::BTreeMap;
use std::io;

use netlink_packet_core::NlasIterator;
use svclb_core::model::Family;

use super::ip_tables;
use super::rules::{
    Action, Chains, Dropping, Findings, Outcome, Packet, Place, Rule, all, decision, malformed,
    masquerades_by, xt_mark,
};
use crate::netlink::Netlink;

/// `NFNL_SUBSYS_NFTABLES`, in the upper byte of a message's type.
const SUBSYSTEM: u16 = 10 << 8;
const NFT_MSG_GETCHAIN: u16 = SUBSYSTEM | 4;
const NFT_MSG_GETRULE: u16 = SUBSYSTEM | 7;

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
    policy_is_drop: bool,
}

/// What is in the way of packets with each of these marks.
///
/// # Errors
/// The system's error; where the kernel has no nf_tables, too.
pub(super) fn look(marks: &[u32], families: &[Family]) -> io::Result<Vec<Findings>> {
    /// How often a list is asked for that changes meanwhile.
    const ATTEMPTS: u32 = 5;
    for _ in 1..ATTEMPTS {
        match read(marks, families) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
    read(marks, families)
}

fn read(marks: &[u32], families: &[Family]) -> io::Result<Vec<Findings>> {
    let mut netlink = Netlink::netfilter()?;
    let mut chains = Vec::new();
    // struct nfgenmsg: family (of all), version, resource.
    netlink.dump(NFT_MSG_GETCHAIN, &[0; 4], |message| {
        chains.extend(base_chain(message));
    })?;
    let mut found = vec![Findings::default(); marks.len()];
    for chain in &chains {
        let mut rules = rules_of(&mut netlink, chain);
        for (mark, found) in marks.iter().zip(&mut found) {
            look_at(chain, &mut rules, *mark, families, found)?;
        }
    }
    Ok(found)
}

fn look_at<L: FnMut(&str) -> io::Result<Vec<Vec<u8>>>>(
    chain: &BaseChain,
    rules: &mut Rules<L>,
    mark: u32,
    families: &[Family],
    found: &mut Findings,
) -> io::Result<()> {
    let (mut drops, mut masquerades) = (false, false);
    for family in families {
        let is_seen = match family {
            Family::V4 => chain.protocol != IPV6,
            Family::V6 => chain.protocol != IPV4,
        };
        if !is_seen {
            continue;
        }
        let mut decision = |mark| {
            let family = *family;
            rules.decision(chain, Packet { mark, family })
        };
        match chain.place {
            Place::Forward => drops |= decision(mark)? == Outcome::Dropped,
            Place::Postrouting => masquerades |= masquerades_by(mark, decision)?,
        }
    }
    if drops {
        found.dropping.push(dropping(chain, mark));
    }
    if masquerades {
        found.masquerading.push(masquerading(chain));
    }
    Ok(())
}

/// The rules of a table, by chain: those that a packet comes to are listed, since kube-proxy's table of
/// NAT has thousands.
struct Rules<L> {
    list: L,
    known: BTreeMap<String, Vec<Vec<u8>>>,
}

/// The rules of the kernel's table that a base chain is in.
fn rules_of(
    netlink: &mut Netlink,
    chain: &BaseChain,
) -> Rules<impl FnMut(&str) -> io::Result<Vec<Vec<u8>>>> {
    let list = move |name: &str| {
        let mut request = vec![chain.protocol, 0, 0, 0];
        put_text(&mut request, NFTA_RULE_TABLE, &chain.table)?;
        put_text(&mut request, NFTA_RULE_CHAIN, name)?;
        let mut rules = Vec::new();
        netlink.dump(NFT_MSG_GETRULE, &request, |message| {
            let attributes = Attributes::new(message.get(4..).unwrap_or_default());
            if attributes.text(NFTA_RULE_CHAIN).as_deref() == Some(name) {
                let expressions = attributes.get(NFTA_RULE_EXPRESSIONS);
                rules.push(expressions.unwrap_or_default().to_vec());
            }
        })?;
        Ok(rules)
    };
    Rules {
        list,
        known: BTreeMap::new(),
    }
}

impl<L: FnMut(&str) -> io::Result<Vec<Vec<u8>>>> Rules<L> {
    /// What becomes of a packet that comes to a base chain.
    fn decision(&mut self, chain: &BaseChain, packet: Packet) -> io::Result<Outcome> {
        let mut chains = Chains::new();
        let mut waiting = vec![chain.name.clone()];
        while let Some(name) = waiting.pop() {
            if chains.contains_key(&name) {
                continue;
            }
            let rules = self.chain(&name)?;
            let rules: Vec<_> = rules.iter().map(|rule| self::rule(rule, packet)).collect();
            waiting.extend(rules.iter().filter_map(Rule::leads_to));
            chains.insert(name, rules);
        }
        Ok(decision(&chains, &chain.name, chain.policy_is_drop))
    }

    /// The expressions of each rule of a chain.
    fn chain(&mut self, name: &str) -> io::Result<&[Vec<u8>]> {
        if !self.known.contains_key(name) {
            let rules = (self.list)(name)?;
            self.known.insert(name.to_owned(), rules);
        }
        Ok(self.known.get(name).map_or(&[], Vec::as_slice))
    }
}

const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;

/// The chain of a message, if it is one that decides about packets that are forwarded.
fn base_chain(message: &[u8]) -> Option<BaseChain> {
    const NF_DROP: u32 = 0;
    let (header, attributes) = message.split_first_chunk::<4>()?;
    let protocol = header[0];
    let attributes = Attributes::new(attributes);
    let hook = Attributes::new(attributes.get(NFTA_CHAIN_HOOK)?);
    let hook = hook.number(NFTA_HOOK_HOOKNUM)?;
    let is_nat = attributes.text(NFTA_CHAIN_TYPE).as_deref() == Some("nat");
    let is_at = |place: &Place| u32::from(place.hook()) == hook;
    let place = Place::ALL.into_iter().find(is_at)?;
    let decides = [INET, IPV4, IPV6].contains(&protocol)
        && match place {
            Place::Forward => true,
            Place::Postrouting => is_nat,
        };
    decides.then_some(BaseChain {
        place,
        protocol,
        table: attributes.text(NFTA_CHAIN_TABLE)?,
        name: attributes.text(NFTA_CHAIN_NAME)?,
        policy_is_drop: attributes.number(NFTA_CHAIN_POLICY) == Some(NF_DROP),
    })
}

const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_NAT_TYPE: u16 = 1;
const NFT_NAT_SNAT: u32 = 0;

/// A rule: its expressions, one after the other, load and compare registers.
fn rule(expressions: &[u8], packet: Packet) -> Rule<String> {
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
            "bitwise" => registers.mask(&data),
            "cmp" => conditions.push(registers.compare(&data)),
            "match" => conditions.push(xt_match(&data, packet)),
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
            // A look-up, a part of the packet, its state, a limit…
            _ => {
                registers.forget(&data);
                conditions.push(None);
            }
        }
    }
    Rule {
        applies: all(conditions.into_iter()),
        action,
    }
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
fn xt_match(data: &Attributes<'_>, packet: Packet) -> Option<bool> {
    match data.text(1)?.as_str() {
        "comment" => Some(true),
        "mark" => xt_mark(data.get(3)?, packet),
        _ => None,
    }
}

/// What is known of the registers.
#[derive(Default)]
struct Registers(BTreeMap<u32, Vec<u8>>);

impl Registers {
    /// `NFTA_META_DREG` and `NFTA_META_KEY`.
    fn load_meta(&mut self, data: &Attributes<'_>, packet: Packet) {
        const NFT_META_MARK: u32 = 3;
        const NFT_META_NFPROTO: u32 = 15;
        let Some(register) = data.number(1) else {
            // One that sets something.
            return;
        };
        let value = match data.number(2) {
            Some(NFT_META_MARK) => packet.mark.to_ne_bytes().to_vec(),
            Some(NFT_META_NFPROTO) => vec![match packet.family {
                Family::V4 => IPV4,
                Family::V6 => IPV6,
            }],
            _ => {
                self.0.remove(&register);
                return;
            }
        };
        self.0.insert(register, value);
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
            let from = self.0.get(&data.number(1)?)?;
            let bytes = from.iter().zip(mask).zip(xor);
            Some(bytes.map(|((byte, mask), xor)| byte & mask ^ xor).collect())
        };
        match masked() {
            Some(value) => self.0.insert(to, value),
            None => self.0.remove(&to),
        };
    }

    /// `NFTA_CMP_…`: equal, or not.
    fn compare(&self, data: &Attributes<'_>) -> Option<bool> {
        let value = Attributes::new(data.get(3)?).get(1)?;
        let register = self.0.get(&data.number(1)?)?;
        let is_equal = register.get(..value.len())? == value;
        match data.number(2)? {
            0 => Some(is_equal),
            1 => Some(!is_equal),
            _ => None,
        }
    }

    /// An expression of which only this is known, that it may write registers.
    fn forget(&mut self, _data: &Attributes<'_>) {
        self.0.clear();
    }
}

fn dropping(chain: &BaseChain, mark: u32) -> Dropping {
    let BaseChain { table, name, .. } = chain;
    if let Some(iptables) = iptables(chain) {
        return ip_tables::dropping(iptables, mark);
    }
    let family = family_name(chain);
    Dropping {
        chain: format!("the chain {name} of the nftables table {family} {table}"),
        remedy: format!(
            "nft insert rule {family} {table} {name} 'meta mark & {mark:#x} == {mark:#x} accept'"
        ),
    }
}

fn masquerading(chain: &BaseChain) -> String {
    let BaseChain { table, name, .. } = chain;
    if let Some(iptables) = iptables(chain) {
        return ip_tables::masquerading(iptables);
    }
    let family = family_name(chain);
    format!("the chain {name} of the nftables table {family} {table}")
}

/// The command that lists a chain, if `nft` does not: `iptables-nft` lists its own tables alone.
fn iptables(chain: &BaseChain) -> Option<&'static str> {
    let its = match chain.place {
        Place::Forward => ("filter", "FORWARD"),
        Place::Postrouting => ("nat", "POSTROUTING"),
    };
    if (&*chain.table, &*chain.name) != its {
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

    const PACKET: Packet = Packet {
        mark: 0x4000,
        family: Family::V4,
    };

    #[test]
    fn a_rule_that_compares_the_mark_applies_or_does_not() {
        let rule = |expressions: Vec<Vec<u8>>| rule(&expressions.concat(), PACKET);
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
            policy_is_drop: false,
        };
        let kube_proxy = chain(IPV4, "kube-proxy", "nat-postrouting");
        let found = |chain: &BaseChain, rules: &[Vec<u8>]| {
            let list = |name: &str| {
                Ok(match name {
                    "others" => rules.to_vec(),
                    _ => vec![jump("others")],
                })
            };
            let mut all = Rules {
                list,
                known: BTreeMap::new(),
            };
            let mut found = Findings::default();
            let families = [Family::V4, Family::V6];
            look_at(chain, &mut all, 0x4000, &families, &mut found).unwrap();
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

    #[test]
    fn a_malformed_rule_is_none_that_applies_and_never_a_panic() {
        let whole = accepts(0x4000).concat();
        for length in 0..whole.len() {
            let _ = rule(&whole[..length], PACKET);
        }
        for fill in [0, 1, 0x7f, 0xff] {
            let filled = [fill; 64];
            assert_ne!(rule(&filled, PACKET).action, Action::Accept);
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
