//! Nodes with an uplink each, a client outside of them, and `web` at every kind of address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use serde_json::Value;
use svclb_tests::manifests::{Endpoint, Manifests, Service};
use svclb_tests::{
    Agent, AgentOptions, Failure, Kind, Lab, Node, Outside, Peer, Pod, PodNetwork, SOON, Transport,
    UplinkOptions, wait_until,
};

use super::super::scene::{TARGET, Turn, turn, web, web_service};
use super::ask::{KINDS, all_answer};

/// The node port of port 80.
pub(super) const NODE_PORT: u16 = 30_080;
/// The load balancer's addresses.
pub(super) const BALANCED: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x203, 0, 0x113, 0, 0, 0, 0x10)),
];
/// Each backend, and the number of its node.
const BACKENDS: [(&str, usize); 3] = [("a", 0), ("b", 1), ("c", 0)];

/// Fields go in this order: the agents first, the turn last.
pub(super) struct Front {
    _agents: Vec<Agent>,
    manifests: Manifests,
    backends: Vec<Pod>,
    /// A client pod on each node.
    pub(super) pods: Vec<Pod>,
    pub(super) nodes: Vec<Node>,
    /// Behind the router.
    pub(super) client: Pod,
    pub(super) outside: Outside,
    _lab: Lab,
    _turn: Turn,
}

impl Front {
    /// Two nodes and a Service with these backends.
    pub(super) fn new(service: &Service, names: &[&str]) -> Self {
        Self::of(2, |front| front.put(service, names))
    }

    /// So many nodes, and what is put into the folder before the agents start.
    pub(super) fn of(count: usize, prepare: impl FnOnce(&Self)) -> Self {
        Self::over(PodNetwork::Vxlan, count, prepare)
    }

    /// The same with pods that are connected in another way.
    pub(super) fn over(network: PodNetwork, count: usize, prepare: impl FnOnce(&Self)) -> Self {
        let turn = turn();
        let lab = Lab::new("front").unwrap();
        let outside = lab.outside(network).unwrap();
        let options = UplinkOptions {
            masquerade: true,
            ..UplinkOptions::default()
        };
        let nodes: Vec<Node> = (1..=count)
            .map(|number| {
                lab.node_at(&outside, &format!("node{number}"), options)
                    .unwrap()
            })
            .collect();
        let backends = BACKENDS.map(|(name, node)| nodes[node].pod(name).unwrap());
        for backend in &backends {
            backend.serve(Transport::Tcp, TARGET).unwrap();
            backend.serve(Transport::Udp, TARGET).unwrap();
        }
        let mut front = Self {
            _agents: Vec::new(),
            manifests: Manifests::new(lab.dir().join("manifests")).unwrap(),
            backends: backends.into(),
            pods: nodes
                .iter()
                .map(|node| node.pod("client").unwrap())
                .collect(),
            nodes,
            client: outside.client("outside").unwrap(),
            outside,
            _lab: lab,
            _turn: turn,
        };
        front.balance_to(0);
        prepare(&front);
        front._agents = front
            .nodes
            .iter()
            .map(|node| Agent::start(node, front.manifests.dir(), AgentOptions::default()).unwrap())
            .collect();
        front
    }

    /// Makes the load balancer choose a node.
    pub(super) fn balance_to(&self, node: usize) {
        for ip in BALANCED {
            self.outside.route(ip, &self.nodes[node]).unwrap();
        }
    }

    pub(super) fn backend(&self, name: &str) -> &Pod {
        self.backends.iter().find(|pod| pod.name() == name).unwrap()
    }

    /// Some backends as endpoints, in both families.
    pub(super) fn endpoints(&self, names: &[&str]) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        for (name, node) in BACKENDS {
            if names.contains(&name) {
                let pod = self.backend(name);
                for ip in [IpAddr::from(pod.v4()), IpAddr::from(pod.v6())] {
                    endpoints.push(Endpoint::new(ip).on(self.nodes[node].name()));
                }
            }
        }
        endpoints
    }

    /// Puts a Service with some of the backends.
    pub(super) fn put(&self, service: &Service, names: &[&str]) {
        self.put_as(service.object(), service, &self.endpoints(names));
    }

    /// Puts an object as the Service, with these endpoints.
    pub(super) fn put_as(&self, object: Value, service: &Service, endpoints: &[Endpoint]) {
        let mut objects = vec![object];
        for is_v6 in [false, true] {
            let of_family = endpoints.iter().filter(|one| one.ip().is_ipv6() == is_v6);
            let of_family: Vec<_> = of_family.cloned().collect();
            if !of_family.is_empty() {
                objects.push(service.slice_of(&of_family));
            }
        }
        self.manifests.put("web.yaml", &objects).unwrap();
    }

    pub(super) fn remove(&self) {
        self.manifests.remove("web.yaml").unwrap();
    }

    /// A port of a node, in both families.
    pub(super) fn at(&self, node: usize, port: u16) -> [SocketAddr; 2] {
        let node = &self.nodes[node];
        [(node.v4(), port).into(), (node.v6(), port).into()]
    }

    /// A port of every node, in both families.
    pub(super) fn everywhere(&self, port: u16) -> Vec<SocketAddr> {
        let numbers = 0..self.nodes.len();
        numbers.flat_map(|node| self.at(node, port)).collect()
    }

    /// The client outside, a pod of each node, and each node's host.
    pub(super) fn all_clients(&self) -> Vec<&Peer> {
        let mut all_clients: Vec<&Peer> = vec![&self.client];
        all_clients.extend(self.pods.iter().map(|pod| -> &Peer { pod }));
        all_clients.extend(self.nodes.iter().map(|node| -> &Peer { node }));
        all_clients
    }

    /// Sets the source ports of all clients from now on.
    pub(super) fn asks_from(&self, ports: &RangeInclusive<u16>) {
        self.client.asks_from(ports).unwrap();
        for pod in &self.pods {
            pod.asks_from(ports).unwrap();
        }
        for node in &self.nodes {
            node.asks_from(ports).unwrap();
        }
    }

    /// Waits until exactly these answer every client, at each address.
    pub(super) fn is_given(&self, addresses: &[SocketAddr], backends: &[&str]) {
        for to in addresses {
            for peer in self.all_clients() {
                for kind in KINDS {
                    given(peer, kind, *to, backends);
                }
            }
        }
    }

    /// Waits until every client is refused, at each address.
    pub(super) fn is_refused(&self, addresses: &[SocketAddr]) {
        for to in addresses {
            for peer in self.all_clients() {
                for kind in [KINDS[0], KINDS[1]] {
                    refuses(peer, kind, *to);
                }
            }
        }
    }
}

/// `web` as a Service of the type `NodePort`.
pub(super) fn node_port() -> Service {
    web_service().node_ports(NODE_PORT - 80)
}

/// `web` as a Service of the type `LoadBalancer`.
pub(super) fn balanced() -> Service {
    BALANCED.into_iter().fold(node_port(), Service::balanced_at)
}

/// Port 80 at the load balancer.
pub(super) fn balancer() -> [SocketAddr; 2] {
    BALANCED.map(web)
}

/// Waits until exactly these backends answer, all of them, and no question fails.
pub(super) fn given(peer: &Peer, kind: Kind, to: SocketAddr, backends: &[&str]) {
    all_answer(peer, kind, to, 8, backends);
}

/// Waits until a question is refused, by whichever call can say so.
pub(super) fn refuses(peer: &Peer, kind: Kind, to: SocketAddr) {
    let is_refusal = |failure: &Failure| failure.errno == "ECONNREFUSED";
    let mut last = None;
    let settled = wait_until(SOON, || {
        let result = peer.ask(kind, to);
        let mut right = result.as_ref().is_err_and(is_refusal);
        if !right && kind.transport == Transport::Udp {
            // Before Linux 5.18 a socket inside the cluster learns it at its second send.
            let socket = peer.socket(kind, to.is_ipv6()).unwrap();
            right = socket.connect(to).is_ok()
                && socket.send("first").is_ok()
                && socket.send("second").as_ref().is_err_and(is_refusal);
        }
        last = Some(result);
        right
    });
    let from = peer.place();
    assert!(settled, "{from}: {kind:?} to {to} is not refused: {last:?}");
}

/// Waits until a question is lost without an answer of any sort.
pub(super) fn loses(peer: &Peer, kind: Kind, to: SocketAddr) {
    let mut last = None;
    let settled = wait_until(SOON, || {
        let result = peer.ask(kind, to);
        let right = matches!(&result, Err(failure) if failure.is_time_out());
        last = Some(result);
        right
    });
    let from = peer.place();
    assert!(settled, "{from}: {kind:?} to {to} is not lost: {last:?}");
}
