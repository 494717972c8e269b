//! `svclb dump`: the maps, as they are in the kernel.

use std::collections::BTreeMap;

use comfy_table::Table;
use serde::Serialize;
use svclb_common::{ClientKind, Generation, ServiceId, SlotIndex, SlotKey, SourceKey};
use svclb_core::apply::Snapshot;
use svclb_dataplane::{Features, Pinned, features};

use super::args::{Dump, What};
use super::pin_dir;
use super::render::{self, Tabular};

/// Everything that may be dumped; what was not asked for is absent.
#[derive(Serialize, Default)]
struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    services: Option<Vec<Service>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backends: Option<Vec<Backend>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conntrack: Option<Vec<Flow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    affinity: Option<Vec<Affinity>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sockets: Option<Vec<Socket>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<Node>,
}

#[derive(Serialize)]
struct Service {
    id: u32,
    namespace: String,
    name: String,
    port_name: String,
    protocol: &'static str,
    family: &'static str,
    frontends: Vec<String>,
    generation: u32,
    affinity_seconds: u32,
    /// The clients that may use the load balancer's addresses; all if there is none.
    source_ranges: Vec<String>,
    backends: Vec<SlotBackend>,
}

#[derive(Serialize)]
struct SlotBackend {
    id: u32,
    address: String,
    internal: bool,
    external: bool,
}

#[derive(Serialize)]
struct Backend {
    id: u32,
    address: String,
    protocol: &'static str,
    /// In how many generations it has a slot; none means that its id rests.
    slots: usize,
}

#[derive(Serialize)]
struct Affinity {
    service: String,
    client: String,
    backend: String,
    last_used_ns: u64,
}

/// A flow from outside.
#[derive(Serialize)]
struct Flow {
    protocol: &'static str,
    client: String,
    frontend: String,
    backend: String,
    /// What the backend sees instead of the client, where it is on another node.
    seen_as: Option<String>,
    last_seen_ns: u64,
}

#[derive(Serialize)]
struct Socket {
    cookie: u64,
    service: String,
    backend: String,
}

#[derive(Serialize)]
struct Node {
    programs: Vec<&'static str>,
    set_retval: bool,
    skc_to_mptcp_sock: bool,
    counters: BTreeMap<&'static str, u64>,
    maps: BTreeMap<&'static str, Fill>,
}

#[derive(Serialize)]
struct Fill {
    entries: usize,
    capacity: u32,
}

pub(crate) fn dump(args: &Dump) -> anyhow::Result<()> {
    let pinned = Pinned::open(&pin_dir(args.pins.pin_dir.clone())?)?;
    let maps = pinned.snapshot()?;
    let asked = |what| args.what == what || args.what == What::All;
    let mut report = Report::default();
    if asked(What::Services) {
        report.services = Some(services(&maps));
    }
    if asked(What::Backends) {
        report.backends = Some(backends(&maps));
    }
    if asked(What::Conntrack) {
        // Of clients outside only: at sockets the kernel's own connection is the state.
        report.conntrack = Some(conntrack(&pinned)?);
    }
    if asked(What::Affinity) {
        report.affinity = Some(affinity(&pinned, &maps)?);
    }
    if asked(What::Sockets) {
        report.sockets = Some(sockets(&pinned)?);
    }
    if args.what == What::All {
        report.node = Some(node(&pinned, &maps, features())?);
    }
    render::print(&report, args.output)
}

fn services(maps: &Snapshot) -> Vec<Service> {
    let slots: BTreeMap<_, _> = maps.slots.iter().copied().collect();
    let mut frontends_of = BTreeMap::<_, Vec<_>>::new();
    // That a cluster IP refuses its other ports goes without saying.
    for frontend in maps
        .frontends
        .iter()
        .filter(|(key, _)| !key.is_other_ports())
    {
        frontends_of
            .entry(frontend.1.service)
            .or_default()
            .push(frontend);
    }
    let mut services: Vec<_> = maps
        .services
        .iter()
        .filter_map(|(id, record)| {
            let frontends = frontends_of.get(id)?;
            let value = *frontends.first()?.1;
            let backends = (0..)
                .map_while(|position| {
                    let slot = slots.get(&SlotKey {
                        service: *id,
                        generation: value.generation,
                        index: SlotIndex::position(position),
                    })?;
                    Some(SlotBackend {
                        id: slot.backend.get(),
                        address: std::net::SocketAddr::new(slot.addr.to_ip(), slot.port.get())
                            .to_string(),
                        internal: value.internal.contains(position),
                        external: value.external.contains(position),
                    })
                })
                .collect();
            Some(Service {
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
                source_ranges: sources(maps, *id, value.generation),
                backends,
            })
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

/// The source ranges of a generation.
fn sources(maps: &Snapshot, service: ServiceId, generation: Generation) -> Vec<String> {
    let is_its =
        |key: &&SourceKey| key.source.service == service && key.source.generation == generation;
    let keys = maps.sources.iter().filter(is_its);
    keys.map(|key| key.range().to_string()).collect()
}

fn backends(maps: &Snapshot) -> Vec<Backend> {
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

fn affinity(pinned: &Pinned, maps: &Snapshot) -> anyhow::Result<Vec<Affinity>> {
    let mut entries: Vec<_> = pinned
        .affinity()?
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
                |b| b.socket_addr().to_string(),
            ),
            last_used_ns: value.last_used_ns,
        })
        .collect();
    entries.sort_by(|a, b| (&a.service, &a.client).cmp(&(&b.service, &b.client)));
    Ok(entries)
}

fn conntrack(pinned: &Pinned) -> anyhow::Result<Vec<Flow>> {
    let mut flows: Vec<_> = pinned
        .flows()?
        .into_iter()
        .map(|flow| Flow {
            protocol: flow.proto.name(),
            client: flow.client.to_string(),
            frontend: flow.frontend.to_string(),
            backend: flow.backend.to_string(),
            seen_as: flow.seen_as().map(|addr| addr.to_string()),
            last_seen_ns: flow.last_seen_ns(),
        })
        .collect();
    flows.sort_by(|a, b| (&a.frontend, &a.client).cmp(&(&b.frontend, &b.client)));
    Ok(flows)
}

fn sockets(pinned: &Pinned) -> anyhow::Result<Vec<Socket>> {
    let address = |addr: svclb_common::Addr16, port: svclb_common::PortBe| {
        std::net::SocketAddr::new(addr.to_ip(), port.get()).to_string()
    };
    let mut sockets: Vec<_> = pinned
        .sockets()?
        .into_iter()
        .map(|(cookie, t)| Socket {
            cookie,
            service: address(t.frontend_addr, t.frontend_port),
            backend: address(t.backend_addr, t.backend_port),
        })
        .collect();
    sockets.sort_by_key(|socket| socket.cookie);
    Ok(sockets)
}

fn node(pinned: &Pinned, maps: &Snapshot, features: Features) -> anyhow::Result<Node> {
    let entries = [
        maps.frontends.len(),
        maps.slots.len(),
        maps.sources.len(),
        maps.backends.len(),
        maps.services.len(),
        pinned.flow_entries()?,
    ];
    Ok(Node {
        programs: pinned.attached(),
        set_retval: features.set_retval,
        skc_to_mptcp_sock: features.skc_to_mptcp_sock,
        counters: pinned
            .counters()?
            .into_iter()
            .map(|(c, n)| (c.name(), n))
            .collect(),
        maps: pinned
            .capacities()
            .into_iter()
            .zip(entries)
            .map(|((name, capacity), entries)| (name, Fill { entries, capacity }))
            .collect(),
    })
}

impl Tabular for Report {
    fn tables(&self) -> Vec<(String, Table)> {
        let mut tables = Vec::new();
        if let Some(services) = &self.services {
            let mut table = render::table([
                "NAMESPACE",
                "SERVICE",
                "PORT",
                "PROTOCOL",
                "FRONTEND",
                "BACKENDS",
                "AFFINITY",
                "SOURCES",
            ]);
            for service in services {
                table.add_row([
                    service.namespace.clone(),
                    service.name.clone(),
                    or_dash(&service.port_name),
                    service.protocol.to_owned(),
                    service.frontends.join("\n"),
                    list_backends(&service.backends),
                    match service.affinity_seconds {
                        0 => "-".to_owned(),
                        seconds => format!("{seconds}s"),
                    },
                    or_dash(&service.source_ranges.join("\n")),
                ]);
            }
            tables.push(("SERVICES".to_owned(), table));
        }
        if let Some(backends) = &self.backends {
            let mut table = render::table(["ID", "BACKEND", "PROTOCOL", "SLOTS"]);
            for backend in backends {
                table.add_row([
                    backend.id.to_string(),
                    backend.address.clone(),
                    backend.protocol.to_owned(),
                    match backend.slots {
                        0 => "at rest".to_owned(),
                        slots => slots.to_string(),
                    },
                ]);
            }
            tables.push(("BACKENDS".to_owned(), table));
        }
        if let Some(flows) = &self.conntrack {
            let mut table = render::table([
                "PROTOCOL",
                "CLIENT",
                "FRONTEND",
                "BACKEND",
                "CLIENT SEEN AS",
            ]);
            for flow in flows {
                table.add_row([
                    flow.protocol.to_owned(),
                    flow.client.clone(),
                    flow.frontend.clone(),
                    flow.backend.clone(),
                    flow.seen_as.clone().unwrap_or_else(|| "itself".to_owned()),
                ]);
            }
            tables.push(("CONNTRACK (clients outside)".to_owned(), table));
        }
        if let Some(affinity) = &self.affinity {
            let mut table = render::table(["SERVICE", "CLIENT", "BACKEND"]);
            for entry in affinity {
                table.add_row([&entry.service, &entry.client, &entry.backend]);
            }
            tables.push(("AFFINITY".to_owned(), table));
        }
        if let Some(sockets) = &self.sockets {
            let mut table = render::table(["COOKIE", "SERVICE", "BACKEND"]);
            for socket in sockets {
                table.add_row([&socket.cookie.to_string(), &socket.service, &socket.backend]);
            }
            tables.push(("TCP SOCKETS".to_owned(), table));
        }
        if let Some(node) = &self.node {
            let mut table = render::table(["COUNTER", "VALUE"]);
            for (name, value) in &node.counters {
                table.add_row([(*name).to_owned(), value.to_string()]);
            }
            tables.push(("COUNTERS".to_owned(), table));
            let mut table = render::table(["MAP", "ENTRIES", "CAPACITY"]);
            for (name, fill) in &node.maps {
                table.add_row([
                    (*name).to_owned(),
                    fill.entries.to_string(),
                    fill.capacity.to_string(),
                ]);
            }
            tables.push(("MAPS".to_owned(), table));
        }
        tables
    }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text.to_owned()
    }
}

/// The first few, and how many more.
fn list_backends(backends: &[SlotBackend]) -> String {
    const SHOWN: usize = 4;
    if backends.is_empty() {
        return "none: refused".to_owned();
    }
    let mut lines: Vec<_> = backends
        .iter()
        .take(SHOWN)
        .map(|b| b.address.clone())
        .collect();
    if backends.len() > SHOWN {
        lines.push(format!("and {} more", backends.len() - SHOWN));
    }
    lines.join("\n")
}
