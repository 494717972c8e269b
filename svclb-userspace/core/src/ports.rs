//! `PORTS`: the ports that a packet must have one of to be of a Service. Which bits are needed is
//! a rule, and this is where it stands.
//!
//! A packet program looks nothing else up for a packet whose port has no bit. So a bit is set
//! before the frontend or the slot that needs it ([`Phase::SetPorts`](crate::op::Phase)). It is
//! cleared only after a start, once the programs of before are replaced, when neither a frontend,
//! a slot nor a flow needs it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use svclb_common::maps::PORTS_LEN;
use svclb_common::{
    FrontendFlags, FrontendKey, FrontendValue, Hook, PortBe, Scope, SlotKey, SlotValue,
};

/// A bit of `PORTS`: packets with this port may be of a Service. At ingress it is the
/// destination's port, at egress the source's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortBit {
    /// Where the packets are translated.
    pub hook: Hook,
    /// Their port.
    pub port: PortBe,
}

impl PortBit {
    /// That of packets to a port.
    pub const fn ingress(port: PortBe) -> Self {
        let hook = Hook::INGRESS;
        Self { hook, port }
    }

    /// That of packets from a port.
    pub const fn egress(port: PortBe) -> Self {
        let hook = Hook::EGRESS;
        Self { hook, port }
    }

    /// Its word in `PORTS` and its place there: the word's index, and a mask.
    pub const fn place(self) -> (u32, u64) {
        self.hook.bit_of(self.port)
    }
}

impl fmt::Display for PortBit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.hook == Hook::INGRESS {
            "to"
        } else {
            "from"
        };
        write!(f, "{direction} {}", self.port.get())
    }
}

impl fmt::Debug for PortBit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The bits that are set.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct PortSet(
    /// The words that are not zero, by their index.
    BTreeMap<u32, u64>,
);

impl PortSet {
    /// From the words of `PORTS`, by their index.
    pub fn of_words(words: impl IntoIterator<Item = (u32, u64)>) -> Self {
        let words = words.into_iter();
        Self(words.filter(|(_, word)| *word != 0).collect())
    }

    /// Whether a bit is set.
    pub fn contains(&self, bit: PortBit) -> bool {
        let (index, mask) = bit.place();
        self.0.get(&index).is_some_and(|word| word & mask != 0)
    }

    /// Sets a bit.
    pub fn insert(&mut self, bit: PortBit) {
        let (index, mask) = bit.place();
        *self.0.entry(index).or_default() |= mask;
    }

    /// Clears a bit.
    pub fn remove(&mut self, bit: PortBit) {
        let (index, mask) = bit.place();
        if let Some(word) = self.0.get_mut(&index) {
            *word &= !mask;
            if *word == 0 {
                self.0.remove(&index);
            }
        }
    }

    /// The bits that are set here and not in `other`, in order.
    pub fn difference<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = PortBit> + 'a {
        self.iter().filter(|bit| !other.contains(*bit))
    }

    /// The bits that are set, in order.
    pub fn iter(&self) -> impl Iterator<Item = PortBit> + '_ {
        self.0.iter().flat_map(|(index, word)| {
            // The words of ingress come first, each for 64 ports (`Hook::bit_of`).
            let (hook, of_hook) = match index.checked_sub(PORTS_LEN / 2) {
                None => (Hook::INGRESS, *index),
                Some(of_hook) => (Hook::EGRESS, of_hook),
            };
            let set = (0..64_u32).filter(move |bit| word >> bit & 1 != 0);
            let ports = set.filter_map(move |bit| u16::try_from(of_hook << 6 | bit).ok());
            ports.map(move |port| PortBit {
                hook,
                port: PortBe::new(port),
            })
        })
    }
}

impl Extend<PortBit> for PortSet {
    fn extend<T: IntoIterator<Item = PortBit>>(&mut self, bits: T) {
        for bit in bits {
            self.insert(bit);
        }
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// What decides which bits are needed, beside frontends and slots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortRules {
    /// The source ports of flows to backends elsewhere (`--source-ports`): their replies come in
    /// at these.
    pub source_ports: RangeInclusive<u16>,
    /// Whether packets may reach cluster IPs: from outside (`--external-cluster-ips`), or from pods
    /// (`--pod-devices`).
    pub cluster_ips: bool,
}

impl PortRules {
    /// The bit that a frontend needs. A cluster IP that packets may not reach needs none, and
    /// neither does the entry that refuses an address's other ports.
    pub fn of_frontend(&self, key: &FrontendKey, value: &FrontendValue) -> Option<PortBit> {
        let is_at_sockets_alone =
            value.flags.contains(FrontendFlags::CLUSTER_IP) && !self.cluster_ips;
        let is_bypassed = key.scope == Scope::BYPASSED;
        (!is_at_sockets_alone && !is_bypassed && !key.is_other_ports())
            .then(|| PortBit::ingress(key.port))
    }

    /// The bit that a slot of a backend with this port needs: its replies leave from there.
    pub const fn of_slot(port: PortBe) -> PortBit {
        PortBit::egress(port)
    }

    /// Every bit that these maps' contents need.
    pub fn needed(
        &self,
        frontends: &BTreeMap<FrontendKey, FrontendValue>,
        slots: &[(SlotKey, SlotValue)],
    ) -> PortSet {
        let mut needed = PortSet::default();
        let source_ports = self.source_ports.clone();
        needed.extend(source_ports.map(|port| PortBit::ingress(PortBe::new(port))));
        needed.extend(
            frontends
                .iter()
                .filter_map(|(key, value)| self.of_frontend(key, value)),
        );
        needed.extend(slots.iter().map(|(_, slot)| Self::of_slot(slot.port)));
        needed
    }
}

#[cfg(test)]
mod tests {
    use svclb_common::{Addr16, Proto};

    use super::*;

    fn rules(cluster_ips: bool) -> PortRules {
        PortRules {
            source_ports: 50_000..=50_001,
            cluster_ips,
        }
    }

    #[test]
    fn a_bit_is_set_and_cleared_by_itself() {
        let bits = [0, 63, 64, 65_535].map(PortBe::new);
        let bits: Vec<_> = bits
            .iter()
            .flat_map(|port| [PortBit::ingress(*port), PortBit::egress(*port)])
            .collect();
        for bit in &bits {
            let mut set = PortSet::default();
            set.insert(*bit);
            let found: Vec<_> = set.iter().collect();
            assert_eq!(found, [*bit]);
            assert!(
                bits.iter()
                    .all(|other| set.contains(*other) == (other == bit))
            );
            let (index, mask) = bit.place();
            assert_eq!(set, PortSet::of_words([(index, mask), (PORTS_LEN / 2, 0)]));
            set.remove(*bit);
            assert_eq!(set, PortSet::default());
        }
    }

    #[test]
    fn a_cluster_ip_needs_a_bit_only_where_packets_may_reach_it() {
        let key = FrontendKey {
            addr: Addr16::from_ip([10, 96, 0, 1].into()),
            port: PortBe::new(80),
            proto: Proto::TCP,
            scope: Scope::ANY,
        };
        let of = |flags| FrontendValue {
            flags,
            ..FrontendValue::default()
        };
        let (cluster_ip, other) = (of(FrontendFlags::CLUSTER_IP), of(FrontendFlags::NODE_PORT));
        let bit = Some(PortBit::ingress(key.port));
        assert_eq!(rules(true).of_frontend(&key, &cluster_ip), bit);
        assert_eq!(rules(false).of_frontend(&key, &cluster_ip), None);
        assert_eq!(rules(false).of_frontend(&key, &other), bit);
        let others = FrontendKey::other_ports(key.addr, key.scope);
        assert_eq!(rules(true).of_frontend(&others, &cluster_ip), None);
    }

    #[test]
    fn the_source_ports_are_needed_whatever_is_in_the_maps() {
        let needed = rules(false).needed(&BTreeMap::new(), &[]);
        let ports: Vec<_> = needed
            .iter()
            .map(|bit| (bit.hook, bit.port.get()))
            .collect();
        assert_eq!(ports, [(Hook::INGRESS, 50_000), (Hook::INGRESS, 50_001)]);
    }
}
