//! Rules that drop packets by a Service's own address or port: packets are translated before the firewall
//! sees them, so that such rules concern none.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::rules::{Action, Chains, Destination, Place, Rule};

/// Where clients outside reach a Service.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Frontend {
    /// What they connect to.
    pub at: SocketAddr,
    /// The number of the protocol, as in the packet.
    pub protocol: u8,
    /// What one backend's packets are for then, if there is any.
    pub backend: Option<SocketAddr>,
}

/// What rules see where packets are not translated before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sight {
    /// The frontend: before NAT.
    Whole,
    /// The backend, and the frontend as what conntrack keeps.
    Original,
}

impl Sight {
    /// Of a chain with a priority, where kube-proxy's rules (those of `dstnat`) translate.
    pub(super) const fn of(place: Place, priority: i32) -> Self {
        const DSTNAT: i32 = -100;
        match place {
            Place::Prerouting if priority < DSTNAT => Self::Whole,
            _ => Self::Original,
        }
    }

    fn destination(self, frontend: &Frontend) -> Destination {
        let (address, port) = (frontend.at.ip(), frontend.at.port());
        let is_whole = self == Self::Whole;
        Destination {
            address: is_whole.then_some(address),
            port: is_whole.then_some(port),
            original_address: Some(address),
            original_port: Some(port),
            protocol: Some(frontend.protocol),
        }
    }
}

/// What rules see of it now.
fn translated(frontend: &Frontend) -> Option<Destination> {
    let backend = frontend.backend?;
    let (address, port) = (Some(backend.ip()), Some(backend.port()));
    Some(Destination {
        address,
        port,
        original_address: address,
        original_port: port,
        protocol: Some(frontend.protocol),
    })
}

/// A packet to a frontend on its way.
#[derive(Clone, Copy)]
struct Client {
    seen: Destination,
    translated: Option<Destination>,
    /// Whether a condition was met because of where it goes, and only by the frontend.
    is_named: bool,
    /// Whether the translated packet may have met all conditions as well.
    is_same: bool,
    index: usize,
}

/// How many conditions are looked at: this is but advice.
const LIMIT: usize = 1_000_000;
/// How deep jumps lead.
const DEPTH: u32 = 16;

struct Walk<'a, C> {
    chains: &'a Chains<C>,
    found: BTreeSet<(C, usize)>,
    left: usize,
}

/// The rules that drop packets to these frontends by where they go, and do not drop what is translated:
/// their chains and positions.
pub(super) fn missing<C: Ord + Clone>(
    chains: &Chains<C>,
    first: &C,
    sight: Sight,
    frontends: &[Frontend],
) -> BTreeSet<(C, usize)> {
    let client = |(index, frontend): (usize, &Frontend)| Client {
        seen: sight.destination(frontend),
        translated: translated(frontend),
        is_named: false,
        is_same: true,
        index,
    };
    let clients: Vec<_> = frontends.iter().enumerate().map(client).collect();
    let mut walk = Walk {
        chains,
        found: BTreeSet::new(),
        left: LIMIT,
    };
    walk.chain(first, &clients, DEPTH);
    walk.found
}

impl<C: Ord + Clone> Walk<'_, C> {
    /// Those of the clients that no rule of the chain surely decides about.
    fn chain(&mut self, name: &C, clients: &[Client], depth: u32) -> Vec<Client> {
        let mut here = clients.to_vec();
        let mut returned = Vec::new();
        let rules = self.chains.get(name).into_iter().flatten();
        for (position, rule) in rules.enumerate() {
            if rule.otherwise == Some(false) || rule.action == Action::Continue {
                continue;
            }
            let Some(left) = self.left.checked_sub(here.len() * (1 + rule.tests.len())) else {
                break;
            };
            self.left = left;
            let (met, sure) = meeting(rule, &here);
            if met.is_empty() {
                continue;
            }
            let mut gone = sure;
            match &rule.action {
                Action::Continue => {}
                Action::Accept | Action::Masquerade => {}
                Action::Drop => {
                    if met.iter().any(|client| client.is_named && !client.is_same) {
                        self.found.insert((name.clone(), position));
                    }
                }
                Action::Return => returned.extend(of(&here, &gone)),
                Action::Jump(next) | Action::Goto(next) => {
                    let back = match depth.checked_sub(1) {
                        Some(depth) => self.chain(next, &met, depth),
                        None => met,
                    };
                    let back: BTreeSet<_> = back.iter().map(|client| client.index).collect();
                    if matches!(rule.action, Action::Jump(_)) {
                        gone.retain(|index| !back.contains(index));
                    } else {
                        let back = back.intersection(&gone).copied().collect();
                        returned.extend(of(&here, &back));
                    }
                }
            }
            here.retain(|client| !gone.contains(&client.index));
        }
        here.extend(returned);
        here
    }
}

fn of(clients: &[Client], indices: &BTreeSet<usize>) -> Vec<Client> {
    let mut clients = clients.to_vec();
    clients.retain(|client| indices.contains(&client.index));
    clients
}

/// The clients whose packets may meet the rule's conditions, and which of them surely do.
fn meeting<C>(rule: &Rule<C>, clients: &[Client]) -> (Vec<Client>, BTreeSet<usize>) {
    let mut met = Vec::new();
    let mut sure = BTreeSet::new();
    for client in clients {
        let mut client = *client;
        let mut is_sure = rule.otherwise == Some(true);
        let mut is_met = true;
        for test in &rule.tests {
            match test.is_met(&client.seen) {
                Some(true) => client.is_named |= test.is_name(),
                Some(false) => is_met = false,
                None => is_sure = false,
            }
            let translated = client.translated.as_ref();
            let of_backend = translated.is_some_and(|to| test.is_met(to) == Some(true));
            client.is_same &= of_backend;
        }
        if is_met {
            met.push(client);
            if is_sure {
                sure.insert(client.index);
            }
        }
    }
    (met, sure)
}

#[cfg(test)]
mod tests {
    use svclb_core::model::Family;

    use super::super::rules::{Condition, Field, Packet, Test};
    use super::*;

    const SIXTEEN: [u8; 2] = [0xff; 2];

    fn ports(field: Field, first: u16, last: u16) -> Condition {
        Condition::Test(Test {
            field,
            at: 0,
            mask: SIXTEEN.to_vec(),
            ranges: vec![(first.to_be_bytes().to_vec(), last.to_be_bytes().to_vec())],
            is_inverted: false,
        })
    }

    fn address(field: Field, octets: [u8; 4]) -> Condition {
        Test::address(field, &octets, &[0xff; 4], false)
    }

    fn inverted(condition: Condition) -> Condition {
        match condition {
            Condition::Test(test) => Condition::Test(Test {
                is_inverted: true,
                ..test
            }),
            other @ Condition::Other(_) => other,
        }
    }

    fn rule(conditions: Vec<Condition>, action: Action<u8>) -> Rule<u8> {
        Rule::new(conditions, Packet::new(0, Family::V4), action)
    }

    fn frontends() -> Vec<Frontend> {
        [("192.0.2.1:30080", 6), ("203.0.113.10:80", 6)]
            .iter()
            .map(|(at, protocol)| Frontend {
                at: at.parse().unwrap(),
                protocol: *protocol,
                backend: Some("10.244.1.10:80".parse().unwrap()),
            })
            .collect()
    }

    fn count(sight: Sight, rules: Vec<Rule<u8>>, others: Vec<Rule<u8>>) -> usize {
        let chains = Chains::from([(0, rules), (1, others)]);
        missing(&chains, &0, sight, &frontends()).len()
    }

    #[test]
    fn rules_that_drop_by_a_frontend_miss_and_others_do_not() {
        use Action::{Accept, Drop};
        let office = || Condition::Other(None);
        let node_ports = || ports(Field::Port, 30_000, 32_767);
        let tcp = || Test::protocol(6, false);
        for (conditions, action, expected) in [
            (vec![tcp(), node_ports(), office()], Drop, 1),
            (vec![tcp(), node_ports(), office()], Accept, 0),
            (vec![Test::protocol(17, false), node_ports()], Drop, 0),
            (vec![ports(Field::Port, 22, 22)], Drop, 0),
            // The node's address, and another port of it.
            (vec![address(Field::Address, [192, 0, 2, 1])], Drop, 1),
            (
                vec![
                    address(Field::Address, [192, 0, 2, 1]),
                    ports(Field::Port, 22, 22),
                ],
                Drop,
                0,
            ),
            (vec![address(Field::Address, [203, 0, 113, 10])], Drop, 1),
            (vec![address(Field::Address, [10, 244, 1, 10])], Drop, 0),
            // Backends' packets are for this port as well.
            (vec![ports(Field::Port, 80, 80)], Drop, 0),
            (vec![inverted(ports(Field::Port, 22, 22))], Drop, 0),
            (vec![tcp(), office()], Drop, 0),
            (vec![], Drop, 0),
            (vec![node_ports(), Condition::Other(Some(false))], Drop, 0),
            (
                vec![ports(Field::OriginalPort, 30_000, 32_767), office()],
                Drop,
                1,
            ),
        ] {
            let rules = vec![rule(conditions, action)];
            assert_eq!(
                count(Sight::Whole, rules.clone(), vec![]),
                expected,
                "{rules:?}"
            );
        }
    }

    #[test]
    fn behind_nat_rules_miss_by_what_conntrack_keeps_alone() {
        let drops = |condition| vec![rule(vec![condition], Action::Drop)];
        let by_port = ports(Field::Port, 30_000, 32_767);
        let by_original = ports(Field::OriginalPort, 30_000, 32_767);
        let by_address = address(Field::OriginalAddress, [203, 0, 113, 10]);
        assert_eq!(count(Sight::Original, drops(by_port), vec![]), 0);
        assert_eq!(count(Sight::Original, drops(by_original), vec![]), 1);
        assert_eq!(count(Sight::Original, drops(by_address), vec![]), 1);
        assert_eq!(Sight::of(Place::Prerouting, -150), Sight::Whole);
        assert_eq!(Sight::of(Place::Prerouting, 0), Sight::Original);
        assert_eq!(Sight::of(Place::Forward, -150), Sight::Original);
    }

    #[test]
    fn a_rule_counts_behind_jumps_and_not_behind_what_surely_accepts() {
        let node_ports = || vec![ports(Field::Port, 30_000, 32_767)];
        let unknown = || vec![Condition::Other(None)];
        let jump = || vec![rule(node_ports(), Action::Jump(1))];
        let drops = || vec![rule(vec![], Action::Drop)];
        let after = |first: Rule<u8>| vec![first, rule(node_ports(), Action::Drop)];
        for (rules, others, expected) in [
            (jump(), drops(), 1),
            (
                jump(),
                [vec![rule(unknown(), Action::Return)], drops()].concat(),
                1,
            ),
            (
                jump(),
                [vec![rule(vec![], Action::Return)], drops()].concat(),
                0,
            ),
            (jump(), vec![], 0),
            (
                vec![rule(unknown(), Action::Goto(1))],
                after(rule(unknown(), Action::Accept)),
                1,
            ),
            (after(rule(unknown(), Action::Accept)), vec![], 1),
            (after(rule(vec![], Action::Accept)), vec![], 0),
            (after(rule(node_ports(), Action::Accept)), vec![], 0),
            (
                after(rule(vec![], Action::Jump(1))),
                vec![rule(vec![], Action::Accept)],
                0,
            ),
            (
                after(rule(vec![], Action::Jump(1))),
                vec![rule(vec![], Action::Return)],
                1,
            ),
            (after(rule(vec![], Action::Goto(1))), vec![], 0),
            (after(rule(vec![], Action::Jump(0))), vec![], 1),
        ] {
            assert_eq!(
                count(Sight::Whole, rules.clone(), others),
                expected,
                "{rules:?}"
            );
        }
    }
}
