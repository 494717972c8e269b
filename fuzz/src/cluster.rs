//! A node's agent without its sources and its kernel: objects in, maps out.

use std::collections::{BTreeMap, BTreeSet};

use svclb_common::{
    Addr16, BackendId, FrontendKey, FrontendValue, PortBe, SlotIndex, SlotKey, SlotRange,
    SourceRange,
};
use svclb_core::fake::{Contents, FakeMaps};
use svclb_core::invariants;
use svclb_core::model::{Event, NodeConfig, Object, ObjectKey};
use svclb_core::planner::Planner;
use svclb_core::ports::PortRules;
use svclb_core::writer::{Drift, Writer};

/// This node.
pub(crate) const NODE: &str = "node1";

/// How many Services are planned at once: few, so that rounds have seams.
const AT_ONCE: usize = 3;

/// An agent, and the objects that there are.
pub(crate) struct Cluster {
    planner: Planner,
    writer: Writer<FakeMaps>,
    objects: BTreeMap<ObjectKey, Object>,
}

/// What a frontend leads to, by value: no ids, no generations, no order.
#[derive(PartialEq, Eq, Debug)]
struct Target {
    inside: BTreeSet<(Addr16, PortBe)>,
    outside: BTreeSet<(Addr16, PortBe)>,
    sources: Option<BTreeSet<SourceRange>>,
    affinity_seconds: u32,
    flags: svclb_common::FrontendFlags,
}

const fn port_rules() -> PortRules {
    PortRules {
        source_ports: 50_000..=50_999,
        cluster_ips: false,
    }
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self::holding(Contents::default())
    }

    /// One that starts where another left these contents.
    fn holding(contents: Contents) -> Self {
        let mut planner = Planner::new(NODE);
        planner.set_node_config(NodeConfig {
            node_port_ips: vec![[192, 0, 2, 1].into()],
            external_ips: true,
            ..NodeConfig::default()
        });
        let writer =
            Writer::adopt(FakeMaps::holding(contents), port_rules()).expect("the fake can be read");
        Self {
            planner,
            writer,
            objects: BTreeMap::new(),
        }
    }

    /// Another one that starts with these contents, has the same objects, and has written them.
    fn another(&self, contents: Contents) -> Self {
        let mut another = Self::holding(contents);
        for (key, object) in &self.objects {
            another.observe(key.clone(), Some(object.clone()));
        }
        another.synced();
        assert!(another.write(None), "an agent that starts cannot write");
        another
    }

    /// An object is like this now; `None` if there is none of this name.
    pub(crate) fn observe(&mut self, key: ObjectKey, object: Option<Object>) {
        let event = match &object {
            Some(object) => Event::Apply(object.clone()),
            None => Event::Delete(key.clone()),
        };
        self.planner.observe(event);
        match object {
            Some(object) => drop(self.objects.insert(key, object)),
            None => drop(self.objects.remove(&key)),
        }
    }

    /// These are all objects.
    pub(crate) fn synced(&mut self) {
        self.planner.observe(Event::Synced);
    }

    /// Writes what changed, with so many operations at most; whether that was enough. Then the maps
    /// agree with each other, and an audit finds nothing.
    pub(crate) fn write(&mut self, operations: Option<usize>) -> bool {
        self.writer.maps().stop_after = operations;
        let mut is_whole = true;
        while let Some(round) = self.planner.next_round(AT_ONCE) {
            is_whole &= self.writer.commit(&round).failed.is_empty();
        }
        is_whole &= self.writer.settle().is_ok();
        let violations = invariants::check(&self.writer.maps().contents.snapshot(), &port_rules());
        assert!(violations.is_empty(), "{}", violations[0]);
        if is_whole {
            let drift = self.writer.audit().expect("the fake can be read");
            assert_eq!(
                drift,
                Drift::default(),
                "an audit found what was just written"
            );
        }
        is_whole
    }

    /// The agent ends, and another one starts with the same objects.
    pub(crate) fn restart(&mut self) {
        let contents = self.writer.maps().contents.clone();
        let mut again = self.another(contents);
        let wanted = again.planner.wanted();
        assert!(again.writer.remove_others(&wanted).failed.is_empty());
        assert!(again.write(None));
        *self = again;
    }

    /// What is in the maps is what an agent would have written that knew nothing before.
    pub(crate) fn check(&mut self) {
        let mut anew = self.another(Contents::default());
        let expected = targets(&anew.writer.maps().contents);
        assert_eq!(targets(&self.writer.maps().contents), expected);
    }
}

fn targets(contents: &Contents) -> BTreeMap<FrontendKey, Target> {
    let frontends = contents.maps.frontends.iter();
    frontends
        .map(|(key, value)| {
            let target = Target {
                inside: backends(contents, value, value.internal),
                outside: backends(contents, value, value.external),
                sources: contents.sources(value),
                affinity_seconds: value.affinity_seconds,
                flags: value.flags,
            };
            (*key, target)
        })
        .collect()
}

/// The backends of a range, of which each has a slot, and each slot a backend.
fn backends(
    contents: &Contents,
    frontend: &FrontendValue,
    range: SlotRange,
) -> BTreeSet<(Addr16, PortBe)> {
    (range.first..range.first + range.count)
        .map(|position| {
            let slot = contents.slots.get(&SlotKey {
                service: frontend.service,
                generation: frontend.generation,
                index: SlotIndex::position(position),
            });
            let slot = slot.expect("a position has no slot");
            assert_ne!(slot.backend, BackendId::default(), "a slot of no backend");
            (slot.addr, slot.port)
        })
        .collect()
}
