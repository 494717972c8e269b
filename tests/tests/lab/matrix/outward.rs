//! The addresses for clients outside: every kind of them, under every external policy, for
//! clients outside and inside, by tc and by XDP.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;

use serde_json::Value;
use svclb_tests::manifests::{Manifests, Service};
use svclb_tests::{
    Agent, AgentOptions, KERNEL, Kind, Lab, Node, Outside, Peer, Pod, PodNetwork, Transport, Way,
};

use super::cases::{self, NODE1, NODE2};
use super::objects;
use super::oracle::{Endpoint, Place, Policy, Verdict, outward_verdict};
use super::rows::{Row, SOCKETS, meet};
use super::{described, judge};
use crate::lab::outside::{Site, ways};
use crate::lab::scene::{TARGET, Turn, agent_refuses_by_errno, alone, kernel, v4, v6, web};

const PLACES: [Place; 2] = [NODE1, NODE2];

#[test]
fn addresses_for_clients_outside_lead_in_every_row_where_the_oracle_says() {
    leads_where_the_oracle_says(PodNetwork::Vxlan.into(), ways());
}

/// The same on another network.
pub(crate) fn leads_where_the_oracle_says(site: Site, ways: &[Way]) {
    for way in ways {
        let world = World::new(site, way, &cases::places());
        let world = &world;
        let before = martians();
        let rows: Vec<Row> = thread::scope(|scope| {
            let clients = world.clients(*way == KERNEL);
            let asking: Vec<_> = clients
                .into_iter()
                .map(|client| scope.spawn(move || world.rows(&client)))
                .collect();
            asking
                .into_iter()
                .flat_map(|client| client.join().unwrap())
                .collect()
        });
        if rows.iter().any(|row| !row.is_right()) {
            // Which packets were dropped, and why, if it was by a program.
            for agent in &world.agents {
                println!("{}", agent.dump("all").unwrap()["node"]["counters"]);
            }
        }
        judge(&rows);
        // On a segment of all nodes' pods there are some, though all rows are right.
        if site.0 != PodNetwork::Lan {
            assert_eq!(martians(), before, "packets came from where they could not");
        }
    }
}

/// How many packets the kernel has dropped since they could not come from where they came from, in
/// all network namespaces.
fn martians() -> u64 {
    let text = fs::read_to_string("/proc/net/stat/rt_cache").unwrap();
    let mut lines = text.lines();
    let names: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    let column = names.iter().position(|name| *name == "in_martian_src");
    let of_cpu = |line: &str| {
        let value = line.split_whitespace().nth(column.unwrap());
        u64::from_str_radix(value.unwrap(), 16).unwrap()
    };
    lines.map(of_cpu).sum()
}

/// Two nodes with two backends each, and a client outside. Fields go in this order: the agents
/// first, the turn last.
struct World {
    agents: Vec<Agent>,
    backends: Vec<Pod>,
    pods: Vec<Pod>,
    nodes: Vec<Node>,
    client: Pod,
    services: Vec<Asked>,
    _outside: Outside,
    _lab: Lab,
    _turn: Turn,
}

/// A Service of the matrix.
struct Asked {
    policy: Policy,
    endpoints: Vec<Endpoint>,
    number: u8,
}

impl Asked {
    const fn node_port(&self) -> u16 {
        30_080 + self.number as u16
    }

    /// Addresses that the network outside leads to the first node.
    fn balanced(&self) -> [IpAddr; 2] {
        self.of([203, 0, 113], 0x113)
    }

    /// Those that it leads to the second.
    fn external(&self) -> [IpAddr; 2] {
        self.of([203, 0, 114], 0x114)
    }

    fn of(&self, [a, b, c]: [u8; 3], group: u16) -> [IpAddr; 2] {
        let v6 = Ipv6Addr::new(0xfd00, 0x203, 0, group, 0, 0, 0, self.number.into());
        [Ipv4Addr::new(a, b, c, self.number).into(), v6.into()]
    }

    fn objects(&self, backends: &[Pod]) -> Vec<Value> {
        let mut service = Service::new(&format!("number-{}", self.number))
            .at(v4(self.number))
            .at(v6(self.number.into()))
            .tcp(80, TARGET)
            .udp(80, TARGET)
            .node_ports(self.node_port() - 80);
        for (balanced, external) in self.balanced().into_iter().zip(self.external()) {
            service = service.balanced_at(balanced).external_ip(external);
        }
        if self.policy == Policy::Local {
            service = service.external_local();
        }
        let mut objects = vec![service.object()];
        for like in self.balanced() {
            objects.extend(objects::slice(&service, &self.endpoints, backends, like));
        }
        objects
    }
}

/// Who asks, and where its own node is, if it has one.
struct Client<'a> {
    name: String,
    peer: &'a Peer,
    node: Option<usize>,
    is_host: bool,
}

/// An address that a client asks at.
struct At {
    name: &'static str,
    ips: [IpAddr; 2],
    port: u16,
    /// The node that serves the client there.
    place: Place,
    /// Whether that is at the client's own socket.
    is_at_socket: bool,
}

impl World {
    fn new(Site(network, options): Site, way: Way, cases: &[Vec<Endpoint>]) -> Self {
        // It reads a counter of the machine.
        let turn = alone();
        let lab = Lab::new("outward").unwrap();
        let outside = lab.outside(network).unwrap();
        let nodes: Vec<Node> = PLACES
            .iter()
            .map(|place| lab.node_at(&outside, place.node, options).unwrap())
            .collect();
        let backends: Vec<Pod> = [("a1", 0), ("b1", 0), ("a2", 1), ("b2", 1)]
            .map(|(name, node)| nodes[node].pod(name).unwrap())
            .into();
        for backend in &backends {
            backend.serve(Transport::Tcp, TARGET).unwrap();
            backend.serve(Transport::Udp, TARGET).unwrap();
        }
        let pods = nodes
            .iter()
            .map(|node| node.pod("client").unwrap())
            .collect();
        let client = outside.client("outside").unwrap();
        let policies = [Policy::Cluster, Policy::Local].into_iter();
        let services: Vec<Asked> = policies
            .flat_map(|policy| {
                cases
                    .iter()
                    .map(move |endpoints| (policy, endpoints.clone()))
            })
            .zip(1..)
            .map(|((policy, endpoints), number)| Asked {
                policy,
                endpoints,
                number,
            })
            .collect();
        for service in &services {
            for (ips, node) in [(service.balanced(), 0), (service.external(), 1)] {
                for ip in ips {
                    outside.route(ip, &nodes[node]).unwrap();
                }
            }
        }
        let all: Vec<Value> = services
            .iter()
            .flat_map(|one| one.objects(&backends))
            .collect();
        let manifests = Manifests::new(lab.dir().join("manifests")).unwrap();
        manifests.put("matrix.yaml", &all).unwrap();
        let agents = nodes.iter().map(|node| {
            let options = AgentOptions {
                args: way.iter().map(|arg| (*arg).to_owned()).collect(),
                ..AgentOptions::default()
            };
            Agent::start(node, manifests.dir(), options).unwrap()
        });
        Self {
            agents: agents.collect(),
            backends,
            pods,
            nodes,
            client,
            services,
            _outside: outside,
            _lab: lab,
            _turn: turn,
        }
    }

    /// Those inside too, unless nothing of theirs is different.
    fn clients(&self, with_those_inside: bool) -> Vec<Client<'_>> {
        let mut clients = vec![Client {
            name: "outside".to_owned(),
            peer: &self.client,
            node: None,
            is_host: false,
        }];
        if with_those_inside {
            for (number, place) in PLACES.iter().enumerate() {
                clients.push(Client {
                    name: format!("pod on {}", place.node),
                    peer: &self.pods[number],
                    node: Some(number),
                    is_host: false,
                });
                clients.push(Client {
                    name: format!("host of {}", place.node),
                    peer: &self.nodes[number],
                    node: Some(number),
                    is_host: true,
                });
            }
        }
        clients
    }

    /// Where a client asks for a Service.
    fn addresses(&self, client: &Client<'_>, asked: &Asked) -> Vec<At> {
        let own = client.node;
        let served_by = |number: usize| PLACES[own.unwrap_or(number)];
        let mut all: Vec<At> = [("node port of node1", 0), ("node port of node2", 1)]
            .map(|(name, number)| At {
                name,
                ips: [
                    self.nodes[number].v4().into(),
                    self.nodes[number].v6().into(),
                ],
                port: asked.node_port(),
                place: PLACES[number],
                is_at_socket: own == Some(number),
            })
            .into();
        for (name, ips, number) in [
            ("load balancer", asked.balanced(), 0),
            ("external IP", asked.external(), 1),
        ] {
            all.push(At {
                name,
                ips,
                port: 80,
                place: served_by(number),
                is_at_socket: own.is_some(),
            });
        }
        // Before Linux 5.14 a node that is not in the first namespace has none.
        if let Some(number) = own.filter(|_| client.is_host && kernel() >= (5, 14)) {
            all.push(At {
                name: "loopback",
                ips: [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
                port: asked.node_port(),
                place: PLACES[number],
                is_at_socket: true,
            });
        }
        all
    }

    /// All rows of a client.
    fn rows(&self, client: &Client<'_>) -> Vec<Row> {
        let by_errno = self.agents.iter().all(agent_refuses_by_errno);
        let mut rows = Vec::new();
        for asked in &self.services {
            for at in self.addresses(client, asked) {
                for (socket, v6, kind) in SOCKETS {
                    let to: SocketAddr = (at.ips[usize::from(v6)], at.port).into();
                    let sees_refusals = kind.connected || at.is_at_socket && by_errno;
                    let expected = outward_verdict(
                        &asked.endpoints,
                        asked.policy,
                        at.place,
                        at.is_at_socket,
                        sees_refusals,
                    );
                    if expected == Verdict::NoAnswer && takes_long(socket, v6, kind) {
                        continue;
                    }
                    let got = meet(client.peer, kind, to, &expected, self.known(client, v6));
                    rows.push(Row {
                        client: client.name.clone(),
                        frontend: format!("{} {to}", at.name),
                        policy: format!("{:?}", asked.policy),
                        endpoints: described(&asked.endpoints),
                        socket,
                        expected,
                        got,
                    });
                }
            }
        }
        rows
    }

    /// An address that answers the client, whatever is asked there.
    fn known(&self, client: &Client<'_>, v6: bool) -> SocketAddr {
        if client.node.is_none() {
            let everywhere = self
                .services
                .iter()
                .find(|asked| asked.endpoints.len() == 4);
            return web(everywhere.unwrap().balanced()[usize::from(v6)]);
        }
        let like = self.services[0].balanced()[usize::from(v6)];
        (self.backends[0].ip_like(like), TARGET).into()
    }
}

/// Whether it takes seconds to see that nothing comes: then one kind of socket stands for all.
fn takes_long(socket: &str, v6: bool, kind: Kind) -> bool {
    kind.connected && (socket != "tcp" || v6)
}
