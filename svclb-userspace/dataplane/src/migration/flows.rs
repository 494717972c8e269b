//! Flows that go on while the agent is replaced: those in a map of an earlier layout, and those that
//! programs forwarded themselves where now the kernel forwards.

use std::collections::{HashMap, HashSet};
use std::io;

use svclb_common::{
    BackendId, FlowFlags, FlowKey, FlowValue, Hook, ServiceId, Tuple, maps as names,
};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::maps::read::{read_all, read_one};
use crate::options::Forwarding;
use crate::pins::Pins;
use crate::sys::{self, Map};

/// The layout versions whose flows are the ones below.
pub(super) const EARLIER: std::ops::RangeInclusive<u32> = 2..=3;

/// Value of `FLOWS` in the layout versions 2 and 3: 56 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
pub(crate) struct EarlierValue {
    tuple: Tuple,
    flags: FlowFlags,
    reserved: u16,
    service: ServiceId,
    backend: BackendId,
    last_seen_ns: u64,
}

const _: () = assert!(size_of::<EarlierValue>() == 56);

impl From<EarlierValue> for FlowValue {
    fn from(earlier: EarlierValue) -> Self {
        Self {
            tuple: earlier.tuple,
            flags: earlier.flags,
            service: earlier.service,
            backend: earlier.backend,
            last_seen_ns: earlier.last_seen_ns,
            // Neither the device nor the last acknowledgement is known: zero.
            ..Self::default()
        }
    }
}

/// An entry of `FLOWS`.
type Entry = (FlowKey, FlowValue);

/// The two directions of a pair, each with its key.
type Pair = [Entry; 2];

/// Where flows are that are to go on.
#[derive(Debug)]
pub(crate) enum Earlier {
    /// In a map of an earlier layout.
    Layout(Map),
    /// In the map that goes on being used.
    Same,
}

impl Earlier {
    /// The map of an earlier layout.
    ///
    /// # Errors
    /// The system's error.
    pub(super) fn of_layout(pins: &Pins) -> io::Result<Self> {
        Map::open(&pins.map(names::FLOWS)).map(Self::Layout)
    }

    /// Enters them into the map `FLOWS` as this agent's programs have them. A flow that is there already is
    /// left as it is, and so is one whose place is another's by now.
    ///
    /// # Errors
    /// The system's error, other than that the map is full; what was entered before it stays.
    pub(crate) fn carry_over(
        &self,
        flows: &Map,
        forwarding: Forwarding,
    ) -> io::Result<CarriedOver> {
        let entries: HashMap<FlowKey, FlowValue> = match self {
            Self::Layout(map) => read_all::<FlowKey, EarlierValue>(map)?
                .into_iter()
                .map(|(key, value)| (key, value.into()))
                .collect(),
            Self::Same => match forwarding {
                Forwarding::Kernel => read_all(flows)?.into_iter().collect(),
                Forwarding::Direct => return Ok(CarriedOver::default()),
            },
        };
        let mut done = CarriedOver::default();
        for pairs in converted(&entries, forwarding) {
            let is_translated_anew = pairs.len() > 1;
            if matches!(self, Self::Same) && !is_translated_anew {
                continue;
            }
            let replaced = match self {
                Self::Layout(_) => None,
                Self::Same => Some(&entries),
            };
            match enter(flows, &in_order(&pairs), replaced)? {
                Entered::New => done.entered += 1,
                Entered::Known => {}
                Entered::Full => done.without_room += 1,
                Entered::Taken => done.taken += 1,
            }
        }
        Ok(done)
    }
}

/// How many flows were carried over, and how many were not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CarriedOver {
    /// Those that were entered.
    pub entered: usize,
    /// Those that the map has no room for.
    pub without_room: usize,
    /// Those of which a port or an address is another flow's by now.
    pub taken: usize,
}

/// The elements of `FLOWS`, of which [`Map`] has those that count.
trait Elements {
    /// As [`Map::insert`].
    fn insert(&self, key: &FlowKey, value: &FlowValue) -> io::Result<()>;
    /// As [`Map::update`].
    fn update(&self, key: &FlowKey, value: &FlowValue) -> io::Result<()>;
    /// As [`Map::lookup`].
    fn lookup(&self, key: &FlowKey) -> io::Result<Option<FlowValue>>;
    /// As [`Map::delete`].
    fn delete(&self, key: &FlowKey) -> io::Result<()>;
}

impl Elements for Map {
    fn insert(&self, key: &FlowKey, value: &FlowValue) -> io::Result<()> {
        self.insert(sys::bytes(key), sys::bytes(value))
    }

    fn update(&self, key: &FlowKey, value: &FlowValue) -> io::Result<()> {
        self.update(sys::bytes(key), sys::bytes(value))
    }

    fn lookup(&self, key: &FlowKey) -> io::Result<Option<FlowValue>> {
        read_one(self, key)
    }

    fn delete(&self, key: &FlowKey) -> io::Result<()> {
        self.delete(sys::bytes(key))
    }
}

/// The entries of a flow's pairs, those first whose keys are new: until the others are written packets go
/// the way of before.
fn in_order(pairs: &[Pair]) -> Vec<Entry> {
    match pairs {
        [first, second] => vec![second[0], first[1], second[1], first[0]],
        // The reply's first: a packet of the client that finds its entry finds an answer, too.
        pairs => pairs.iter().flatten().rev().copied().collect(),
    }
}

/// What became of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Entered {
    New,
    /// All of it was there.
    Known,
    /// There is no room for it.
    Full,
    /// One of its keys is another flow's, or the flow has ended.
    Taken,
}

/// Enters a flow, or nothing of it. Entries of `replaced` make room for those with their keys.
fn enter(
    flows: &impl Elements,
    entries: &[Entry],
    replaced: Option<&HashMap<FlowKey, FlowValue>>,
) -> io::Result<Entered> {
    let mut entered = Vec::new();
    let mut is_new = false;
    for (key, value) in entries {
        let before = replaced.and_then(|replaced| replaced.get(key));
        let one = match before {
            Some(before) => replace(flows, key, value, before),
            None => insert(flows, key, value),
        };
        match one {
            Ok(Entered::New) => {
                is_new = true;
                entered.push((key, before));
            }
            Ok(Entered::Known) => {}
            failed => {
                take_back(flows, &entered);
                return failed;
            }
        }
    }
    Ok(if is_new { Entered::New } else { Entered::Known })
}

fn insert(flows: &impl Elements, key: &FlowKey, value: &FlowValue) -> io::Result<Entered> {
    match flows.insert(key, value) {
        Ok(()) => Ok(Entered::New),
        Err(error) if error.raw_os_error() == Some(libc::E2BIG) => Ok(Entered::Full),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // Between both, the sweep may remove it.
            let found = flows.lookup(key)?;
            let is_the_same = found.is_some_and(|found| found.tuple == value.tuple);
            Ok(if is_the_same {
                Entered::Known
            } else {
                Entered::Taken
            })
        }
        Err(error) => Err(error),
    }
}

fn replace(
    flows: &impl Elements,
    key: &FlowKey,
    value: &FlowValue,
    before: &FlowValue,
) -> io::Result<Entered> {
    match flows.lookup(key)? {
        Some(found) if found.tuple == value.tuple => Ok(Entered::Known),
        Some(found) if found.tuple == before.tuple => {
            flows.update(key, value)?;
            Ok(Entered::New)
        }
        _ => Ok(Entered::Taken),
    }
}

/// Takes back what was entered of a flow, the last entry first. What cannot be taken back times out.
fn take_back(flows: &impl Elements, entered: &[(&FlowKey, Option<&FlowValue>)]) {
    for (key, before) in entered.iter().rev() {
        let _gone = match before {
            Some(before) => flows.update(key, before),
            None => flows.delete(key),
        };
    }
}

/// The pairs of each flow, as a mode has them. A flow of which one direction is missing is left out, and
/// so is one whose packets, between the hooks, would be those of another flow.
fn converted(entries: &HashMap<FlowKey, FlowValue>, forwarding: Forwarding) -> Vec<Vec<Pair>> {
    let mut taken: HashSet<FlowKey> = entries.keys().copied().collect();
    let mut flows = Vec::new();
    for (key, value) in entries {
        if !value.flags.contains(FlowFlags::FROM_CLIENT) {
            continue;
        }
        let other_key = value.other(key.proto);
        let other = entries.get(&other_key);
        let Some(other) = other.filter(|other| other.other(key.proto) == *key) else {
            continue;
        };
        let is_forwarded = value.flags.contains(FlowFlags::FORWARDED);
        if !is_forwarded || forwarding == Forwarding::Direct {
            flows.push(vec![[(*key, *value), (other_key, *other)]]);
            continue;
        }
        let pairs = left_to_the_kernel((*key, *value), (other_key, *other));
        // The reply as it leaves, and the packet as it leaves.
        let new = [pairs[0][1].0, pairs[1][0].0];
        if new.iter().all(|key| taken.insert(*key)) {
            flows.push(pairs.into());
        }
    }
    flows
}

/// A flow that was translated at once, as two pairs: one by which it is given its backend, and one by
/// which it is given the node's address.
fn left_to_the_kernel(client: Entry, reply: Entry) -> [Pair; 2] {
    let ((client_key, client), (reply_key, reply)) = (client, reply);
    let proto = client_key.proto;
    // Client and backend: what the kernel sees.
    let inside = Tuple {
        src: client_key.tuple.src,
        src_port: client_key.tuple.src_port,
        ..client.tuple
    };
    let seen = |flags: FlowFlags| {
        let all = [
            FlowFlags::SEEN,
            FlowFlags::FIN,
            FlowFlags::RST,
            FlowFlags::STREAM,
        ];
        all.into_iter().fold(FlowFlags::NONE, |seen, flag| {
            seen.union(flag.intersection(flags))
        })
    };
    let (of_client, of_reply) = (seen(client.flags), seen(reply.flags));
    let first = [
        (
            client_key,
            FlowValue {
                tuple: inside,
                flags: of_client
                    .union(FlowFlags::FROM_CLIENT)
                    .union(FlowFlags::OTHER_AT_EGRESS),
                ..client
            },
        ),
        (
            FlowKey::new(inside.reversed(), proto, Hook::EGRESS),
            FlowValue {
                flags: of_reply,
                ..reply
            },
        ),
    ];
    // By whichever device they leave: where replies return is the first pair's to say.
    let second = [
        (
            FlowKey::new(inside, proto, Hook::EGRESS),
            FlowValue {
                flags: of_client
                    .union(FlowFlags::FROM_CLIENT)
                    .union(FlowFlags::MASQUERADED),
                device: 0,
                router: [0; 2],
                ..client
            },
        ),
        (
            reply_key,
            FlowValue {
                tuple: inside.reversed(),
                flags: of_reply
                    .union(FlowFlags::MASQUERADED)
                    .union(FlowFlags::OTHER_AT_EGRESS),
                device: 0,
                router: [0; 2],
                ..reply
            },
        ),
    ];
    [first, second]
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use svclb_common::{Addr16, PortBe, Proto};

    use super::*;

    fn tuple(src: ([u8; 4], u16), dst: ([u8; 4], u16)) -> Tuple {
        Tuple {
            src: Addr16::from_ip(src.0.into()),
            dst: Addr16::from_ip(dst.0.into()),
            src_port: PortBe::new(src.1),
            dst_port: PortBe::new(dst.1),
        }
    }

    const CLIENT: ([u8; 4], u16) = ([198, 51, 100, 1], 40_000);
    const FRONTEND: ([u8; 4], u16) = ([192, 0, 2, 1], 30_080);
    const BACKEND: ([u8; 4], u16) = ([10, 244, 2, 2], 8080);
    const NODE: ([u8; 4], u16) = ([192, 0, 2, 1], 50_123);
    const DEVICE: u32 = 3;

    fn entry(from: Tuple, to: Tuple, hook: Hook, flags: &[FlowFlags]) -> (FlowKey, FlowValue) {
        let flags = flags.iter().copied();
        let value = FlowValue {
            tuple: to,
            flags: flags.fold(FlowFlags::SEEN, FlowFlags::union),
            last_seen_ns: 7,
            device: DEVICE,
            ..FlowValue::default()
        };
        (FlowKey::new(from, Proto::TCP, hook), value)
    }

    fn forwarded(frontend: ([u8; 4], u16), node: ([u8; 4], u16)) -> Pair {
        let (comes, leaves) = (tuple(CLIENT, frontend), tuple(node, BACKEND));
        let flags = [FlowFlags::FORWARDED, FlowFlags::FROM_CLIENT];
        [
            entry(comes, leaves, Hook::INGRESS, &flags),
            entry(
                leaves.reversed(),
                comes.reversed(),
                Hook::INGRESS,
                &flags[..1],
            ),
        ]
    }

    /// What a packet becomes at the hooks that it passes.
    fn passed(entries: &HashMap<FlowKey, FlowValue>, packet: Tuple) -> Tuple {
        [Hook::INGRESS, Hook::EGRESS]
            .into_iter()
            .fold(packet, |packet, hook| {
                let key = FlowKey::new(packet, Proto::TCP, hook);
                entries.get(&key).map_or(packet, |value| value.tuple)
            })
    }

    #[test]
    fn a_flow_that_was_forwarded_is_translated_to_the_same_at_two_hooks() {
        let before = HashMap::from(forwarded(FRONTEND, NODE));
        let flows = converted(&before, Forwarding::Kernel);
        let after: HashMap<_, _> = flows.into_iter().flatten().flatten().collect();
        assert_eq!(after.len(), 4);
        let (comes, leaves) = (tuple(CLIENT, FRONTEND), tuple(NODE, BACKEND));
        assert_eq!(passed(&after, comes), leaves);
        assert_eq!(passed(&after, leaves.reversed()), comes.reversed());
        for (key, value) in &after {
            let other = after.get(&value.other(key.proto)).unwrap();
            assert_eq!(other.other(key.proto), *key, "each direction has its other");
            let is_masqueraded = value.flags.contains(FlowFlags::MASQUERADED);
            assert_eq!(value.device, if is_masqueraded { 0 } else { DEVICE });
            assert!(!value.flags.contains(FlowFlags::FORWARDED));
            assert!(value.flags.contains(FlowFlags::SEEN));
        }
        // The other mode has it as it was.
        let flows = converted(&before, Forwarding::Direct);
        let after: HashMap<_, _> = flows.into_iter().flatten().flatten().collect();
        assert_eq!(after, before);
    }

    #[test]
    fn of_two_flows_that_the_kernel_could_not_tell_apart_one_goes_on() {
        let other = ([203, 0, 113, 1], 80);
        let mut before = HashMap::from(forwarded(FRONTEND, NODE));
        before.extend(forwarded(other, (NODE.0, 50_124)));
        assert_eq!(converted(&before, Forwarding::Kernel).len(), 1);
        assert_eq!(converted(&before, Forwarding::Direct).len(), 2);
    }

    #[test]
    fn a_flow_to_a_backend_here_goes_on_as_it_is_and_half_a_flow_is_left() {
        let (comes, inside) = (tuple(CLIENT, FRONTEND), tuple(CLIENT, BACKEND));
        let flags = [FlowFlags::FROM_CLIENT, FlowFlags::OTHER_AT_EGRESS];
        let pair = [
            entry(comes, inside, Hook::INGRESS, &flags),
            entry(inside.reversed(), comes.reversed(), Hook::EGRESS, &[]),
        ];
        let mut before = HashMap::from(pair);
        for forwarding in [Forwarding::Kernel, Forwarding::Direct] {
            assert_eq!(converted(&before, forwarding), [vec![pair]]);
        }
        before.remove(&pair[1].0);
        assert!(converted(&before, Forwarding::Kernel).is_empty());
    }

    /// Entries up to a number, as the kernel keeps them.
    #[derive(Default)]
    struct Table {
        entries: RefCell<HashMap<FlowKey, FlowValue>>,
        room: usize,
        /// Keys in the order in which they were written.
        written: RefCell<Vec<FlowKey>>,
    }

    impl Table {
        fn new(room: usize, entries: impl IntoIterator<Item = Entry>) -> Self {
            let entries = RefCell::new(entries.into_iter().collect());
            Self {
                entries,
                room,
                ..Self::default()
            }
        }
    }

    impl Elements for Table {
        fn insert(&self, key: &FlowKey, value: &FlowValue) -> io::Result<()> {
            let mut entries = self.entries.borrow_mut();
            if entries.contains_key(key) {
                return Err(io::Error::from_raw_os_error(libc::EEXIST));
            }
            if entries.len() == self.room {
                return Err(io::Error::from_raw_os_error(libc::E2BIG));
            }
            entries.insert(*key, *value);
            self.written.borrow_mut().push(*key);
            Ok(())
        }

        fn update(&self, key: &FlowKey, value: &FlowValue) -> io::Result<()> {
            self.entries.borrow_mut().insert(*key, *value);
            self.written.borrow_mut().push(*key);
            Ok(())
        }

        fn lookup(&self, key: &FlowKey) -> io::Result<Option<FlowValue>> {
            Ok(self.entries.borrow().get(key).copied())
        }

        fn delete(&self, key: &FlowKey) -> io::Result<()> {
            self.entries.borrow_mut().remove(key);
            Ok(())
        }
    }

    #[test]
    fn until_the_new_keys_are_there_packets_go_the_way_of_before() {
        let before = HashMap::from(forwarded(FRONTEND, NODE));
        let (comes, leaves) = (tuple(CLIENT, FRONTEND), tuple(NODE, BACKEND));
        let [pairs] = &converted(&before, Forwarding::Kernel)[..] else {
            panic!("one flow");
        };
        let table = Table::new(4, before.clone());
        for (key, value) in in_order(pairs) {
            table.update(&key, &value).unwrap();
            let now = table.entries.borrow();
            assert_eq!(passed(&now, comes), leaves);
            assert_eq!(passed(&now, leaves.reversed()), comes.reversed());
        }
        let table = Table::new(4, before.clone());
        let entries = in_order(pairs);
        assert_eq!(
            enter(&table, &entries, Some(&before)).unwrap(),
            Entered::New
        );
        let keys: Vec<_> = entries.iter().map(|(key, _)| *key).collect();
        assert_eq!(*table.written.borrow(), keys);
        assert_eq!(
            enter(&table, &entries, Some(&before)).unwrap(),
            Entered::Known
        );
    }

    #[test]
    fn a_flow_whose_key_another_has_by_now_is_not_entered_in_part() {
        let before = HashMap::from(forwarded(FRONTEND, NODE));
        let flows = converted(&before, Forwarding::Kernel);
        let entries = in_order(&flows[0]);
        let stranger = FlowValue {
            tuple: tuple(([203, 0, 113, 9], 1), ([203, 0, 113, 8], 2)),
            ..FlowValue::default()
        };
        for (key, _) in &entries {
            // Into another map, where only that key is there; and into the same one.
            let other = HashMap::from([(*key, stranger)]);
            let table = Table::new(9, other.clone());
            assert_eq!(enter(&table, &entries, None).unwrap(), Entered::Taken);
            assert_eq!(*table.entries.borrow(), other);
            let mut same = before.clone();
            same.insert(*key, stranger);
            let table = Table::new(9, same.clone());
            assert_eq!(
                enter(&table, &entries, Some(&before)).unwrap(),
                Entered::Taken
            );
            assert_eq!(*table.entries.borrow(), same);
        }
    }

    #[test]
    fn a_flow_that_finds_no_room_leaves_what_there_is_to_the_next() {
        let before = HashMap::from(forwarded(FRONTEND, NODE));
        let flows = converted(&before, Forwarding::Kernel);
        let entries = in_order(&flows[0]);
        let table = Table::new(3, []);
        assert_eq!(enter(&table, &entries, None).unwrap(), Entered::Full);
        assert!(table.entries.borrow().is_empty());
        let flows = converted(&before, Forwarding::Direct);
        let entries = in_order(&flows[0]);
        assert_eq!(enter(&table, &entries, None).unwrap(), Entered::New);
        assert_eq!(*table.entries.borrow(), before);
        // There is room for two entries, and a flow that is left to the kernel needs two more.
        let flows = converted(&before, Forwarding::Kernel);
        let entries = in_order(&flows[0]);
        assert_eq!(
            enter(&table, &entries, Some(&before)).unwrap(),
            Entered::Full
        );
        assert_eq!(*table.entries.borrow(), before);
    }

    #[test]
    fn a_flow_that_has_ended_meanwhile_is_not_entered() {
        let before = HashMap::from(forwarded(FRONTEND, NODE));
        let flows = converted(&before, Forwarding::Kernel);
        let entries = in_order(&flows[0]);
        let table = Table::new(9, []);
        assert_eq!(
            enter(&table, &entries, Some(&before)).unwrap(),
            Entered::Taken
        );
        assert!(table.entries.borrow().is_empty());
    }
}
