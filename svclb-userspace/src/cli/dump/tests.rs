//! Every part of a dump in every form. The JSON is a contract: a snapshot of it may get fields, and
//! loses or renames none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use svclb_common::{
    AffinityKey, AffinityValue, BackendId, BackendValue, FrontendFlags, FrontendKey, FrontendValue,
    Generation, Label, Locality, PortBe, Proto, Scope, ServiceFamily, ServiceId, ServiceRecord,
    SlotIndex, SlotKey, SlotRange, SlotValue, SourceKey, SourceRange, Translation,
};
use svclb_core::apply::Snapshot;

use crate::cli::args::Output;
use crate::cli::render::render;
use crate::cli::report::{
    Fill, Flow, Node, Report, Service, affinity, backends, services, sockets,
};

const ALL: SlotRange = SlotRange { first: 0, count: 3 };
const LOCAL: SlotRange = SlotRange { first: 0, count: 1 };

/// An address and port.
fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn record(
    namespace: &str,
    name: &str,
    port: &str,
    proto: Proto,
    family: ServiceFamily,
) -> ServiceRecord {
    ServiceRecord {
        namespace: Label::new(namespace).unwrap(),
        name: Label::new(name).unwrap(),
        port_name: Label::new(port).unwrap(),
        proto,
        family,
        reserved: [0; 2],
    }
}

/// Maps with the Services that a test puts there.
#[derive(Default)]
struct Maps(Snapshot);

impl Maps {
    fn service(&mut self, id: u32, record: ServiceRecord) -> &mut Self {
        self.0.services.insert(ServiceId::new(id), record);
        self
    }

    fn backend(&mut self, id: u32, address: &str, proto: Proto, locality: Locality) -> &mut Self {
        let address = at(address);
        let value = BackendValue::new(address.ip().into(), PortBe::new(address.port()), proto);
        self.0
            .backends
            .insert(BackendId::new(id), value.at(locality));
        self
    }

    /// Backends, by id, in the slots of a generation, with their member rows.
    fn slots(&mut self, service: u32, generation: u32, ids: &[u32]) -> &mut Self {
        for (position, id) in (0..).zip(ids) {
            let backend = self.0.backends[&BackendId::new(*id)];
            let value = SlotValue {
                addr: backend.addr,
                backend: BackendId::new(*id),
                position,
                port: backend.port,
                locality: backend.locality,
                reserved: 0,
            };
            for index in [
                SlotIndex::position(position),
                SlotIndex::member(value.backend),
            ] {
                let key = SlotKey {
                    service: ServiceId::new(service),
                    generation: Generation::new(generation),
                    index,
                };
                self.0.slots.push((key, value));
            }
        }
        self
    }

    fn frontend(&mut self, address: &str, proto: Proto, value: FrontendValue) -> &mut Self {
        let address = at(address);
        let key = FrontendKey::of_socket(address.ip().into(), PortBe::new(address.port()), proto);
        self.0.frontends.insert(key, value);
        if value.flags.contains(FrontendFlags::CLUSTER_IP) {
            let other_ports = FrontendKey::other_ports(address.ip().into(), Scope::ANY);
            let nowhere = FrontendValue {
                service: value.service,
                flags: FrontendFlags::CLUSTER_IP,
                ..FrontendValue::default()
            };
            self.0.frontends.insert(other_ports, nowhere);
        }
        self
    }
}

fn value(service: u32, generation: u32, flags: FrontendFlags) -> FrontendValue {
    FrontendValue {
        service: ServiceId::new(service),
        generation: Generation::new(generation),
        internal: ALL,
        external: ALL,
        flags,
        ..FrontendValue::default()
    }
}

/// A load balancer with the external policy Local, at whose cluster IP every backend is used.
fn local_load_balancer(maps: &mut Maps) {
    let outside = |flags| FrontendValue {
        external: LOCAL,
        ..value(1, 3, flags)
    };
    maps.service(
        1,
        record("shop", "web", "http", Proto::TCP, ServiceFamily::V4),
    )
    .backend(1, "10.244.1.5:8080", Proto::TCP, Locality::LOCAL)
    .backend(2, "10.244.2.7:8080", Proto::TCP, Locality::REMOTE)
    .backend(3, "10.244.3.9:8080", Proto::TCP, Locality::REMOTE)
    .slots(1, 3, &[1, 2, 3])
    .frontend(
        "10.96.0.10:80",
        Proto::TCP,
        value(1, 3, FrontendFlags::CLUSTER_IP),
    )
    .frontend(
        "192.0.2.1:30080",
        Proto::TCP,
        outside(FrontendFlags::NODE_PORT),
    )
    .frontend(
        "127.0.0.1:30080",
        Proto::TCP,
        outside(FrontendFlags::NODE_PORT),
    )
    .frontend(
        "198.51.100.10:80",
        Proto::TCP,
        outside(FrontendFlags::SOURCE_RANGES),
    );
    let range = SourceRange {
        addr: at("203.0.113.0:0").ip().into(),
        bits: 96 + 24,
    };
    maps.0
        .sources
        .insert(SourceKey::new(ServiceId::new(1), Generation::new(3), range));
}

fn maps() -> Maps {
    let mut maps = Maps::default();
    local_load_balancer(&mut maps);
    // Session affinity, and more backends than a table shows.
    maps.service(
        2,
        record("kube-system", "dns", "", Proto::UDP, ServiceFamily::V4),
    );
    for (id, address) in (11..).zip(["10.244.1.20:53", "10.244.2.20:53", "10.244.3.20:53"]) {
        maps.backend(id, address, Proto::UDP, Locality::REMOTE);
    }
    maps.backend(14, "10.244.4.20:53", Proto::UDP, Locality::REMOTE)
        .backend(15, "10.244.5.20:53", Proto::UDP, Locality::REMOTE)
        .slots(2, 1, &[11, 12, 13, 14, 15])
        .frontend(
            "10.96.0.53:53",
            Proto::UDP,
            FrontendValue {
                internal: SlotRange { first: 0, count: 5 },
                external: SlotRange { first: 0, count: 5 },
                affinity_seconds: 10_800,
                ..value(
                    2,
                    1,
                    FrontendFlags::CLUSTER_IP.union(FrontendFlags::MEMBERS),
                )
            },
        );
    // No endpoints.
    maps.service(
        3,
        record("default", "idle", "", Proto::TCP, ServiceFamily::V6),
    )
    .frontend(
        "[fd00:10:96::7]:443",
        Proto::TCP,
        FrontendValue {
            internal: SlotRange::default(),
            external: SlotRange::default(),
            ..value(3, 0, FrontendFlags::CLUSTER_IP)
        },
    );
    // Its id is in quarantine.
    maps.backend(99, "[fd00:244::9]:8080", Proto::TCP, Locality::REMOTE);
    maps
}

fn clients(maps: &Snapshot) -> Vec<crate::cli::report::Affinity> {
    let entry = |key, backend, last_used_ns| {
        let value = AffinityValue {
            last_used_ns,
            backend: BackendId::new(backend),
            reserved: 0,
        };
        (key, value)
    };
    let dns = ServiceId::new(2);
    let entries = vec![
        entry(AffinityKey::netns(dns, 0x1_0000_0002), 11, 5_000_000_000),
        entry(
            AffinityKey::address(dns, at("198.51.100.77:0").ip().into()),
            12,
            6_000_000_000,
        ),
        // Of a Service and a backend that are gone.
        entry(AffinityKey::netns(ServiceId::new(77), 3), 78, 0),
    ];
    affinity(entries, maps)
}

fn connected() -> Vec<crate::cli::report::Socket> {
    let socket = |cookie, frontend: &str, backend: &str| {
        let (frontend, backend) = (at(frontend), at(backend));
        let translation = Translation {
            frontend_addr: frontend.ip().into(),
            frontend_port: PortBe::new(frontend.port()),
            backend_addr: backend.ip().into(),
            backend_port: PortBe::new(backend.port()),
            ..Translation::default()
        };
        (cookie, translation)
    };
    sockets(vec![
        socket(4711, "[fd00:10:96::10]:80", "[fd00:244::5]:8080"),
        socket(42, "10.96.0.10:80", "10.244.1.5:8080"),
    ])
}

fn flows() -> Vec<Flow> {
    let flow = |protocol, client: &str, backend: &str, seen_as: Option<&str>| Flow {
        protocol,
        client: client.to_owned(),
        frontend: "192.0.2.1:30080".to_owned(),
        backend: backend.to_owned(),
        seen_as: seen_as.map(str::to_owned),
        last_seen_ns: 7_000_000_000,
    };
    vec![
        flow("TCP", "198.51.100.77:40000", "10.244.1.5:8080", None),
        flow(
            "UDP",
            "198.51.100.78:40001",
            "10.244.2.7:8080",
            Some("192.0.2.1:50000"),
        ),
    ]
}

fn node() -> Node {
    let fill = |entries, capacity| Fill { entries, capacity };
    Node {
        programs: vec!["svclb_connect4", "svclb_connect6"],
        set_retval: true,
        skc_to_mptcp_sock: false,
        counters: BTreeMap::from([("translated", 12), ("refused", 3)]),
        maps: BTreeMap::from([("FRONTENDS", fill(7, 65_536)), ("FLOWS", fill(4, 262_144))]),
    }
}

/// Each part alone, as `svclb dump PART` shows it, and all of them.
fn reports() -> Vec<(&'static str, Report)> {
    let maps = maps().0;
    let part = |fill: &dyn Fn(&mut Report)| {
        let mut report = Report::default();
        fill(&mut report);
        report
    };
    vec![
        ("services", part(&|r| r.services = Some(services(&maps)))),
        ("backends", part(&|r| r.backends = Some(backends(&maps)))),
        ("conntrack", part(&|r| r.conntrack = Some(flows()))),
        ("affinity", part(&|r| r.affinity = Some(clients(&maps)))),
        ("sockets", part(&|r| r.sockets = Some(connected()))),
        (
            "all",
            Report {
                services: Some(services(&maps)),
                backends: Some(backends(&maps)),
                conntrack: Some(flows()),
                affinity: Some(clients(&maps)),
                sockets: Some(connected()),
                node: Some(node()),
            },
        ),
        (
            "nothing",
            Report {
                services: Some(Vec::new()),
                backends: Some(Vec::new()),
                conntrack: Some(Vec::new()),
                affinity: Some(Vec::new()),
                sockets: Some(Vec::new()),
                node: None,
            },
        ),
    ]
}

#[test]
fn every_part_in_every_form() {
    for (name, report) in reports() {
        for (form, output) in [
            ("table", Output::Table),
            ("json", Output::Json),
            ("yaml", Output::Yaml),
        ] {
            let text = render(&report, output).unwrap();
            // Blanks at the ends of lines are padding.
            let lines: Vec<_> = text.lines().map(str::trim_end).collect();
            insta::with_settings!({ omit_expression => true }, {
                insta::assert_snapshot!(format!("{name}.{form}"), lines.join("\n"));
            });
        }
    }
}

/// The addresses of the backends of which something holds.
fn addresses(
    service: &Service,
    holds: impl Fn(&crate::cli::report::SlotBackend) -> bool,
) -> BTreeSet<&str> {
    let backends = service.backends.iter().filter(|backend| holds(backend));
    backends.map(|backend| backend.address.as_str()).collect()
}

#[test]
fn with_the_external_policy_local_a_backend_elsewhere_is_not_for_clients_outside() {
    let mut maps = Maps::default();
    local_load_balancer(&mut maps);
    let services = services(&maps.0);
    let web = &services[0];
    assert_eq!(addresses(web, |backend| backend.internal).len(), 3);
    let outside = addresses(web, |backend| backend.external);
    assert_eq!(outside, BTreeSet::from(["10.244.1.5:8080"]));
}

#[test]
fn a_frontend_names_the_backends_of_its_own_generation() {
    let mut maps = Maps::default();
    local_load_balancer(&mut maps);
    // The node port is written first, and the cluster IP is still at the generation before.
    let node_port = at("192.0.2.1:30080");
    let key = FrontendKey::of_socket(node_port.ip().into(), PortBe::new(30_080), Proto::TCP);
    let range = SlotRange { first: 0, count: 1 };
    let moved = FrontendValue {
        internal: range,
        external: range,
        ..value(1, 4, FrontendFlags::NODE_PORT)
    };
    maps.backend(4, "10.244.1.6:8080", Proto::TCP, Locality::LOCAL)
        .slots(1, 4, &[4]);
    maps.0.frontends.insert(key, moved);
    let services = services(&maps.0);
    let web = &services[0];
    let choices: BTreeMap<_, _> = web
        .by_frontend
        .iter()
        .map(|frontend| {
            (
                frontend.address.as_str(),
                (&*frontend.internal, &*frontend.external),
            )
        })
        .collect();
    assert_eq!(choices["10.96.0.10:80"], (&[1, 2, 3][..], &[1, 2, 3][..]));
    assert_eq!(choices["192.0.2.1:30080"], (&[4][..], &[4][..]));
    assert_eq!(choices["198.51.100.10:80"], (&[1, 2, 3][..], &[1][..]));
    let outside = addresses(web, |backend| backend.external);
    assert_eq!(
        outside,
        BTreeSet::from(["10.244.1.5:8080", "10.244.1.6:8080"])
    );
}
