//! `FLOWS`: reading the flows from outside, and removing those that are over.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

use nix::time::{ClockId, clock_gettime};
use svclb_common::{
    Addr16, BackendId, BackendValue, FlowFlags, FlowKey, FlowValue, Hook, PortBe, Proto,
    maps as names,
};
use svclb_core::conntrack::{Timeouts, is_under_pressure};

use super::read::{read_all, read_one};
use crate::pins::Pins;
use crate::sys::{self, Map};

/// A flow from outside, as its client's direction has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// Its client.
    pub client: SocketAddr,
    /// The address that the client uses.
    pub frontend: SocketAddr,
    /// Where it was sent.
    pub backend: SocketAddr,
    /// The address and port that the backend sees, where it does not see the client's own: one of the node,
    /// or the client's address and a port that it was given.
    pub seen_as: Option<SocketAddr>,
    /// TCP or UDP.
    pub proto: Proto,
    key: FlowKey,
    value: FlowValue,
}

impl Flow {
    fn new(key: FlowKey, value: FlowValue) -> Option<Self> {
        let (from, to) = (key.tuple, value.tuple);
        let is_own = value.flags.contains(FlowFlags::OWN);
        let is_clients = value.flags.contains(FlowFlags::FROM_CLIENT)
            && !is_own
            && !value.flags.contains(FlowFlags::MASQUERADED);
        is_clients.then(|| Self {
            client: at(from.src, from.src_port),
            frontend: at(from.dst, from.dst_port),
            backend: at(to.dst, to.dst_port),
            seen_as: (from.src != to.src || from.src_port != to.src_port)
                .then(|| at(to.src, to.src_port)),
            proto: key.proto,
            key,
            value,
        })
    }

    /// The key by which its packets are found as they leave, where the kernel forwards them.
    const fn egress_key(&self) -> FlowKey {
        FlowKey::new(self.value.tuple, self.proto, Hook::EGRESS)
    }

    /// When a packet of its client was last seen, in nanoseconds of CLOCK_MONOTONIC.
    pub const fn last_seen_ns(&self) -> u64 {
        self.value.last_seen_ns
    }
}

fn at(addr: Addr16, port: PortBe) -> SocketAddr {
    SocketAddr::new(addr.to_ip(), port.get())
}

/// What a sweep found and left.
#[derive(Debug, Default)]
pub struct Swept {
    /// The UDP flows that go on, if they were asked for.
    pub udp: Vec<Flow>,
    /// How many were over and are gone.
    pub removed: usize,
    /// How many entries are left, two for each flow, and two more for one that is masqueraded.
    pub entries: usize,
    /// Whether the map is so full that there should be another sweep soon.
    pub is_under_pressure: bool,
    /// The backend that most source ports are in use for.
    pub busiest: Option<BusyBackend>,
}

/// How many source ports are in use for a backend.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BusyBackend {
    /// How many connections go on, each with a port of its own.
    pub ports: u32,
    /// Where they lead.
    pub backend: SocketAddr,
    /// TCP or UDP.
    pub proto: Proto,
}

/// The backend whose replies an entry is for, if its flow has a source port of the node that no other flow
/// can have yet: it goes on.
fn keeps_port(key: &FlowKey, value: &FlowValue) -> Option<(SocketAddr, Proto)> {
    let flags = value.flags;
    let is_given = flags.contains(FlowFlags::MASQUERADED) || flags.contains(FlowFlags::FORWARDED);
    let is_others = FlowFlags::FROM_CLIENT.union(FlowFlags::OWN);
    let is_reply = is_given && flags.intersection(is_others) == FlowFlags::NONE;
    let goes_on = if key.proto == Proto::UDP {
        flags.contains(FlowFlags::STREAM)
    } else {
        !flags.is_closing()
    };
    (is_reply && goes_on).then(|| (at(key.tuple.src, key.tuple.src_port), key.proto))
}

/// The flows.
#[derive(Debug)]
pub struct Flows {
    map: Map,
    backends: Map,
}

impl Flows {
    pub(crate) fn open(pins: &Pins) -> io::Result<Self> {
        Ok(Self {
            map: Map::open(&pins.map(names::FLOWS))?,
            backends: Map::open(&pins.map(names::BACKENDS))?,
        })
    }

    /// All of them, in no order.
    ///
    /// # Errors
    /// The system's error.
    pub fn list(&self) -> io::Result<Vec<Flow>> {
        let all = read_all::<FlowKey, FlowValue>(&self.map)?;
        let leaving: HashMap<_, _> = all
            .iter()
            .filter(|(_, value)| {
                let leaves = FlowFlags::MASQUERADED.union(FlowFlags::FROM_CLIENT);
                value.flags.contains(leaves)
            })
            .map(|(key, value)| (*key, at(value.tuple.src, value.tuple.src_port)))
            .collect();
        let flows = all
            .into_iter()
            .filter_map(|(key, value)| Flow::new(key, value));
        let flows = flows.map(|flow| Flow {
            seen_as: leaving.get(&flow.egress_key()).copied().or(flow.seen_as),
            ..flow
        });
        Ok(flows.collect())
    }

    pub(crate) fn entries(&self) -> io::Result<usize> {
        Ok(read_all::<FlowKey, FlowValue>(&self.map)?.len())
    }

    /// Enters a pair, the reply's direction first, unless one of its keys is another flow's. Returns
    /// whether it was entered.
    pub(crate) fn enter(&self, pair: &[(FlowKey, FlowValue); 2]) -> io::Result<bool> {
        let [(key, value), (other_key, other)] = pair;
        if !self.insert(other_key, other)? {
            return Ok(false);
        }
        if self.insert(key, value)? {
            return Ok(true);
        }
        self.delete(other_key)?;
        Ok(false)
    }

    /// Whether there is an entry of a key.
    pub(crate) fn contains(&self, key: &FlowKey) -> io::Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// Enters a direction, unless there is one with its key.
    fn insert(&self, key: &FlowKey, value: &FlowValue) -> io::Result<bool> {
        match self.map.insert(sys::bytes(key), sys::bytes(value)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// How many entries there can be, two for each flow.
    pub(crate) const fn capacity(&self) -> u32 {
        self.map.max_entries
    }

    /// Removes the flows that are over, sooner the less room there is, and returns the UDP flows
    /// that go on if they are asked for (`with_udp`). Blocks for as long as reading the map takes.
    ///
    /// # Errors
    /// The system's error; what was removed before it is gone.
    pub fn sweep(&self, timeouts: &Timeouts, with_udp: bool) -> io::Result<Swept> {
        let now = monotonic_ns()?;
        let all = read_all::<FlowKey, FlowValue>(&self.map)?;
        let capacity = self.map.max_entries as usize;
        let timeouts = timeouts.under_pressure(all.len(), capacity);
        let mut swept = Swept {
            entries: all.len(),
            ..Swept::default()
        };
        let mut in_use = HashMap::<_, u32>::new();
        for (key, value) in all {
            if let Some(backend) = keeps_port(&key, &value) {
                *in_use.entry(backend).or_default() += 1;
            }
            let is_wanted = with_udp && key.proto == Proto::UDP;
            let other_key = value.other(key.proto);
            // The other direction matters only if this one was silent for a while.
            let may_be_over = timeouts.is_over(key.proto, &value, Some(&value), now)
                || timeouts.is_over(key.proto, &value, None, now);
            let other = if may_be_over {
                // The key may belong to another flow by now.
                let other = self.get(&other_key)?;
                other.filter(|other| other.other(key.proto) == key)
            } else {
                Some(value)
            };
            if may_be_over && timeouts.is_over(key.proto, &value, other.as_ref(), now) {
                let gone = self.remove_over((key, value), other.map(|other| (other_key, other)))?;
                swept.removed += usize::from(gone > 0);
                swept.entries = swept.entries.saturating_sub(gone);
            } else if is_wanted {
                swept.udp.extend(match Flow::new(key, value) {
                    None => self.left_to_the_kernel(key, value)?,
                    flow => flow,
                });
            }
        }
        let busy = in_use.into_iter();
        let busy = busy.map(|((backend, proto), ports)| BusyBackend {
            ports,
            backend,
            proto,
        });
        swept.busiest = busy.max();
        swept.is_under_pressure = is_under_pressure(swept.entries, capacity);
        Ok(swept)
    }

    /// Removes flows whose backend no longer serves: their client's next packet is given
    /// another one. How many were still there.
    ///
    /// # Errors
    /// The system's error.
    pub fn remove(&self, flows: &[Flow]) -> io::Result<usize> {
        let mut removed = 0;
        for flow in flows {
            removed += usize::from(self.delete(&flow.key)?);
            self.delete_other(&flow.key, &flow.value)?;
            // The pair by which it leaves, if there is one.
            let key = flow.egress_key();
            if let Some(value) = self.get(&key)? {
                self.delete(&key)?;
                self.delete_other(&key, &value)?;
            }
        }
        Ok(removed)
    }

    /// Deletes the other direction of a flow, unless it is another flow's by now.
    fn delete_other(&self, key: &FlowKey, value: &FlowValue) -> io::Result<()> {
        let other_key = value.other(key.proto);
        let other = self.get(&other_key)?;
        if other.is_some_and(|other| other.other(key.proto) == *key) {
            self.delete(&other_key)?;
        }
        Ok(())
    }

    /// A flow that the kernel gives a backend of ours, as its client's direction has it.
    fn left_to_the_kernel(&self, key: FlowKey, value: FlowValue) -> io::Result<Option<Flow>> {
        let of_client = FlowFlags::OWN.union(FlowFlags::FROM_CLIENT);
        if !value.flags.contains(of_client) || value.backend == BackendId::default() {
            return Ok(None);
        }
        let backend: Option<BackendValue> = read_one(&self.backends, &value.backend)?;
        let frontend = at(key.tuple.dst, key.tuple.dst_port);
        Ok(Some(Flow {
            client: at(key.tuple.src, key.tuple.src_port),
            frontend,
            // Whose id is free is none of any frontend.
            backend: backend.map_or(frontend, |backend| backend.socket_addr()),
            seen_as: None,
            proto: key.proto,
            key,
            value,
        }))
    }

    fn get(&self, key: &FlowKey) -> io::Result<Option<FlowValue>> {
        read_one(&self.map, key)
    }

    /// Removes the entries of a flow that is over, and returns how many: the client's first. If that was
    /// seen meanwhile, its reply stays as well, or it would be sent on and never be answered.
    fn remove_over(
        &self,
        one: (FlowKey, FlowValue),
        other: Option<(FlowKey, FlowValue)>,
    ) -> io::Result<usize> {
        let Some(other) = other else {
            return Ok(usize::from(self.remove_unless_seen(&one.0, &one.1)?));
        };
        let (client, reply) = if one.1.flags.contains(FlowFlags::FROM_CLIENT) {
            (one, other)
        } else {
            (other, one)
        };
        if !self.remove_unless_seen(&client.0, &client.1)? {
            return Ok(0);
        }
        // It may have been opened again, and have the same reply.
        let is_reopened = self.get(&client.0)?.is_some();
        let is_gone = !is_reopened && self.remove_unless_seen(&reply.0, &reply.1)?;
        Ok(1 + usize::from(is_gone))
    }

    /// Removes an entry, if nothing was seen of it since it was read.
    fn remove_unless_seen(&self, key: &FlowKey, known: &FlowValue) -> io::Result<bool> {
        if self.get(key)? != Some(*known) {
            return Ok(false);
        }
        self.delete(key)
    }

    fn delete(&self, key: &FlowKey) -> io::Result<bool> {
        match self.map.delete(sys::bytes(key)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// CLOCK_MONOTONIC, which `bpf_ktime_get_ns` reads.
pub(crate) fn monotonic_ns() -> io::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    let seconds = u64::try_from(now.tv_sec()).unwrap_or_default();
    Ok(seconds * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or_default())
}
