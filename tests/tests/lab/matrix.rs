//! The matrix: every kind of client and socket, every traffic policy, endpoints in every
//! place and condition. What each row should be, [`oracle`] says.
//!
//! Rows name no location as near or far: each Service is asked by clients of both nodes,
//! to one of which its endpoints are near.

mod cases;
mod objects;
mod oracle;
pub(crate) mod outward;
mod rows;

use std::net::{IpAddr, SocketAddr};
use std::thread;

use serde_json::Value;
use svclb_tests::manifests::Manifests;
use svclb_tests::{Agent, AgentOptions, Lab, Node, Peer, Pod, Transport};

use super::scene::{TARGET, Turn, agent_refuses_by_errno, turn, v4, v6, web};
use cases::{NODE1, NODE2};
use oracle::{Endpoint, Place, Policy, Verdict, verdict};
use rows::{Row, SOCKETS, meet};

#[test]
fn policies_and_conditions_choose_in_every_row_of_the_matrix_as_the_oracle_says() {
    check(&cases::conditions());
}

#[test]
fn topology_hints_choose_in_every_row_of_the_matrix_as_the_oracle_says() {
    check(&cases::hints());
}

/// Two nodes, each with two backends, a client and an agent. Fields go in this order: the
/// agents first, the turn last.
struct Matrix {
    agents: [Agent; 2],
    backends: Vec<Pod>,
    clients: [Pod; 2],
    nodes: [Node; 2],
    services: Vec<Asked>,
    _lab: Lab,
    _turn: Turn,
}

/// A Service of the matrix.
struct Asked {
    policy: Policy,
    endpoints: Vec<Endpoint>,
    at: [IpAddr; 2],
}

impl Matrix {
    /// Each case is a Service under either policy, and all are there from the beginning.
    fn new(cases: &[Vec<Endpoint>]) -> Self {
        let turn = turn();
        let lab = Lab::new("matrix").unwrap();
        let nodes = [NODE1, NODE2].map(|place| lab.node(place.node).unwrap());
        let backends: Vec<Pod> = [("a1", 0), ("b1", 0), ("a2", 1), ("b2", 1)]
            .map(|(name, node)| nodes[node].pod(name).unwrap())
            .into();
        for backend in &backends {
            backend.serve(Transport::Tcp, TARGET).unwrap();
            backend.serve(Transport::Udp, TARGET).unwrap();
        }
        let clients = [&nodes[0], &nodes[1]].map(|node| node.pod("client").unwrap());
        let services: Vec<Asked> = [Policy::Cluster, Policy::Local]
            .into_iter()
            .flat_map(|policy| cases.iter().map(move |endpoints| (policy, endpoints)))
            .zip(1..)
            .map(|((policy, endpoints), number)| Asked {
                policy,
                endpoints: endpoints.clone(),
                at: [v4(number), v6(number.into())],
            })
            .collect();
        let mut objects: Vec<Value> = [NODE1, NODE2].map(objects::node).into();
        objects.extend(services.iter().flat_map(|asked| asked.objects(&backends)));
        let manifests = Manifests::new(lab.dir().join("manifests")).unwrap();
        manifests.put("matrix.yaml", &objects).unwrap();
        let agents = [&nodes[0], &nodes[1]]
            .map(|node| Agent::start(node, manifests.dir(), AgentOptions::default()).unwrap());
        Self {
            agents,
            backends,
            clients,
            nodes,
            services,
            _lab: lab,
            _turn: turn,
        }
    }

    /// All rows of a client.
    fn rows(&self, name: &'static str, peer: &Peer, place: Place) -> Vec<Row> {
        let by_errno = self.agents.iter().all(agent_refuses_by_errno);
        let mut rows = Vec::new();
        for Asked {
            policy,
            endpoints,
            at,
        } in &self.services
        {
            for (socket, v6, kind) in SOCKETS {
                let to = web(at[usize::from(v6)]);
                let expected = verdict(endpoints, *policy, place, by_errno || kind.connected);
                let got = meet(peer, kind, to, &expected, self.known(to));
                rows.push(Row {
                    client: name.to_owned(),
                    frontend: to.to_string(),
                    policy: format!("{policy:?}"),
                    endpoints: described(endpoints),
                    socket,
                    expected,
                    got,
                });
            }
        }
        rows
    }

    /// A backend's own address, where one answers that no Service stands before.
    fn known(&self, like: SocketAddr) -> SocketAddr {
        (self.backends[0].ip_like(like.ip()), TARGET).into()
    }
}

/// Asks for every row, and shows all that are wrong.
fn check(cases: &[Vec<Endpoint>]) {
    let matrix = Matrix::new(cases);
    let clients: [(&str, &Peer, Place); 4] = [
        ("pod on node1", &matrix.clients[0], NODE1),
        ("pod on node2", &matrix.clients[1], NODE2),
        ("host of node1", &matrix.nodes[0], NODE1),
        ("host of node2", &matrix.nodes[1], NODE2),
    ];
    let matrix = &matrix;
    let rows: Vec<Row> = thread::scope(|scope| {
        clients
            .map(|(name, peer, place)| scope.spawn(move || matrix.rows(name, peer, place)))
            .into_iter()
            .flat_map(|client| client.join().unwrap())
            .collect()
    });
    judge(&rows);
}

/// Fails with all rows that are wrong.
fn judge(rows: &[Row]) {
    let wrong: Vec<String> = rows
        .iter()
        .filter(|row| !row.is_right())
        .map(Row::to_string)
        .collect();
    let answered = rows
        .iter()
        .filter(|row| matches!(row.expected, Verdict::Answers(_)))
        .count();
    println!("matrix: {} rows, {answered} of them answered", rows.len());
    assert!(
        wrong.is_empty(),
        "{} of {} rows are wrong:\n{}\n{}",
        wrong.len(),
        rows.len(),
        Row::HEAD,
        wrong.join("\n")
    );
}

fn described(endpoints: &[Endpoint]) -> String {
    if endpoints.is_empty() {
        return "none".to_owned();
    }
    let endpoints: Vec<String> = endpoints.iter().map(Endpoint::to_string).collect();
    endpoints.join(" ")
}
