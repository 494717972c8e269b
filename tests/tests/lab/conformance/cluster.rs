//! Several nodes that reach each other, an agent on each, and one folder of manifests as
//! their API server.

use std::net::{IpAddr, SocketAddr};
use std::ops::Index;

use serde_json::Value;
use svclb_tests::manifests::{Endpoint, Manifests, Service};
use svclb_tests::{Agent, AgentOptions, Kind, Lab, Node, Peer, Pod, Transport};

use super::super::scene::{TARGET, Turn, turn, v4, v6, web, web_service};
use super::ask::{KINDS, answered_by};

const BACKENDS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Fields go in this order: the agents first, the turn last.
pub(super) struct Cluster {
    members: Vec<Member>,
    pub(super) manifests: Manifests,
    _lab: Lab,
    _turn: Turn,
}

/// A node: `node1` has the backend `a`, `node2` has `b`, and so on.
pub(super) struct Member {
    _agent: Agent,
    pub(super) backend: Pod,
    pub(super) client: Pod,
    pub(super) node: Node,
}

impl Cluster {
    pub(super) fn new(count: usize) -> Self {
        let turn = turn();
        let lab = Lab::new("cluster").unwrap();
        let nodes: Vec<Node> = (1..=count)
            .map(|number| lab.node(&format!("node{number}")).unwrap())
            .collect();
        let manifests = Manifests::new(lab.dir().join("manifests")).unwrap();
        // It is refused before it is served: no pod waits for an address that is unreachable yet.
        let empty = [web_service().object()];
        manifests.put("cluster.yaml", &empty).unwrap();
        let members = nodes
            .into_iter()
            .zip(BACKENDS)
            .map(|(node, name)| {
                let backend = node.pod(name).unwrap();
                backend.serve(Transport::Tcp, TARGET).unwrap();
                backend.serve(Transport::Udp, TARGET).unwrap();
                let client = node.pod("client").unwrap();
                let options = AgentOptions::default();
                Member {
                    _agent: Agent::start(&node, manifests.dir(), options).unwrap(),
                    backend,
                    client,
                    node,
                }
            })
            .collect();
        Self {
            members,
            manifests,
            _lab: lab,
            _turn: turn,
        }
    }

    pub(super) fn put(&self, objects: &[Value]) {
        self.manifests.put("cluster.yaml", objects).unwrap();
    }
}

impl Index<usize> for Cluster {
    type Output = Member;
    fn index(&self, number: usize) -> &Member {
        &self.members[number]
    }
}

impl Member {
    /// Its backend as an endpoint of the IPv4 slice.
    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint::new(self.backend.v4()).on(self.node.name())
    }

    /// Its host as an endpoint: what a pod with `hostNetwork` is.
    pub(super) fn host_endpoint(&self) -> Endpoint {
        Endpoint::new(self.node.v4()).on(self.node.name())
    }

    /// The client in its pod network, and the one in its host's.
    pub(super) fn clients(&self) -> [&Peer; 2] {
        [&self.client, &self.node]
    }

    /// Waits until exactly these answer a client here, in both kinds of network.
    pub(super) fn is_given(&self, to: SocketAddr, backends: &[&str]) {
        for client in self.clients() {
            for kind in KINDS {
                answered_by(client, kind, to, backends);
            }
        }
    }

    /// The source address that a backend sees of the client pod.
    pub(super) fn seen(&self, kind: Kind, to: SocketAddr) -> IpAddr {
        self.client.ask(kind, to).unwrap().client.ip()
    }
}

/// `web` without a second family: what traffic policies are tried on.
pub(super) fn one_family() -> Service {
    Service::new("web")
        .at(v4(10))
        .tcp(80, TARGET)
        .udp(80, TARGET)
}

/// The Service, changed in one field of its spec, and its slice.
pub(super) fn with_spec(field: &str, value: &str, endpoints: &[Endpoint]) -> [Value; 2] {
    let service = one_family();
    let mut object = service.object();
    object["spec"][field] = value.into();
    [object, service.slice_of(endpoints)]
}

/// The address of `web` in both families.
pub(super) fn both() -> [SocketAddr; 2] {
    [web(v4(10)), web(v6(0x10))]
}
