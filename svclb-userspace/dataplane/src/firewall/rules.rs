//! What a firewall's rules do to a translated packet, of which only the mark and the family are known, and
//! where it comes in the device and the address that it is for.

use std::collections::BTreeMap;
use std::io;

use svclb_core::model::Family;

pub(super) use super::destination::{Condition, Destination, Field, Range, Test};

/// What is in the way of translated packets with one mark.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Findings {
    pub(super) dropping: Vec<Dropping>,
    /// The chains that give packets the node's address because of the mark.
    pub(super) masquerading: Vec<String>,
    /// The chains of rules that drop packets by what is translated before, each as often as it has such.
    pub(super) missing: Vec<String>,
}

/// A chain that drops translated packets, and the command that would let them pass.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Dropping {
    pub(super) place: Place,
    pub(super) chain: String,
    pub(super) remedy: String,
}

/// Where rules decide about packets that the kernel forwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// The chains that see what comes in.
    Prerouting,
    /// The chains that may drop them.
    Forward,
    /// The chains of NAT in which they may be given another source.
    Postrouting,
}

impl Place {
    pub(super) const ALL: [Self; 3] = [Self::Prerouting, Self::Forward, Self::Postrouting];

    /// `NF_INET_PRE_ROUTING`, `NF_INET_FORWARD` and `NF_INET_POST_ROUTING`
    /// (include/uapi/linux/netfilter.h).
    pub(super) const fn hook(self) -> u8 {
        match self {
            Self::Prerouting => 0,
            Self::Forward => 2,
            Self::Postrouting => 4,
        }
    }
}

/// What is known of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub(super) mark: u32,
    pub(super) family: Family,
    /// By which device it comes in: its index and name.
    pub(super) device: Option<&'a (u32, String)>,
    pub(super) to: Destination,
}

impl Packet<'_> {
    pub(super) fn new(mark: u32, family: Family) -> Self {
        Self {
            mark,
            family,
            device: None,
            to: Destination::default(),
        }
    }
}

/// A rule, as far as it concerns one packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Rule<C> {
    /// Whether the packet meets all conditions; `None` if that depends on what is unknown.
    pub(super) applies: Option<bool>,
    /// Whether it meets those that are not in `tests`.
    pub(super) otherwise: Option<bool>,
    /// The conditions about where a packet goes.
    pub(super) tests: Vec<Test>,
    pub(super) action: Action<C>,
}

impl<C> Rule<C> {
    pub(super) fn new(conditions: Vec<Condition>, packet: Packet<'_>, action: Action<C>) -> Self {
        let (mut others, mut tests) = (Vec::new(), Vec::new());
        for condition in conditions {
            match condition {
                Condition::Other(is_met) => others.push(is_met),
                Condition::Test(test) => tests.push(test),
            }
        }
        let otherwise = all(others.into_iter());
        let to = tests.iter().map(|test| test.is_met(&packet.to));
        Self {
            applies: all(to.chain([otherwise])),
            otherwise,
            tests,
            action,
        }
    }
}

impl<C: Clone> Rule<C> {
    /// The chain in which some packet may go on, whatever its destination is.
    pub(super) fn may_lead_to(&self) -> Option<C> {
        match &self.action {
            Action::Jump(next) | Action::Goto(next) if self.otherwise != Some(false) => {
                Some(next.clone())
            }
            _ => None,
        }
    }

    /// The chain in which the packet goes on, if it surely does.
    pub(super) fn leads_to(&self) -> Option<C> {
        match &self.action {
            Action::Jump(next) | Action::Goto(next) if self.applies == Some(true) => {
                Some(next.clone())
            }
            _ => None,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Action<C> {
    /// The next rule is next: it counts, logs, or does what is unknown.
    Continue,
    Accept,
    Drop,
    /// Accepted, with another source.
    Masquerade,
    /// Back to the chain before.
    Return,
    Jump(C),
    /// A jump that does not come back.
    Goto(C),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Accepted,
    Dropped,
    Masqueraded,
    /// No rule of the chain decides.
    Passed,
}

pub(super) type Chains<C> = BTreeMap<C, Vec<Rule<C>>>;

/// What a chain does to the packet. A chain that leads to itself passes it, as one that is not there.
fn outcome<C: Ord + Clone>(
    chains: &Chains<C>,
    chain: &C,
    known: &mut BTreeMap<C, Outcome>,
) -> Outcome {
    if let Some(outcome) = known.get(chain) {
        return *outcome;
    }
    known.insert(chain.clone(), Outcome::Passed);
    let mut decided = Outcome::Passed;
    for rule in chains.get(chain).into_iter().flatten() {
        if rule.applies != Some(true) {
            continue;
        }
        let (next, comes_back) = match &rule.action {
            Action::Continue => continue,
            Action::Accept => (Outcome::Accepted, false),
            Action::Drop => (Outcome::Dropped, false),
            Action::Masquerade => (Outcome::Masqueraded, false),
            Action::Return => (Outcome::Passed, false),
            Action::Jump(next) => (outcome(chains, next, known), true),
            Action::Goto(next) => (outcome(chains, next, known), false),
        };
        if next != Outcome::Passed || !comes_back {
            decided = next;
            break;
        }
    }
    known.insert(chain.clone(), decided);
    decided
}

/// What a base chain does to the packet.
pub(super) fn decision<C: Ord + Clone>(
    chains: &Chains<C>,
    chain: &C,
    policy_is_drop: bool,
) -> Outcome {
    match outcome(chains, chain, &mut BTreeMap::new()) {
        Outcome::Passed if policy_is_drop => Outcome::Dropped,
        decided => decided,
    }
}

/// Whether packets get another source because of a mark, by what becomes of a packet with a mark; one
/// that gets it without a mark as well is not ours to keep.
///
/// # Errors
/// Those of `decision`.
pub(super) fn masquerades_by(
    mark: u32,
    mut decision: impl FnMut(u32) -> io::Result<Outcome>,
) -> io::Result<bool> {
    Ok(decision(mark)? == Outcome::Masqueraded && decision(0)? != Outcome::Masqueraded)
}

/// The conditions of a match of iptables.
pub(super) fn xt_match(
    name: &[u8],
    revision: u8,
    info: &[u8],
    packet: Packet<'_>,
) -> Vec<Condition> {
    let conditions = match name {
        b"comment" => return Vec::new(),
        b"mark" => return vec![Condition::Other(xt_mark(info, packet))],
        b"tcp" => Test::xt_tcp(info),
        b"udp" => Test::xt_udp(info),
        b"multiport" => Test::xt_multiport(info),
        b"conntrack" if revision == 3 => Test::xt_conntrack(info, packet.family),
        _ => None,
    };
    conditions.unwrap_or_else(|| vec![Condition::Other(None)])
}

/// `xt_mark_mtinfo1` (include/uapi/linux/netfilter/xt_mark.h): whether a packet has the mark.
fn xt_mark(info: &[u8], packet: Packet<'_>) -> Option<bool> {
    let word = |at: usize| Some(u32::from_ne_bytes(*info.get(at..)?.first_chunk()?));
    let (mark, mask, invert) = (word(0)?, word(4)?, *info.get(8)? != 0);
    Some((packet.mark & mask == mark) != invert)
}

/// Whether all of some conditions are met.
#[expect(
    clippy::manual_try_fold,
    reason = "one that is false decides, whatever is unknown of others"
)]
pub(super) fn all(conditions: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    conditions.fold(Some(true), |all, one| match (all, one) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    })
}

pub(super) fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet() -> Packet<'static> {
        Packet::new(0x4000, Family::V4)
    }

    fn rule(applies: Option<bool>, action: Action<u8>) -> Rule<u8> {
        Rule::new(vec![Condition::Other(applies)], packet(), action)
    }

    #[test]
    fn a_chain_drops_unless_a_rule_that_surely_applies_accepts_before() {
        let sure = Some(true);
        let accepting = vec![rule(sure, Action::Accept)];
        let passing = vec![rule(None, Action::Drop), rule(sure, Action::Return)];
        for (rules, policy_is_drop, dropped) in [
            (vec![], true, true),
            (vec![], false, false),
            (vec![rule(None, Action::Accept)], true, true),
            (vec![rule(Some(false), Action::Accept)], true, true),
            (vec![rule(sure, Action::Accept)], true, false),
            (vec![rule(sure, Action::Drop)], false, true),
            (
                vec![rule(sure, Action::Continue), rule(sure, Action::Jump(1))],
                true,
                false,
            ),
            (vec![rule(None, Action::Jump(1))], true, true),
            (
                vec![rule(sure, Action::Jump(2)), rule(sure, Action::Accept)],
                true,
                false,
            ),
            (
                vec![rule(sure, Action::Goto(2)), rule(sure, Action::Accept)],
                true,
                true,
            ),
            // To itself, and to one that is not there.
            (
                vec![rule(sure, Action::Jump(0)), rule(sure, Action::Jump(9))],
                true,
                true,
            ),
        ] {
            let chains = Chains::from([
                (0, rules.clone()),
                (1, accepting.clone()),
                (2, passing.clone()),
            ]);
            let is_dropped = decision(&chains, &0, policy_is_drop) == Outcome::Dropped;
            assert_eq!(is_dropped, dropped, "{rules:?}");
        }
    }

    #[test]
    fn a_rule_masquerades_by_the_mark_unless_it_does_so_without() {
        let is_by_mark = |rules: fn(bool) -> Vec<Rule<u8>>| {
            let decided = |mark| Ok(decision(&Chains::from([(0, rules(mark != 0))]), &0, false));
            masquerades_by(0x4000, decided).unwrap()
        };
        // kube-proxy's, and that of its former versions.
        assert!(is_by_mark(|is_marked| vec![
            rule(Some(!is_marked), Action::Return),
            rule(Some(true), Action::Continue),
            rule(Some(true), Action::Masquerade),
        ]));
        assert!(is_by_mark(|is_marked| vec![rule(
            Some(is_marked),
            Action::Masquerade
        )]));
        assert!(!is_by_mark(|_| vec![rule(Some(true), Action::Masquerade)]));
        assert!(!is_by_mark(|_| vec![rule(None, Action::Masquerade)]));
        assert!(!is_by_mark(|_| vec![
            rule(Some(true), Action::Accept),
            rule(Some(true), Action::Masquerade)
        ]));
    }

    #[test]
    fn the_mark_is_compared_under_its_mask() {
        let info = |mark: u32, mask: u32, invert: u8| {
            let mut info = [mark.to_ne_bytes(), mask.to_ne_bytes()].concat();
            info.extend([invert, 0, 0, 0]);
            info
        };
        let packet = packet();
        for (mark, mask, invert, expected) in [
            (0x4000, 0x4000, 0, true),
            (0x4000, u32::MAX, 0, true),
            (0x8000, 0x8000, 0, false),
            (0x4000, 0x4000, 1, false),
            (0, 0x8000, 0, true),
        ] {
            assert_eq!(xt_mark(&info(mark, mask, invert), packet), Some(expected));
        }
        assert_eq!(xt_mark(&[0; 8], packet), None);
    }
}
