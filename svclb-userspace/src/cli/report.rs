//! What `svclb dump` reports. The fields are a contract: in JSON and YAML fields are added, not
//! renamed.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Context as _;
use serde::Serialize;
use svclb_common::{
    Addr16, AffinityKey, AffinityValue, ClientKind, FrontendFlags, FrontendKey, FrontendValue,
    Generation, PortBe, Scope, ServiceId, ServiceRecord, SlotIndex, SlotKey, SlotRange, SlotValue,
    Translation, maps as names,
};
use svclb_core::apply::Snapshot;
use svclb_dataplane::{Features, Pinned};

/// All parts of a dump; those that were not requested are absent.
#[derive(Serialize, Default)]
pub(super) struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) services: Option<Vec<Service>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) backends: Option<Vec<Backend>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) conntrack: Option<Vec<Flow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) affinity: Option<Vec<Affinity>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sockets: Option<Vec<Socket>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<Node>,
}

/// One port of a Service in one address family.
#[derive(Serialize)]
pub(super) struct Service {
    pub(super) id: u32,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) port_name: String,
    pub(super) protocol: &'static str,
    pub(super) family: &'static str,
    /// The addresses and ports of all frontends.
    pub(super) frontends: Vec<String>,
    /// The generation of the first frontend. While a change is written, others may be at another.
    pub(super) generation: u32,
    pub(super) affinity_seconds: u32,
    /// The clients that may use the load balancer's addresses; all if there is none.
    pub(super) source_ranges: Vec<String>,
    pub(super) backends: Vec<SlotBackend>,
    /// The same frontends, each with the backends that it leads to.
    pub(super) by_frontend: Vec<Frontend>,
}

/// A backend in the slots of a Service.
#[derive(Serialize)]
pub(super) struct SlotBackend {
    pub(super) id: u32,
    pub(super) address: String,
    /// Whether the cluster IPs lead clients inside the cluster to it
    /// (`internalTrafficPolicy`).
    pub(super) internal: bool,
    /// Whether the addresses for clients outside (NodePorts, load balancer and external IPs) lead
    /// clients outside to it (`externalTrafficPolicy`); of a Service without such addresses,
    /// whether the cluster IPs do.
    pub(super) external: bool,
    /// Whether it is on this node.
    pub(super) local: bool,
}

/// A frontend, and what it leads to.
#[derive(Serialize)]
pub(super) struct Frontend {
    /// Its address and port.
    pub(super) address: String,
    /// `ClusterIP`, `NodePort`, or `External`: an external IP or one of a load balancer.
    pub(super) kind: &'static str,
    /// Only sockets of the node's own network namespace use it: a NodePort at loopback.
    pub(super) host_only: bool,
    /// No client uses it: the node has the address on a device, and serves it by itself.
    pub(super) bypassed: bool,
    /// Only clients of the source ranges may use it.
    pub(super) has_source_ranges: bool,
    pub(super) generation: u32,
    /// The ids of the backends for clients inside the cluster.
    pub(super) internal: Vec<u32>,
    /// The ids of the backends for clients outside.
    pub(super) external: Vec<u32>,
}

/// A backend, whether or not a Service has it now.
#[derive(Serialize)]
pub(super) struct Backend {
    pub(super) id: u32,
    pub(super) address: String,
    pub(super) protocol: &'static str,
    /// In how many generations it has a slot; with none its id is in quarantine.
    pub(super) slots: usize,
}

/// A client of a Service with session affinity.
#[derive(Serialize)]
pub(super) struct Affinity {
    pub(super) service: String,
    /// An address, or `netns:` and the cookie of a network namespace.
    pub(super) client: String,
    pub(super) backend: String,
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub(super) last_used_ns: u64,
}

/// A flow from outside.
#[derive(Serialize)]
pub(super) struct Flow {
    pub(super) protocol: &'static str,
    pub(super) client: String,
    pub(super) frontend: String,
    pub(super) backend: String,
    /// The address and port that the backend sees instead of the client's, if it is on another
    /// node.
    pub(super) seen_as: Option<String>,
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub(super) last_seen_ns: u64,
}

/// A TCP socket that is connected to a Service.
#[derive(Serialize)]
pub(super) struct Socket {
    pub(super) cookie: u64,
    /// The address and port of the Service.
    pub(super) service: String,
    pub(super) backend: String,
}

/// The programs, counters and maps of this node.
#[derive(Serialize)]
pub(super) struct Node {
    /// The programs whose links are pinned.
    pub(super) programs: Vec<&'static str>,
    pub(super) set_retval: bool,
    pub(super) skc_to_mptcp_sock: bool,
    pub(super) counters: BTreeMap<&'static str, u64>,
    pub(super) maps: BTreeMap<&'static str, Fill>,
}

/// How full a map is.
#[derive(Serialize)]
pub(super) struct Fill {
    pub(super) entries: usize,
    pub(super) capacity: u32,
}

type Slots = BTreeMap<SlotKey, SlotValue>;

/// The Services, by namespace, name and port.
pub(super) fn services(maps: &Snapshot) -> Vec<Service> {
    let slots: Slots = maps.slots.iter().copied().collect();
    let mut frontends_of = BTreeMap::<_, Vec<_>>::new();
    // Every cluster IP refuses its other ports: that is not listed.
    for (key, value) in maps
        .frontends
        .iter()
        .filter(|(key, _)| !key.is_other_ports())
    {
        frontends_of
            .entry(value.service)
            .or_default()
            .push((key, value));
    }
    let mut services: Vec<_> = maps
        .services
        .iter()
        .filter_map(|(id, record)| {
            let frontends = frontends_of.get(id)?;
            Service::of(*id, record, frontends, &slots, maps)
        })
        .collect();
    services.sort_by(|a, b| {
        (&a.namespace, &a.name, &a.port_name, a.id).cmp(&(
            &b.namespace,
            &b.name,
            &b.port_name,
            b.id,
        ))
    });
    services
}

impl Service {
    /// `None` without a frontend.
    fn of(
        id: ServiceId,
        record: &ServiceRecord,
        frontends: &[(&FrontendKey, &FrontendValue)],
        slots: &Slots,
        maps: &Snapshot,
    ) -> Option<Self> {
        let value = *frontends.first()?.1;
        let mut values = frontends.iter().map(|(_, value)| value);
        let limited = values
            .find(|value| value.flags.contains(FrontendFlags::SOURCE_RANGES))
            .map_or(value.generation, |value| value.generation);
        Some(Self {
            id: id.get(),
            namespace: record.namespace.to_string(),
            name: record.name.to_string(),
            port_name: record.port_name.to_string(),
            protocol: record.proto.name(),
            family: record.family.name(),
            frontends: frontends
                .iter()
                .map(|(key, _)| key.socket_addr().to_string())
                .collect(),
            generation: value.generation.get(),
            affinity_seconds: value.affinity_seconds,
            source_ranges: source_ranges(maps, id, limited),
            backends: slot_backends(id, frontends, slots),
            by_frontend: frontends
                .iter()
                .map(|(key, value)| Frontend::of(key, value, slots))
                .collect(),
        })
    }
}

/// The backends that any of the frontends leads to. The ranges differ: with an external policy
/// `Local` the cluster IP leads to all of them, and a NodePort leads clients outside to those on
/// this node.
fn slot_backends(
    service: ServiceId,
    frontends: &[(&FrontendKey, &FrontendValue)],
    slots: &Slots,
) -> Vec<SlotBackend> {
    let is_cluster_ip = |value: &FrontendValue| value.flags.contains(FrontendFlags::CLUSTER_IP);
    let (mut inside, mut outside): (Vec<_>, Vec<_>) = frontends
        .iter()
        .map(|(_, value)| **value)
        .partition(is_cluster_ip);
    if inside.is_empty() {
        inside.clone_from(&outside);
    }
    if outside.is_empty() {
        outside.clone_from(&inside);
    }
    let mut generations = Vec::new();
    for (_, value) in frontends {
        if !generations.contains(&value.generation) {
            generations.push(value.generation);
        }
    }
    let mut backends = Vec::<SlotBackend>::new();
    let mut index_of = BTreeMap::new();
    for generation in generations {
        for slot in positions(service, generation, slots) {
            let is_in = |values: &[FrontendValue], range: fn(&FrontendValue) -> SlotRange| {
                values.iter().any(|value| {
                    value.generation == generation && range(value).contains(slot.position)
                })
            };
            let internal = is_in(&inside, |value| value.internal);
            let external = is_in(&outside, |value| value.external);
            let index = *index_of.entry(slot.backend).or_insert(backends.len());
            match backends.get_mut(index) {
                Some(backend) => {
                    backend.internal |= internal;
                    backend.external |= external;
                }
                None => backends.push(SlotBackend {
                    id: slot.backend.get(),
                    address: address(slot.addr, slot.port),
                    internal,
                    external,
                    local: slot.locality.is_local(),
                }),
            }
        }
    }
    backends
}

impl Frontend {
    fn of(key: &FrontendKey, value: &FrontendValue, slots: &Slots) -> Self {
        let ids = |range: SlotRange| {
            positions(value.service, value.generation, slots)
                .filter(|slot| range.contains(slot.position))
                .map(|slot| slot.backend.get())
                .collect()
        };
        let has = |flag| value.flags.contains(flag);
        Self {
            address: key.socket_addr().to_string(),
            kind: match (
                has(FrontendFlags::CLUSTER_IP),
                has(FrontendFlags::NODE_PORT),
            ) {
                (true, _) => "ClusterIP",
                (_, true) => "NodePort",
                _ => "External",
            },
            host_only: key.scope == Scope::HOST,
            bypassed: key.scope == Scope::BYPASSED,
            has_source_ranges: has(FrontendFlags::SOURCE_RANGES),
            generation: value.generation.get(),
            internal: ids(value.internal),
            external: ids(value.external),
        }
    }
}

/// The slots of a generation, by position.
fn positions(
    service: ServiceId,
    generation: Generation,
    slots: &Slots,
) -> impl Iterator<Item = &SlotValue> {
    (0..).map_while(move |position| {
        slots.get(&SlotKey {
            service,
            generation,
            index: SlotIndex::position(position),
        })
    })
}

fn source_ranges(maps: &Snapshot, service: ServiceId, generation: Generation) -> Vec<String> {
    maps.sources
        .iter()
        .filter(|key| key.source.service == service && key.source.generation == generation)
        .map(|key| key.range().to_string())
        .collect()
}

/// All backends, by id.
pub(super) fn backends(maps: &Snapshot) -> Vec<Backend> {
    let mut slots = BTreeMap::new();
    for (key, value) in &maps.slots {
        if key.index.as_member().is_none() {
            *slots.entry(value.backend).or_insert(0) += 1;
        }
    }
    maps.backends
        .iter()
        .map(|(id, backend)| Backend {
            id: id.get(),
            address: backend.socket_addr().to_string(),
            protocol: backend.proto.name(),
            slots: slots.get(id).copied().unwrap_or(0),
        })
        .collect()
}

/// The clients with session affinity, by Service and client.
pub(super) fn affinity(
    entries: Vec<(AffinityKey, AffinityValue)>,
    maps: &Snapshot,
) -> Vec<Affinity> {
    let mut entries: Vec<_> = entries
        .into_iter()
        .map(|(key, value)| Affinity {
            service: maps
                .services
                .get(&key.service)
                .map_or_else(|| key.service.to_string(), ToString::to_string),
            client: match key.kind {
                ClientKind::NETNS => {
                    let [low, high, ..] = key.client.words();
                    format!("netns:{}", u64::from(high) << 32 | u64::from(low))
                }
                _ => key.client.to_string(),
            },
            backend: maps.backends.get(&value.backend).map_or_else(
                || value.backend.to_string(),
                |backend| backend.socket_addr().to_string(),
            ),
            last_used_ns: value.last_used_ns,
        })
        .collect();
    entries.sort_by(|a, b| (&a.service, &a.client).cmp(&(&b.service, &b.client)));
    entries
}

/// The flows, by frontend and client.
pub(super) fn conntrack(flows: Vec<svclb_dataplane::Flow>) -> Vec<Flow> {
    let mut flows: Vec<_> = flows
        .into_iter()
        .map(|flow| Flow {
            protocol: flow.proto.name(),
            client: flow.client.to_string(),
            frontend: flow.frontend.to_string(),
            backend: flow.backend.to_string(),
            seen_as: flow.seen_as.map(|addr| addr.to_string()),
            last_seen_ns: flow.last_seen_ns(),
        })
        .collect();
    flows.sort_by(|a, b| (&a.frontend, &a.client).cmp(&(&b.frontend, &b.client)));
    flows
}

/// The sockets, by cookie.
pub(super) fn sockets(sockets: Vec<(u64, Translation)>) -> Vec<Socket> {
    let mut sockets: Vec<_> = sockets
        .into_iter()
        .map(|(cookie, translation)| Socket {
            cookie,
            service: address(translation.frontend_addr, translation.frontend_port),
            backend: address(translation.backend_addr, translation.backend_port),
        })
        .collect();
    sockets.sort_by_key(|socket| socket.cookie);
    sockets
}

impl Node {
    /// Reads what is pinned besides the entries of the maps.
    pub(super) fn read(
        pinned: &Pinned,
        maps: &Snapshot,
        features: Features,
    ) -> anyhow::Result<Self> {
        let cannot_read = |map: &str| format!("the map {map} cannot be read");
        let entries = [
            maps.frontends.len(),
            maps.slots.len(),
            maps.sources.len(),
            maps.backends.len(),
            maps.services.len(),
            pinned
                .flow_entries()
                .with_context(|| cannot_read(names::FLOWS))?,
        ];
        Ok(Self {
            programs: pinned.attached(),
            set_retval: features.set_retval,
            skc_to_mptcp_sock: features.skc_to_mptcp_sock,
            counters: pinned
                .counters()
                .with_context(|| cannot_read(names::COUNTERS))?
                .into_iter()
                .map(|(counter, count)| (counter.name(), count))
                .collect(),
            maps: pinned
                .capacities()
                .into_iter()
                .zip(entries)
                .map(|((name, capacity), entries)| (name, Fill { entries, capacity }))
                .collect(),
        })
    }
}

fn address(addr: Addr16, port: PortBe) -> String {
    SocketAddr::new(addr.to_ip(), port.get()).to_string()
}
