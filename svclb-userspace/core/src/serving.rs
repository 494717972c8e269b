//! Whether established flows and connected sockets may stay with their backend.
//!
//! Many flows of one Service are checked together, so the serving endpoints of each Service port
//! are collected once: flows + endpoints steps instead of flows × endpoints. Flows of Services
//! that did not change are not checked at all.

use std::collections::{BTreeSet, HashMap, HashSet};

use svclb_common::{BackendValue, FrontendKey, PortBe, Proto};

use crate::model::ObjectName;
use crate::plan::ServingBackend;
use crate::planner::{Planner, Round};

/// The Services whose flows have to be checked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChangedServices {
    all: bool,
    names: BTreeSet<ObjectName>,
}

impl ChangedServices {
    /// All Services, and flows of Services that are gone.
    pub const fn all() -> Self {
        Self {
            all: true,
            names: BTreeSet::new(),
        }
    }

    /// The Services of a round that have, or had, a port of this protocol.
    pub fn of_round(round: &Round, proto: Proto) -> Self {
        let plans = round.plans.iter().map(|plan| &plan.record);
        let records = plans.chain(&round.removed);
        Self {
            all: false,
            names: records
                .filter(|record| record.proto == proto)
                .map(|record| ObjectName::new(record.namespace.as_str(), record.name.as_str()))
                .collect(),
        }
    }

    /// Adds those of another set.
    pub fn merge(&mut self, other: Self) {
        self.all |= other.all;
        if self.all {
            self.names.clear();
        } else {
            self.names.extend(other.names);
        }
    }

    /// Whether no flow has to be checked.
    pub fn is_empty(&self) -> bool {
        !self.all && self.names.is_empty()
    }

    fn contains(&self, name: &ObjectName) -> bool {
        self.all || self.names.contains(name)
    }
}

/// Looks up for many flows whether their backend serves. It borrows the planner, so all lookups
/// see the same endpoints.
pub struct ServingIndex<'a> {
    planner: &'a Planner,
    /// The serving backends by Service and by the number and protocol of a frontend's port.
    backends: HashMap<(&'a ObjectName, PortBe, Proto), HashSet<ServingBackend>>,
    steps: usize,
}

impl<'a> ServingIndex<'a> {
    /// An index of which nothing is collected yet.
    pub fn new(planner: &'a Planner) -> Self {
        Self {
            planner,
            backends: HashMap::new(),
            steps: 0,
        }
    }

    /// Whether a flow from a frontend to a backend may go on: the Service that has the frontend
    /// has a serving endpoint there.
    pub fn serves(&mut self, frontend: &FrontendKey, backend: &BackendValue) -> bool {
        self.may_stay(frontend, backend, &ChangedServices::all())
    }

    /// The same, where only the Services in `changed` can have lost a backend. A flow of a
    /// frontend that no Service has may never stay.
    pub fn may_stay(
        &mut self,
        frontend: &FrontendKey,
        backend: &BackendValue,
        changed: &ChangedServices,
    ) -> bool {
        self.steps += 1;
        let Some(name) = self.planner.holder(frontend) else {
            return false;
        };
        if !changed.contains(name) {
            return true;
        }
        let (port, proto) = (frontend.port, frontend.proto);
        let backends = self.backends.entry((name, port, proto)).or_insert_with(|| {
            let backends = self.planner.serving_backends(name, port, proto);
            // Each endpoint was looked at once.
            backends.inspect(|_| self.steps += 1).collect()
        });
        backends.contains(&ServingBackend::from(backend))
    }

    /// How many flows and endpoints were looked at so far.
    pub const fn steps(&self) -> usize {
        self.steps
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;

    use svclb_common::Addr16;

    use super::*;
    use crate::model::{
        Conditions, Endpoint, EndpointPort, EndpointSlice, Event, Family, Object, ObjectKey,
        Service, ServicePort, ServiceType, TrafficPolicy,
    };

    const FLOWS: u32 = 100_000;
    const ENDPOINTS: u32 = 1_000;

    fn frontend(host: u8) -> FrontendKey {
        let ip = Addr16::from_ip(IpAddr::from([10, 96, 0, host]));
        FrontendKey::of_socket(ip, PortBe::new(53), Proto::UDP)
    }

    fn ip(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number))
    }

    fn backend(number: u32) -> BackendValue {
        BackendValue::new(Addr16::from_ip(ip(number)), PortBe::new(5353), Proto::UDP)
    }

    fn objects(name: &str, host: u8, endpoints: std::ops::Range<u32>) -> [Event; 2] {
        let object_name = ObjectName::new("default", name);
        let unnamed: Arc<str> = "".into();
        let service = Service {
            name: object_name.clone(),
            created: 0,
            kind: ServiceType::ClusterIp,
            cluster_ips: vec![IpAddr::from([10, 96, 0, host])],
            external_ips: Vec::new(),
            ingress_ips: Vec::new(),
            source_ranges: Vec::new(),
            ports: vec![ServicePort {
                name: Arc::clone(&unnamed),
                port: 53,
                proto: Proto::UDP,
                node_port: 0,
            }],
            affinity_seconds: None,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            health_check_node_port: 0,
            local_source: None,
        };
        let slice = EndpointSlice {
            name: object_name,
            service: name.into(),
            family: Family::V4,
            ports: vec![EndpointPort {
                name: unnamed,
                port: 5353,
                proto: Proto::UDP,
            }],
            endpoints: endpoints
                .map(|number| Endpoint {
                    addr: ip(number),
                    conditions: Conditions::default(),
                    node: None,
                    hints: None,
                })
                .collect(),
        };
        [Object::Service(service), Object::EndpointSlice(slice)].map(Event::Apply)
    }

    /// Two Services, `a` at host 1 and `b` at host 2, with the same endpoints.
    fn planner() -> Planner {
        let mut planner = Planner::new("node1");
        for (name, host) in [("a", 1), ("b", 2)] {
            for event in objects(name, host, 0..ENDPOINTS) {
                planner.observe(event);
            }
        }
        planner.observe(Event::Synced);
        while planner.next_round(100).is_some() {}
        planner
    }

    #[test]
    fn many_flows_of_a_service_take_a_step_each_and_its_endpoints_one_more() {
        let planner = planner();
        let mut index = ServingIndex::new(&planner);
        for number in 0..FLOWS {
            assert!(index.serves(&frontend(1), &backend(number % ENDPOINTS)));
        }
        assert!(!index.serves(&frontend(1), &backend(ENDPOINTS)));
        let wanted = FLOWS + ENDPOINTS + 1;
        assert_eq!(index.steps(), wanted as usize);
    }

    #[test]
    fn flows_of_a_service_that_did_not_change_are_not_looked_up_in_its_endpoints() {
        let mut planner = planner();
        let [_, slice] = objects("b", 2, 1..ENDPOINTS);
        planner.observe(slice);
        let round = planner.next_round(100).unwrap();
        let changed = ChangedServices::of_round(&round, Proto::UDP);
        assert!(!changed.is_empty());
        assert!(ChangedServices::of_round(&round, Proto::TCP).is_empty());
        let mut index = ServingIndex::new(&planner);
        // `a` would not serve this one, and is not asked.
        assert!(index.may_stay(&frontend(1), &backend(ENDPOINTS), &changed));
        assert_eq!(index.steps(), 1);
        assert!(!index.may_stay(&frontend(2), &backend(0), &changed));
        assert!(index.may_stay(&frontend(2), &backend(1), &changed));
    }

    #[test]
    fn a_flow_of_a_service_that_is_gone_may_not_stay() {
        let mut planner = planner();
        let name = ObjectName::new("default", "b");
        planner.observe(Event::Delete(ObjectKey::Service(name)));
        let round = planner.next_round(100).unwrap();
        let changed = ChangedServices::of_round(&round, Proto::UDP);
        assert!(!changed.is_empty());
        let mut index = ServingIndex::new(&planner);
        assert!(!index.may_stay(&frontend(2), &backend(0), &changed));
        assert!(index.may_stay(&frontend(1), &backend(0), &changed));
    }

    #[test]
    fn sets_of_services_add_up() {
        let named = |name| ChangedServices {
            all: false,
            names: [ObjectName::new("default", name)].into(),
        };
        let mut changed = ChangedServices::default();
        assert!(changed.is_empty());
        changed.merge(named("a"));
        changed.merge(named("b"));
        assert!(changed.contains(&ObjectName::new("default", "a")));
        assert!(!changed.contains(&ObjectName::new("default", "c")));
        changed.merge(ChangedServices::all());
        changed.merge(named("a"));
        assert!(changed.contains(&ObjectName::new("default", "c")));
    }
}
